"""What is said to people, in English and Chinese; which one the reader reads."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

_VARIABLES = ("LC_ALL", "LC_MESSAGES", "LANG")


class Words(NamedTuple):
    """The same in both languages."""

    en: str
    cn: str

    def said(self) -> str:
        return self.cn if reads_chinese() else self.en


def reads_chinese(environment: Mapping[str, str] | None = None) -> bool:
    """The first of LC_ALL, LC_MESSAGES and LANG that is set begins with ``zh``, as for every other program."""
    known = os.environ if environment is None else environment
    return next((known[name] for name in _VARIABLES if known.get(name)), "").lower().startswith("zh")
