"""What the journal says of an operation in words: why it failed, and what is to be said of it although it is done."""

from __future__ import annotations

import re

from stillframe.domain.errors import ErrorCase, StillframeError

NOT_UNDONE = " and could not be undone"
UNDONE_LATER = " and is undone as soon as the database takes it"
_FAILED = re.compile(rf"\w+ failed \((.*?)\)(?:{NOT_UNDONE}|{UNDONE_LATER}): .*", re.DOTALL)
_DONE_BUT = "done, but: "


def describe(error: BaseException) -> str:
    """One line for a row, which tasks show to clients: ours speak for themselves, of others only the type is named.

    What a foreign error says may repeat anything, a plan's secrets included: that is for the log.
    """
    return (
        error.desc or str(error) if isinstance(error, StillframeError) else f"internal error ({type(error).__name__})"
    )


def describe_in_full(error: BaseException) -> str:
    """``describe``, behind what the error's case says: a refusal's own words may be no more than what it is about."""
    if not isinstance(error, StillframeError):
        return describe(error)
    return f"{error.case.value.message} ({error.desc})" if error.desc else error.case.value.message


def case_in(words: str) -> ErrorCase | None:
    """The case of an error that ``describe_in_full`` wrote; None of other words, which do not say it."""
    said = (case for case in ErrorCase if words == case.value.message or words.startswith(f"{case.value.message} ("))
    return next(said, None)


def first_cause(error: BaseException) -> str:
    """What went wrong at first: an undo that is tried again and again does not wrap it each time."""
    words = describe(error)
    while (wrapped := _FAILED.fullmatch(words)) is not None:
        words = wrapped[1]
    return words


def story(error: BaseException) -> BaseException | None:
    """What the log gets beside the line: all of an error that is not ours."""
    return None if isinstance(error, StillframeError) else error


# --- remarks: between the step that finds out and the last one the service may die, and the task must not say less for it


def with_remark(words: str, remark: str) -> str:
    """The words of an operation that is not over yet, from which ``remark_in`` gets the remark back."""
    return "; ".join(part for part in (words, f"{_DONE_BUT}{remark}" if remark else "") if part)


def remark_in(words: str) -> str:
    """The remark that the operation will be done with; "" when there is none."""
    return words.partition(_DONE_BUT)[2]
