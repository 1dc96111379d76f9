"""Watching QEMU's pass over a guest's memory, so that the guest is stopped just before it ends (see forecast.py).

How far QEMU has come it tells nobody. What can be seen is how long its thread has worked: the processor time of a thread,
in /proc/<pid>/task/<tid>/schedstat, which other work on the host does not stretch as it stretches the time on the wall. Where
that cannot be read (another user's process, another pid namespace), the wall's has to do.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from stillframe.adapters.libvirt.forecast import Forecast
from stillframe.adapters.libvirt.qmp import Qmp

_THREAD_NAMES = ("bg_snapshot", "mig/snapshot")  # migration/migration.c, by version
_NAMED_WITHIN_S = 0.005
_LEAST_GAIN_S = (
    0.02  # the switch of the disks, beside which QEMU goes over a guest that stands still, takes about as long
)
_LONGEST_SLEEP_S = 0.05
_SHORTEST_SLEEP_S = 0.0003
_PATIENCE = 4.0  # times the forecast on the wall: a thread that gets no processor is not waited for longer
_PATIENCE_S = 0.1
_PROC = Path("/proc")


class Pass:
    """One pass over one guest: made before QEMU is told to begin.

    Both kinds of seconds are told apart by nobody: a host's passes are all measured in the same way.
    """

    def __init__(self, qmp: Qmp, forecast: Forecast, guest: str, pages: int) -> None:
        self._forecast = forecast
        self._guest = guest
        self.pages = pages
        self._tasks = _tasks_of(qmp)
        self._before = frozenset(_names_in(self._tasks))
        self._wanted_s = forecast.stop_after_s(guest, pages)
        self._schedstat: Path | None = None
        self._began_s = 0.0
        self._seen_s = 0.0

    @property
    def is_worth_while(self) -> bool:
        """The pass takes longer than what the guest stands still for anyway; a shorter one is part of the pause, and never late."""
        return self._wanted_s >= _LEAST_GAIN_S

    def begun(self) -> None:
        """QEMU has been told to begin, a moment ago."""
        self._began_s = time.monotonic()
        while self._schedstat is None and self._tasks is not None:
            for name in _names_in(self._tasks):
                if name not in self._before and _read(self._tasks / name / "comm").strip() in _THREAD_NAMES:
                    self._schedstat = self._tasks / name / "schedstat"
            if time.monotonic() - self._began_s > _NAMED_WITHIN_S:
                return  # over already, or called something else

    def await_stop_time(self) -> None:
        """Return when the guest is to be stopped. A pass that ends meanwhile, or stands still, is not waited for."""
        wanted_s = self._wanted_s
        given_up_s = self._began_s + wanted_s * _PATIENCE + _PATIENCE_S
        while (now_s := time.monotonic()) < given_up_s:
            worked_s = self._worked_s()
            if worked_s is None or worked_s >= wanted_s:
                return
            left_s = min(wanted_s - worked_s, given_up_s - now_s)
            time.sleep(min(max(left_s / 2, _SHORTEST_SLEEP_S), _LONGEST_SLEEP_S))

    def goes_on(self) -> None:
        """QEMU has just said that it is not through yet."""
        self._seen_s = self._worked_s() or self._seen_s

    def over(self, on_wall_s: float, *, in_time: bool) -> None:
        """The pass is over; ``on_wall_s``: how long all of QEMU's preparation took. ``in_time``: the guest stood still.

        One that was not watched (``begun`` was not called) took what it took on the wall.
        """
        worked_s = self._worked_s() if self._began_s else None
        took_s = self._seen_s if in_time and self._seen_s else min(worked_s or on_wall_s, on_wall_s)
        self._forecast.learn(self._guest, self.pages, took_s, in_time=in_time)

    def _worked_s(self) -> float | None:
        """None: the thread is no more."""
        if self._schedstat is None:
            return time.monotonic() - self._began_s
        words = _read(self._schedstat).split()
        return int(words[0]) / 1e9 if words else None


def _tasks_of(qmp: Qmp) -> Path | None:
    """The directory of QEMU's threads: libvirt tells no pid, but QEMU the thread of each of its CPUs."""
    for cpu in qmp.run("query-cpus-fast"):
        for line in _read(_PROC / str(cpu["thread-id"]) / "status").splitlines():
            if line.startswith("Tgid:"):
                return _PROC / line.split()[1] / "task"
    return None


def _names_in(tasks: Path | None) -> Iterator[str]:
    try:
        yield from [entry.name for entry in tasks.iterdir()] if tasks is not None else []
    except OSError:
        return  # QEMU has ended: whoever speaks to it next hears of it


def _read(path: Path) -> str:
    """Nothing, for what cannot be read: then it is done without."""
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
