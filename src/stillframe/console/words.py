"""Sizes and ages as people say them, in English and Chinese."""

from __future__ import annotations

from typing import Literal

Language = Literal["en", "zh"]

_KIB = 1024
_AGES = (
    (86400 * 365, "y", "年"),
    (86400 * 30, "mo", "个月"),
    (86400, "d", "天"),
    (3600, "h", "小时"),
    (60, "min", "分钟"),
)


def size(count: int) -> str:
    """1536 as "1.5 KiB"; the same in both languages."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if round(value, 1) < _KIB or unit == "TiB":
            break
        value /= _KIB
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"


def age(seconds: float, language: Language) -> str:
    """How long ago, by its largest unit; what is less than a minute old, or from a clock ahead, is new."""
    for length, short, chinese in _AGES:
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {short} ago" if language == "en" else f"{count} {chinese}前"
    return "just now" if language == "en" else "刚刚"
