"""A service that can be struck at any moment of an operation, and starts again in a tenth of a second."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from support.service import Service, eventually

_STRIKER = Path(__file__).with_name("striker.py")


@dataclass(frozen=True)
class At:
    """A moment: see ``stillframe.operations.moments``."""

    kind: str
    step: str
    phase: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.step or 'as a whole'}, {self.phase}"


@dataclass(frozen=True)
class Hold:
    """Operations that stand still, each as long as its flag is there."""

    flags: dict[At, Path]

    def wait(self, *moments: At) -> None:
        """Return when an operation stands at each of them; no moments means all."""
        for at in moments or self.flags:
            eventually(self.flags[at].exists, f"held at {at}", timeout_s=120, poll_s=0.005)

    def release(self) -> None:
        for flag in self.flags.values():
            flag.unlink(missing_ok=True)


class Striker:
    """The process that forks services (striker.py)."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(_STRIKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the striker has ended"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """Every service that it started ends with it."""
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()
        self._process.wait(30)


class StruckService(Service):
    """A ``Service`` whose process is forked by a striker."""

    def __init__(self, striker: Striker, connect: str = "", **settings: str) -> None:
        super().__init__(connect)
        self._striker = striker
        self._settings = settings
        self._struck_pid: int | None = None
        self._numbers = 0
        self._strikes = self.state / "strikes.json"
        self._moments = self.state / "strikes.json.moments"

    # --- striking -------------------------------------------------------------------------------------------------

    def strike(self, *, kill: At | None = None, fail: tuple[At, ...] = (), always: tuple[At, ...] = ()) -> None:
        """From now on: die at ``kill``; fail once at each of ``fail``, at every time at ``always``."""
        self._numbers += 1
        number = {"number": self._numbers}  # what was struck once before may be struck once again
        strikes = [{**asdict(at), **number, "act": "fail", "once": True} for at in fail]
        strikes += [{**asdict(at), **number, "act": "fail", "once": False} for at in always]
        if kill is not None:
            strikes.append({**asdict(kill), **number, "act": "kill", "once": True})
        self._write(strikes)

    def _write(self, strikes: list[dict[str, Any]]) -> None:
        fresh = self._strikes.with_suffix(".new")
        fresh.write_text(json.dumps(strikes))
        fresh.replace(self._strikes)

    @contextmanager
    def held(self, *moments: At, every: bool = False) -> Iterator[Hold]:
        """Inside, the first operation that comes to one of these moments stands still there until the block ends.

        ``every``: not the first alone, but each that comes.

        Nothing else is struck meanwhile.
        """
        hold = Hold({at: self.state / f"held-{uuid.uuid4()}" for at in moments})
        self._write(
            [{**asdict(at), "act": "hold", "once": not every, "flag": str(flag)} for at, flag in hold.flags.items()]
        )
        try:
            yield hold
        finally:
            self.spare()
            hold.release()

    def step_clock(self, seconds: float) -> None:
        """The service's wall clock is off by this much from now on, also after its next start."""
        (self.state / "strikes.json.clock").write_text(str(seconds))

    def spare(self) -> None:
        self._strikes.unlink(missing_ok=True)

    def moments(self) -> list[At]:
        """Every moment so far, of every start."""
        if not self._moments.exists():
            return []
        return [At(*line.split("|")) for line in self._moments.read_text().splitlines()]

    def forget_moments(self) -> None:
        """The file stays the one that a running service writes to."""
        if self._moments.exists():
            with self._moments.open("r+b") as file:
                file.truncate()

    # --- life -----------------------------------------------------------------------------------------------------

    def start(self) -> StruckService:
        self.fork()
        eventually(self._is_up, "the service answers", timeout_s=60, poll_s=0.01)
        return self

    def fork(self) -> None:
        """Start it without waiting until it answers; it may never do."""
        settings = {
            "state": str(self.state),
            "listen": f"127.0.0.1:{self.port}",
            "connect": self.connect,
            **self._settings,
        }
        answer = self._striker.ask(
            start={"settings": settings, "log": str(self.log_path), "strikes": str(self._strikes)}
        )
        self._struck_pid = answer["pid"]

    def _is_up(self) -> bool:
        if self.is_dead:
            raise AssertionError(f"the service ended: {self.log_path.read_text(errors='replace')[-4000:]}")
        try:
            return bool(json.loads((self.state / "service.json").read_text())["pid"] == self._struck_pid)
        except (FileNotFoundError, ValueError):
            return False

    @property
    def is_dead(self) -> bool:
        """It has ended and nobody has waited for it, or was never started."""
        if self._struck_pid is None:
            return True
        return Path(f"/proc/{self._struck_pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"

    @property
    def pid(self) -> int:
        assert self._struck_pid is not None
        return self._struck_pid

    def await_death(self) -> None:
        """Return when it has ended, by itself or by a strike."""
        eventually(lambda: self.is_dead, "the service dies", timeout_s=120, poll_s=0.01)
        self._reap()

    def kill(self) -> None:
        if not self.is_dead:
            self._signal("KILL")
        self._reap()

    def stop(self) -> None:
        if self._struck_pid is not None:
            if not self.is_dead:
                self._signal("TERM")
            self._reap()

    def ensure_started(self) -> None:
        if self.is_dead:
            self._reap()
            self.start()

    def _signal(self, name: str) -> None:
        subprocess.run(["kill", f"-{name}", str(self._struck_pid)], check=True)

    def _reap(self) -> None:
        if self._struck_pid is not None:
            self._striker.ask(wait=self._struck_pid)
            self._struck_pid = None

    # --- calls ----------------------------------------------------------------------------------------------------

    def send(self, path: str, **body: Any) -> dict[str, Any] | None:
        """The answer; None when the service died over it."""
        try:
            answer: dict[str, Any] = self.response("POST", path, json=body).json()
        except httpx.HTTPError:
            self.http.close()
            self.http = self.client()
            return None
        return answer
