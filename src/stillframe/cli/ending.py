"""How a command ends: its exit code, and what it says of an end that is not a good one."""

from __future__ import annotations

from dataclasses import dataclass

from stillframe.cli.words import Words
from stillframe.client import ClientError, NoServiceError, ProfileError


@dataclass(frozen=True)
class Exit:
    """``meaning`` stands in docs/cli.md: scripts build on the codes, which never change."""

    code: int
    meaning: str


DONE = Exit(0, "done")
FAILED = Exit(1, "the service said no, or it failed: its words are on stderr; also when a question is answered with no")
USAGE = Exit(2, "wrong usage, a wrong setting or profile; also what needs `--yes` where nobody can be asked")
NO_SERVICE = Exit(3, "no service runs, or it cannot be reached")
FOUND = Exit(4, "doctor found something that is still so when it ends")
OPEN = Exit(
    5,
    "not decided: the answer was lost and what was asked may have been done, or it still goes on; `stillframe tasks` tells",
)
UNWRITTEN = Exit(
    6, "the output could not be written (a full disk, a closed stdout); what was done is not undone by that"
)
INTERRUPTED = Exit(
    130, "stopped by Ctrl-C; what the service has begun goes on, and it is said how to watch or cancel it"
)
EXITS = (DONE, FAILED, USAGE, NO_SERVICE, FOUND, OPEN, UNWRITTEN, INTERRUPTED)


class CliError(Exception):
    """Something to tell the user and the exit code to end with. ``details``: as they came, in whatever language."""

    def __init__(self, end: Exit, *words: Words, details: str = "") -> None:
        super().__init__("\n".join(word.en for word in words))
        self.exit_code = end.code
        self.words = words
        self.details = details

    def lines(self) -> list[str]:
        """In the reader's language."""
        return [*(word.said() for word in self.words), *([self.details] if self.details else [])]


def ended_by(error: ClientError) -> CliError:
    return CliError(_exit_of(error), Words(error.message, error.message_cn), details=error.desc)


def _exit_of(error: ClientError) -> Exit:
    if error.is_open:
        return OPEN
    if isinstance(error, NoServiceError):
        return NO_SERVICE
    return USAGE if isinstance(error, ProfileError) else FAILED
