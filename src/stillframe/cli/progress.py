"""How long work is shown: bars on a terminal, else a line whenever there is something to tell. On stderr."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

from stillframe.cli.ending import INTERRUPTED, CliError
from stillframe.cli.plain import complain, human_bytes, human_time, printable
from stillframe.cli.words import Words
from stillframe.client.models import Task

_STEP_PERCENT = 10
_BAR_COLUMNS = 30
_NARROW_COLUMNS = 50  # below it there is room for a bar or for words, not for both


class Showing:
    """Give it to a call as ``on_progress``.

    Ctrl-C within becomes a ``CliError`` (exit 130) that says what goes on, and how to watch or cancel it.
    """

    def __init__(self) -> None:
        self._bars: Progress | None = None
        self._shown: dict[str, TaskID] = {}
        self._told: dict[str, tuple[str, str, int]] = {}
        self._last: dict[str, Task] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()
        if isinstance(error, KeyboardInterrupt):
            raise self._interrupted() from error

    def __call__(self, task: Task) -> None:
        self._last[task.uuid] = task
        if is_terminal():
            self._draw(task)
        else:
            self._tell(task)

    def _draw(self, task: Task) -> None:
        if self._bars is None:
            self._bars = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(_BAR_COLUMNS),
                TaskProgressColumn(),
                TextColumn("{task.fields[rate]}", markup=False),
                TextColumn("{task.fields[left]}", markup=False),
                console=Console(stderr=True),
            )
            self._bars.start()
        ended = task.has_ended
        shown: dict[str, Any] = {
            "completed": task.progress,
            "description": printable(f"{_what(task)}: {task.state if ended else task.step or task.state}"),
            "rate": "" if ended else rate_of(task),
            "left": "" if ended else _left(task),
        }
        if task.uuid in self._shown:
            self._bars.update(self._shown[task.uuid], **shown)
        else:
            self._shown[task.uuid] = self._bars.add_task(total=100, **shown)

    def _tell(self, task: Task) -> None:
        now = (task.state, task.step, task.progress // _STEP_PERCENT)
        if self._told.get(task.uuid) == now:
            return
        self._told[task.uuid] = now
        parts = [task.state, task.step, f"{task.progress} %", rate_of(task), _left(task)]
        complain([f"{_what(task)}: {', '.join(part for part in parts if part)}"])

    def _interrupted(self) -> CliError:
        going = [task for task in self._last.values() if not task.has_ended]
        if not going:
            words = Words(
                'stillframe: stopped waiting; what was asked goes on: see "stillframe tasks"',
                "stillframe：已停止等待；已提交的操作仍在继续：请查看“stillframe tasks”",
            )
            return CliError(INTERRUPTED, words)
        return CliError(INTERRUPTED, *(word for task in going for word in _how_to_go_on(task)))


def is_terminal() -> bool:
    """Somebody sees what is drawn, there is room for it, and it can be drawn over."""
    console = Console(stderr=True)
    is_seen = sys.stderr.isatty() and console.is_terminal and not console.is_dumb_terminal
    return is_seen and console.width >= _NARROW_COLUMNS


def rate_of(task: Task) -> str:
    return f"{human_bytes(task.rate_bytes_s)}/s" if task.rate_bytes_s else ""


def time_left_of(task: Task) -> str:
    return "" if task.time_left_s is None else human_time(task.time_left_s)


def _left(task: Task) -> str:
    left = time_left_of(task)
    return Words(f"{left} left", f"剩余 {left}").said() if left else ""


def _what(task: Task) -> str:
    return " ".join(part for part in (task.kind, task.snapshot, task.compute_name or task.compute_uuid) if part)


def _how_to_go_on(task: Task) -> list[Words]:
    cancel = f'; "stillframe cancel {task.uuid}" undoes it' if task.cancellable else "; it can no longer be cancelled"
    cancel_cn = f"；“stillframe cancel {task.uuid}”可撤销" if task.cancellable else "；已无法取消"
    what = _what(task)
    return [
        Words(
            f"stillframe: stopped waiting; it goes on ({what}, {task.progress} %)",
            f"stillframe：已停止等待；操作仍在继续（{what}，{task.progress} %）",
        ),
        Words(
            f'stillframe: "stillframe watch {task.uuid}" shows it{cancel}',
            f"stillframe：“stillframe watch {task.uuid}”可查看进度{cancel_cn}",
        ),
    ]
