"""Questions before what cannot be taken back."""

from __future__ import annotations

import sys

from stillframe.cli.ending import FAILED, INTERRUPTED, USAGE, CliError
from stillframe.cli.plain import printable
from stillframe.cli.words import Words

_YES = frozenset({"y", "yes", "是"})


def need_somebody(yes: bool) -> None:
    """Where nobody can be asked, ``--yes`` has to stand there.

    Raises:
        CliError: exit 2.
    """
    if yes or (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    raise CliError(
        USAGE,
        Words(
            "stillframe: this throws something away, and nobody can be asked here: give --yes if it is meant",
            "stillframe：该操作会丢弃数据，而此处无法询问：确认请加 --yes",
        ),
    )


def agree(yes: bool, *consequences: Words) -> None:
    """Ask, on stderr, whether these are meant; ``yes``: they are.

    Raises:
        CliError: they are not (exit 1, after Ctrl-C 130); nothing was done.
    """
    if yes:
        return
    for one in consequences:
        sys.stderr.write(printable(one.said()) + "\n")
    end, answer = FAILED, ""
    try:
        sys.stderr.write(Words("Go on? [y/N] ", "继续？[y/N] ").said())
        sys.stderr.flush()
        answer = sys.stdin.readline()
    except KeyboardInterrupt:
        end = INTERRUPTED
    if not answer.endswith("\n"):  # Ctrl-C or Ctrl-D: the question still stands on this line
        sys.stderr.write("\n")
    if answer.strip().lower() not in _YES:
        raise CliError(end, Words("stillframe: nothing was done", "stillframe：未执行任何操作"))
