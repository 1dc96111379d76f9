"""How bash, zsh and fish are told what can be completed. Names and descriptions are chosen by others than who types."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

COMPLETION = "_STILLFRAME_COMPLETE"
TYPED = "_TYPER_COMPLETE_ARGS"  # zsh and fish: the line up to the cursor

# zsh evaluates what it is offered, twice: once in single quotes, then in double ones. Typer's own quoting lets a backslash
# end the quotes, and reads markup in what stands beside a name. So these stand as characters that nobody quotes or reads
# until all is printed
_ZSH_QUOTED = {"\\": "\\" * 4, '"': '\\"', "'": "'\\''", "$": "\\$", "`": "\\`", ":": "\\\\:", "[": "["}
_STANDS_IN = 0xE000  # added to a character: where Unicode has room for private use

_BASH_SPECIAL = re.compile(r"([^\w@%+=:,./\-]|^~)")
_BASH_IN_DOUBLE = re.compile(r'([\\$"`])')
_BASH_BREAKS = re.compile("[:=]+")  # where bash takes an unquoted word apart, as it comes


def hidden(text: str) -> str:
    """A name or a description as Typer may have it; ``quoted_for_zsh`` and ``quoted_for_fish`` bring it back."""
    if os.environ.get(COMPLETION) not in ("complete_zsh", "complete_fish"):
        return text
    return text.translate({ord(char): chr(_STANDS_IN + ord(char)) for char in _ZSH_QUOTED})


def found(text: str) -> str:
    """What was hidden, as it is."""
    return text.translate({_STANDS_IN + ord(char): char for char in _ZSH_QUOTED})


def hidden_line(typed: str) -> str:
    """The line for Typer, which offers only what begins as the last word does: that is hidden as the offers are."""
    lexer = shlex.shlex(typed, posix=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    words: list[str] = []
    within = typed != typed.rstrip(" ") and typed.rstrip(" ").endswith("\\")
    try:
        words.extend(lexer)
    except ValueError:  # quotes that are still open
        words.append(lexer.token)
        within = True
    if typed.endswith(" ") and not within:
        return f"{shlex.join(words)} "
    return shlex.join([*words[:-1], hidden(words[-1])]) if words else ""


def quoted_for_zsh(printed: str) -> str:
    """The offers as zsh evaluates them, so that every character of a name and a description is only that."""
    return printed.translate({_STANDS_IN + ord(char): quoted for char, quoted in _ZSH_QUOTED.items()})


def quoted_for_fish(printed: str) -> str:
    """The offers as they are: fish quotes them itself."""
    return found(printed)


@dataclass(frozen=True)
class BashLine:
    """What is typed, those words together again that bash has taken apart at a colon or "=".

    ``breaks``: so many of these stand before what bash puts an offer in the place of.
    """

    words: tuple[str, ...]
    breaks: int

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> BashLine:
        split = environment.get("COMP_WORDS", "").split("\n")
        at = environment.get("COMP_CWORD", "")
        if at.isdigit():
            split = split[: int(at) + 1]
        words: list[str] = []
        breaks, behind = 0, False
        for word in split:
            breaking = _BASH_BREAKS.fullmatch(word) is not None
            if words and (behind or breaking):
                words[-1] += word
            else:
                words.append(word)
                breaks = 0
            breaks += breaking
            behind = breaking
        return cls(tuple(words), breaks)

    def environment(self) -> dict[str, str]:
        """In which Typer finds these words."""
        return {"COMP_WORDS": "\n".join(self.words), "COMP_CWORD": str(len(self.words) - 1)}

    def quoted(self, printed: str) -> str:
        """The offers, one a line, quoted as the word that is typed."""
        word = self.words[-1]
        lines = printed.split("\n")
        if word.startswith("'"):
            return "\n".join(_closed("'", line.replace("'", "'\\''")) for line in lines)
        if word.startswith('"'):
            # what history is asked for by cannot be quoted within these
            return "\n".join(_closed('"', _BASH_IN_DOUBLE.sub(r"\\\1", line).replace("!", "\"'!'\"")) for line in lines)
        # the "=" of an option is no part of what is offered for its value
        breaks = self.breaks - (word.startswith("--") and "=" in word)
        return "\n".join(_behind(breaks, _BASH_SPECIAL.sub(r"\\\1", line)) for line in lines)


def _behind(breaks: int, line: str) -> str:
    ends = [match.end() for match in _BASH_BREAKS.finditer(line)]
    return line[ends[breaks - 1] :] if 0 < breaks <= len(ends) else line


def _closed(quote: str, line: str) -> str:
    """Bash closes the quotes itself, but where the last character looks as if they were closed."""
    return line + quote if line.endswith(quote) else line
