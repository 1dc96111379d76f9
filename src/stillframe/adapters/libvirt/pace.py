"""How fast a merge may copy while a guest writes to the same storage: a pure decision, from what the guest itself feels.

The guest's own writes are watched. As long as they take about as long as before the merge it goes faster, step by step;
when they take twice as long it goes slower at once; unless that is still less than any guest would notice, because beside the fastest
storage everything is many times slower than nothing. A guest that does not write lets it go as fast as it can. What is usual
is learned while the merge all but stands still: before it begins, when a guest begins to write in its middle, and when even
the lowest speed is not low enough, because then the guest may do something else than before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

_MIB = 1 << 20
_TOO_SLOW = 2.0  # times what a write took before, or would take on a storage as fast as
_UNNOTICED_NS = 500_000
_FREE, _FASTER = 1.5, 1.25
_UNFELT, _MUCH_FASTER = 1.25, 2
_SLOWER = 0.5
_HUSHED = 64 << 10  # bytes per second
_LEARNED_FROM = 20  # writes and flushes, or
_LEARNED_IN = 3  # looks
_STRAINED_FOR = 15  # looks


@dataclass(frozen=True)
class Bounds:
    """Bytes per second. A merge never stops for long: it would never end. ``hushed``: while something is learned."""

    hushed: int
    floor: int
    ceiling: int


def bounds(bytes_per_s: int) -> Bounds:
    """``bytes_per_s``: how fast a merge may be at most; 0: as fast as it goes."""
    ceiling = bytes_per_s or 4096 * _MIB
    return Bounds(min(_HUSHED, ceiling), min(8 * _MIB, ceiling), ceiling)


@dataclass(frozen=True)
class Activity:
    """How many writes and flushes of a guest ended in a while, and how long they took together."""

    writes: int = 0
    write_ns: int = 0
    flushes: int = 0
    flush_ns: int = 0

    @property
    def operations(self) -> int:
        return self.writes + self.flushes

    def __add__(self, other: Activity) -> Activity:
        return Activity(
            self.writes + other.writes,
            self.write_ns + other.write_ns,
            self.flushes + other.flushes,
            self.flush_ns + other.flush_ns,
        )

    def since(self, earlier: Activity) -> Activity:
        """What there was between two looks at counters that only grow."""
        return Activity(
            self.writes - earlier.writes,
            self.write_ns - earlier.write_ns,
            self.flushes - earlier.flushes,
            self.flush_ns - earlier.flush_ns,
        )

    def times_slower(self, usual: Activity) -> float | None:
        """How many times as long as usual, or as what nobody would notice, the kind took that suffers more; None where nothing
        can be compared.
        """
        kinds = (
            (self.writes, self.write_ns, usual.writes, usual.write_ns),
            (self.flushes, self.flush_ns, usual.flushes, usual.flush_ns),
        )
        return max(
            (ns / n / max(of_ns / of_n, _UNNOTICED_NS) for n, ns, of_n, of_ns in kinds if n and of_n and of_ns),
            default=None,
        )


@dataclass(frozen=True)
class Pace:
    """The speed of a merge in bytes per second, and what it is judged by.

    ``usual``: what the guest's writes are without the merge; None: not known. ``learned``: what was seen of it so far; None:
    it is not being learned. ``looks``: for how many it has been learned, or has the lowest speed not been low enough.
    """

    bytes_per_s: int
    usual: Activity | None
    learned: Activity | None = None
    looks: int = 0


def first_pace(before: Activity, limits: Bounds) -> Pace:
    """The speed to begin with, by what the guest did just before."""
    if not before.operations:
        return Pace(limits.ceiling, None)
    return Pace(min(8 * limits.floor, limits.ceiling), before)


def next_pace(pace: Pace, now: Activity, copied_per_s: int, limits: Bounds) -> Pace:
    """The speed from now on. ``now``: what the guest did since the last look; ``copied_per_s``: how fast the merge was."""
    if not now.operations:
        return Pace(limits.ceiling, pace.usual)
    if pace.learned is not None:
        return _learn(pace, pace.learned + now, limits)
    if pace.usual is None:
        return _hush(pace, limits)
    times = now.times_slower(pace.usual)
    if times is None:
        return pace
    if times > _TOO_SLOW:
        return _slow_down(pace, copied_per_s, limits)
    faster = _MUCH_FASTER if times < _UNFELT else _FASTER if times < _FREE else 1
    return Pace(min(limits.ceiling, int(pace.bytes_per_s * faster)), pace.usual)


def _slow_down(pace: Pace, copied_per_s: int, limits: Bounds) -> Pace:
    if pace.bytes_per_s > limits.floor:
        # from where it is, not from where it might be: the storage may hold it back already
        real = min(pace.bytes_per_s, max(copied_per_s, limits.floor))
        return Pace(max(limits.floor, int(real * _SLOWER)), pace.usual)
    if pace.looks + 1 < _STRAINED_FOR:
        return replace(pace, looks=pace.looks + 1)
    return _hush(pace, limits)


def _hush(pace: Pace, limits: Bounds) -> Pace:
    """What was seen until now was seen beside the merge."""
    return Pace(limits.hushed, pace.usual, Activity())


def _learn(pace: Pace, seen: Activity, limits: Bounds) -> Pace:
    if seen.operations < _LEARNED_FROM and pace.looks + 1 < _LEARNED_IN:
        return replace(pace, learned=seen, looks=pace.looks + 1)
    return Pace(limits.floor, seen)
