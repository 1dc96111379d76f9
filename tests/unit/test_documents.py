"""Which documents are run, which of their commands are not and why, and how what they print is compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.documents import Command, blocks_of

ROOT = Path(__file__).parents[2]
# what integration/test_documents.py runs, and how many of its blocks a test cannot run: each says why
UNRUN = {
    "README.md": 1,
    "docs/tutorial.md": 0,
    "docs/howto/adopt.md": 0,
    "docs/howto/console.md": 0,
    "docs/howto/install.md": 6,
    "docs/howto/restore.md": 0,
    "docs/howto/shared-storage.md": 0,
    "docs/howto/tenants.md": 0,
    "docs/howto/tls.md": 0,
    "docs/howto/watch.md": 1,
}
# its blocks are those of the English one, which are run
TRANSLATED = {"docs/zh/tutorial.md": "docs/tutorial.md"}


def text_of(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


@pytest.mark.parametrize("name", UNRUN)
def test_every_block_is_run_or_says_why_not(name: str) -> None:
    blocks = blocks_of(text_of(name))
    assert len([block for block in blocks if block.unrun]) == UNRUN[name]
    assert [block for block in blocks if not block.unrun]


def test_no_document_with_commands_is_forgotten() -> None:
    documents = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    with_commands = {str(path.relative_to(ROOT)) for path in documents if "```console" in path.read_text("utf-8")}
    assert with_commands == {*UNRUN, *TRANSLATED}


@pytest.mark.parametrize(("name", "original"), TRANSLATED.items())
def test_a_translation_has_the_commands_of_the_original(name: str, original: str) -> None:
    assert blocks_of(text_of(name)) == blocks_of(text_of(original))


# --- how they are read


def test_commands_and_what_they_print() -> None:
    (block,) = blocks_of("```console\n$ one\nfirst\n\nsecond\n\n$ two \\\n>   more\n$ three  # exit code 4\n```\n")
    one, two, three = block.commands
    assert (one.text, one.shown, one.exit_code) == ("one", ("first", "", "second"), 0)
    assert (two.text, two.shown) == ("two \\\n  more", ())
    assert three.exit_code == 4


def test_notes_belong_to_the_next_block() -> None:
    text = "<!-- not run: no ground -->\n\n```console\n$ one\n```\n\n<!-- other terminal -->\n```console\n$ two\n```\n"
    first, second = blocks_of(text)
    assert (first.unrun, first.aside) == ("no ground", False)
    assert (second.unrun, second.aside) == ("", True)


@pytest.mark.parametrize(
    "text",
    [
        "```console\nno command\n```\n",
        "<!-- other terminal -->\n\n```console\n$ one\n$ two\n```\n",
        "<!-- not run: why -->\n\n```yaml\na: 1\n```\n",
    ],
)
def test_what_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(AssertionError):
        blocks_of(text)


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        (("a  b",), "a     b\n", True),  # columns are as wide as what is in them
        (("a … c",), "a b b c\n", True),
        (("a … c",), "a b\nc\n", False),
        (("…", "last"), "one\ntwo\nlast\n", True),
        (("…", "last"), "last\n", True),
        (("first", "…"), "first\n", True),
        (("first",), "first\nsecond\n", False),
        (("a.c",), "abc\n", False),
        (("a",), "rollback a vm: finishing, restore memory, 57 %\na\n", True),
        ((), "anything\n", True),
    ],
)
def test_output_is_compared(shown: tuple[str, ...], printed: str, same: bool) -> None:
    assert (Command("x", shown).mismatch(printed) == "") is same
