"""What a witness guest says of itself on its console, and what follows from that."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path


class Witness:
    """The lines of a witness guest's console: ``T <boot id> <n>``, ``B …`` at boot, ``TORN …`` when torn."""

    def __init__(self, console: Path) -> None:
        self.console = console

    def lines(self) -> list[str]:
        text = self.console.read_bytes().decode(errors="replace")
        return [line.strip() for line in text.split("\n")[:-1]]

    def ticks(self) -> list[tuple[str, int]]:
        return [tick for line in self.lines() if (tick := _tick(line)) is not None]

    def torn(self) -> list[str]:
        return [line for line in self.lines() if "TORN" in line]

    def boots(self) -> list[str]:
        return [line for line in self.lines() if line.startswith("B ")]

    def resumption(self, mark: int) -> Resumption:
        """What the lines from number ``mark`` on say of the one rollback with memory that happened there.

        A line that was cut by either moment (QEMU killed, memory fixed) stands as one odd line at the break.
        """
        lines = self.lines()
        last = next(tick for tick in reversed([_tick(line) for line in lines[:mark]]) if tick is not None)
        ticks = [_tick(line) for line in lines[mark:]]
        at = 0
        while at < len(ticks) and ticks[at] == (last[0], last[1] + 1 + at):
            at += 1
        for odd in (0, 1):
            resumed = ticks[at + odd :]
            if resumed and resumed[0] is not None:
                boot, n = resumed[0]
                if resumed == [(boot, n + i) for i in range(len(resumed))]:
                    return Resumption(boot, n, odd == 1)
        raise AssertionError(f"not one jump, but: {lines[mark - 3 :]}")

    def jumps(self) -> list[tuple[tuple[str, int], tuple[str, int]]]:
        """Neighbouring ticks that do not follow each other: one per rollback or boot, none otherwise.

        A line that was cut where QEMU was killed can read like a tick together with the next one's beginning: it
        stands alone, following nothing and followed by nothing, and does not count.
        """
        ticks = self.ticks()
        inner = range(1, len(ticks) - 1)
        alone = {i for i in inner if not _follows(ticks[i - 1], ticks[i]) and not _follows(ticks[i], ticks[i + 1])}
        whole = [tick for number, tick in enumerate(ticks) if number not in alone]
        return [(a, b) for a, b in pairwise(whole) if not _follows(a, b)]


@dataclass(frozen=True)
class Resumption:
    """The first whole tick after a rollback with memory; ``odd``: a cut line stands before it."""

    boot: str
    n: int
    odd: bool


def _tick(line: str) -> tuple[str, int] | None:
    words = line.split()
    if len(words) == 3 and words[0] == "T" and words[2].isdigit():
        return words[1], int(words[2])
    return None


def _follows(earlier: tuple[str, int], later: tuple[str, int]) -> bool:
    return later == (earlier[0], earlier[1] + 1)
