"""The figures of a run, each under a key that says what it is of."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median


class Measurements:
    """Every figure of a run under its key."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}

    def add(self, key: str, value: float) -> None:
        self._values.setdefault(key, []).append(value)

    def has(self, *keys: str) -> bool:
        return all(key in self._values for key in keys)

    def median(self, key: str) -> float:
        return median(self._values[key])

    def text(self, key: str) -> str:
        """Median, smallest and largest; a dash for what was not measured."""
        values = self._values.get(key)
        if not values:
            return "-"
        if len(values) == 1:
            return figure(values[0])
        return f"{figure(median(values))} ({figure(min(values))} to {figure(max(values))})"


def figure(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of them that at least this share of them does not exceed.

    Raises:
        ValueError: there are none.
    """
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]
