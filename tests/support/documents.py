"""The commands of a document, and what it shows of them.

A fenced block ``console`` holds commands (``$ ``, continued with ``> ``), each with the lines that it prints, or with none
where the document does not show them. ``…`` stands for any text in a line, and alone for any lines; lines of progress,
which a terminal shows as a bar and which depend on how fast it goes, do not count. A command that is meant to fail says
so: ``# exit code 1``. A comment before a block says what a test cannot know:

    <!-- not run: why -->        the block is for the reader alone
    <!-- other terminal -->      the block's command runs on until the document ends
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(
    r"(?:^<!-- (?P<note>not run: (?P<why>[^\n]+)|other terminal) -->\n+)?^```(?P<kind>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_EXIT_CODE = re.compile(r"# exit code (\d+)$")
_LINK = re.compile(r"\]\(([^)\s]+)\)|<(https?://[^>\s]+)>")
_CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
_PROGRESS = re.compile(r"\w+ .*: (?:planning|running|cancelling|finishing|undoing|done)\b.*, \d+ %.*")
_RULE = re.compile("-{3,}")
_ANY = "…"
_LINES = r"(?:.*\n)*"


@dataclass(frozen=True)
class Command:
    """``shown``: the lines that the document shows; () where it shows none."""

    text: str
    shown: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        match = _EXIT_CODE.search(self.text)
        return int(match[1]) if match else 0

    def mismatch(self, printed: str) -> str:
        """Why this is not what the document shows; "" when it is."""
        if not self.shown:
            return ""
        if _pattern(self.shown).fullmatch(_plain(printed.splitlines())):
            return ""
        shown = "\n".join(self.shown)
        return f"$ {self.text}\n--- the document shows\n{shown}\n--- it prints\n{printed}"


@dataclass(frozen=True)
class Block:
    """``unrun``: why it is not run; "" when it is. ``aside``: it runs on in another terminal."""

    commands: tuple[Command, ...]
    unrun: str
    aside: bool


def blocks_of(document: str) -> list[Block]:
    """Every block of commands, in order.

    Raises:
        AssertionError: a block begins with something else than a command, or one for another terminal has several.
    """
    found = []
    for match in _FENCE.finditer(document):
        if match["kind"] != "console":
            assert match["note"] is None, f"a note before what is not run anyway: {match[0]}"
            continue
        block = Block(_commands(match["text"]), match["why"] or "", match["note"] == "other terminal")
        assert not block.aside or len(block.commands) == 1, match[0]
        found.append(block)
    return found


def _commands(text: str) -> tuple[Command, ...]:
    commands: list[Command] = []
    for line in text.rstrip("\n").split("\n"):
        if line.startswith("$ "):
            commands.append(Command(line[2:]))
            continue
        assert commands, f"output of no command: {line}"
        last = commands[-1]
        if line.startswith("> ") or line == ">":
            commands[-1] = replace(last, text=f"{last.text}\n{line[2:]}")
        elif line or last.shown:
            commands[-1] = replace(last, shown=(*last.shown, line))
    return tuple(replace(command, shown=_stripped(command.shown)) for command in commands)


def _stripped(lines: tuple[str, ...]) -> tuple[str, ...]:
    """Without the empty lines that set one command apart from the next."""
    while lines and not lines[-1]:
        lines = lines[:-1]
    return lines


def _plain(lines: list[str] | tuple[str, ...]) -> str:
    """How wide a column is depends on what stands in it."""
    words = [_RULE.sub("---", " ".join(line.split())) for line in lines]
    return "".join(f"{line}\n" for line in words if line and not _PROGRESS.fullmatch(line))


def _pattern(shown: tuple[str, ...]) -> re.Pattern[str]:
    lines = _plain(shown).splitlines()
    return re.compile("".join(_LINES if line == _ANY else f"{re.escape(line).replace(_ANY, '.*')}\n" for line in lines))


# --- links


def documents() -> list[Path]:
    """Everything that is written for readers."""
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def links_of(document: str) -> Iterator[str]:
    """Where its links and pictures point to; what stands in code is none."""
    for match in _LINK.finditer(_CODE.sub("``", document)):
        yield match[1] or match[2]


def anchors_of(document: str) -> set[str]:
    """The names of its headings, as MkDocs and code hosts make them."""
    headings = re.findall(r"^#+ +(.+)$", _CODE.sub(lambda match: match[0].strip("`"), document), re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings]
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading).strip()) for heading in plain}
