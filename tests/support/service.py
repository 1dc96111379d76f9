"""A real service in a process of its own, on a private state directory, spoken to over HTTP.

Everything it starts ends with it: the service, its guests' QEMU processes (by the pids that libvirt noted), its files.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, ClassVar

import httpx

from support.told import secrets_in_logs
from support.witness import Witness

STILLFRAME = str(Path(sys.prefix) / "bin" / "stillframe")
SNAPSHOT = "/v1/compute/vsd/snapshot"
_LAST_WORDS_CHARS = 12_000


class CallFailedError(AssertionError):
    """The envelope said no; ``scode`` and ``answer`` tell how."""

    def __init__(self, path: str, answer: dict[str, Any]) -> None:
        super().__init__(f"{path}: {json.dumps(answer, ensure_ascii=False)}")
        self.scode = answer["scode"]
        self.answer = answer


class AdminKey(httpx.Auth):
    """The key that the service wrote into its state directory; nothing before there is one."""

    def __init__(self, state: Path) -> None:
        self._file = state / "admin.key"

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if "ApiKey" not in request.headers and self._file.exists():
            request.headers["ApiKey"] = self._file.read_text().strip()
        yield request


class Service:
    """Start, stop, kill and call one service. ``state`` lies in /tmp: QEMU's sockets need a short path."""

    made: ClassVar[list[Path]] = []
    """The state directories of every service of this process, so that a suite can prove that none is left."""
    alive: ClassVar[list[Service]] = []
    """Those that were made and not destroyed."""

    def __init__(self, connect: str = "", **settings: str) -> None:
        self.state = Path(tempfile.mkdtemp(prefix="sf-", dir="/tmp"))
        self.made.append(self.state)
        self.alive.append(self)
        self.prefix: list[str] = []  # what stands before the command: it may give up rights (unprivileged.py)
        self.connect = connect or f"qemu:///embed?root={self.state / 'libvirt'}"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_path = self.state / "service.log"
        # a suite asks faster than a tenant's key may, unless it wants to be held back
        settings = {"requests_per_s": "0", **settings}
        self._environment = {**os.environ, **{f"STILLFRAME_{k.upper()}": v for k, v in settings.items()}}
        self._process: subprocess.Popen[bytes] | None = None
        self.http = self.client()
        self.on_answer: Callable[[str, httpx.Response], None] | None = None

    def client(self, **options: Any) -> httpx.Client:
        """A client that brings the administrator's key, as it is at each request."""
        return httpx.Client(base_url=self.url, timeout=300, auth=AdminKey(self.state), **options)

    # --- life -----------------------------------------------------------------------------------------------------

    def start(self) -> Service:
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *self.prefix,
                    *(STILLFRAME, "serve", "--listen", f"127.0.0.1:{self.port}"),
                    *("--state", str(self.state), "--connect", self.connect),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )
        eventually(self._is_up, "the service answers", timeout_s=60)
        return self

    def _is_up(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"the service ended: {self.log_path.read_text(errors='replace')[-4000:]}")
        try:
            return bool(json.loads((self.state / "service.json").read_text())["pid"] == self._process.pid)
        except (FileNotFoundError, ValueError):
            return False  # not there yet; one that a killed service left has another pid

    def ensure_started(self) -> None:
        """It runs, also after a test that killed or stopped it."""
        if self._process is None or self._process.poll() is not None:
            self.start()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def terminate(self) -> int:
        """SIGTERM; returns the exit code when it has ended by itself."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(timeout=60)

    def configure(self, **settings: str) -> None:
        """What the next start is to have set otherwise."""
        self._environment |= {f"STILLFRAME_{name.upper()}": value for name, value in settings.items()}

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = None

    def destroy(self) -> None:
        """Stop everything and remove every file, also after a failed test."""
        with contextlib.suppress(ValueError):
            self.alive.remove(self)
        self.http.close()
        self.stop()
        libvirt = self.state / "libvirt"
        # guests, and what a killed libvirt was asking what it can do
        for pid_file in (*(libvirt / "run" / "qemu").glob("*.pid"), *(libvirt / "lib" / "qemu").glob("qmp-*/qmp.pid")):
            with contextlib.suppress(OSError, ValueError):
                end_process(int(pid_file.read_text()))
        told = secrets_in_logs(self.state)
        shutil.rmtree(self.state, ignore_errors=True)
        assert not told, f"secrets in {self.log_path}: {told}"

    def last_words(self) -> str:
        """The end of its log and, when it runs, where each of its threads is."""
        with contextlib.suppress(AssertionError, OSError):
            if self._is_up():
                os.kill(self.pid, signal.SIGUSR1)
                time.sleep(0.3)  # it answers into its log, and tells nobody when
        try:
            return self.log_path.read_text(errors="replace")[-_LAST_WORDS_CHARS:]
        except OSError as error:
            return str(error)

    # --- calls ----------------------------------------------------------------------------------------------------

    def raw(self, method: str, path: str, **kwargs: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.response(method, path, **kwargs).json()
        return answer

    def response(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        """The whole response; ``on_answer`` has seen it when it is an envelope."""
        response = self.http.request(method, path, **kwargs)
        if self.on_answer is not None and "json" in response.headers.get("content-type", ""):
            self.on_answer(method, response)
        return response

    def get(self, path: str, **params: Any) -> Any:
        answer = self.raw("GET", path, params=params)
        if answer["scode"] != 0:
            raise CallFailedError(path, answer)
        return answer["data"]

    def post(self, path: str, **body: Any) -> Any:
        answer = self.raw("POST", path, json=body)
        if answer["scode"] != 0:
            raise CallFailedError(path, answer)
        return answer["data"]

    def cli(self, *arguments: str) -> str:
        done = subprocess.run(
            [STILLFRAME, *arguments, "--state", str(self.state)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise AssertionError(f"{arguments}: {done.stderr}")
        return done.stdout.strip()

    def guest(self, name: str, **spec: int | bool) -> Vm:
        """A witness guest that ticks."""
        uuid = self.post("/v1/stillframe/guest/create", name=name, **spec)["uuid"]
        console = Path(self.get("/v1/stillframe/guest/console", name=name)["path"])
        vm = Vm(self, uuid, name, console)
        vm.await_ticks(20)
        return vm


class Vm:
    """One VM of the service, with the nine calls bound to it."""

    def __init__(self, service: Service, uuid: str, name: str, console: Path | None = None) -> None:
        self.service = service
        self.uuid = uuid
        self.name = name
        self.console = console

    def _get(self, call: str, **params: Any) -> Any:
        return self.service.get(f"{SNAPSHOT}/{call}", cluster_uuid="", compute_uuid=self.uuid, **params)

    def post(self, path: str, **body: Any) -> Any:
        return self.service.post(path, cluster_uuid="", compute_uuid=self.uuid, **body)

    def list(self, **params: Any) -> Any:
        return self._get("list", **params)

    def names(self) -> list[str]:
        return [row["name"] for row in self.list(filter_name="")["list"]]

    def get(self, name: str) -> Any:
        return self._get("get", name=name)

    def head(self) -> Any:
        return self._get("head")

    def tree(self) -> Any:
        return self._get("tree")["tree"]

    def create(self, name: str, *, memory: bool = False, description: str = "", wait: bool = True) -> Any:
        self.post(f"{SNAPSHOT}/create", name=name, description=description, domain_memory=memory)
        if memory and wait:
            self.await_memory(name)
        return self.get(name)

    def await_settled(self, name: str) -> None:
        """Its memory is saved, or given up."""

        def settled() -> bool:
            return self.get(name)["attr"]["status"] in ("available", "failed")

        eventually(settled, f"memory of {name} is saved or given up", timeout_s=120)

    def await_memory(self, name: str) -> Any:
        self.await_settled(name)
        snapshot = self.get(name)
        assert snapshot["attr"]["status"] == "available", snapshot["attr"]
        return snapshot

    def rollback(self, name: str, *, memory: bool = False) -> Any:
        return self.post(f"{SNAPSHOT}/rollback", name=name, domain_memory=memory)

    def delete(self, name: str) -> Any:
        return self.post(f"{SNAPSHOT}/delete", name=name)

    def modify(self, name: str, **body: Any) -> Any:
        return self.post(f"{SNAPSHOT}/modify", name=name, **body)

    def inspect(self) -> Any:
        return self.service.get("/v1/compute/inspect", cluster_uuid="", compute_uuid=self.uuid)

    def state(self) -> str:
        state: str = self.inspect()["state"]
        return state

    def disk_path(self, target: str = "vda") -> str:
        """The file that the disk writes to now."""
        for disk in self.inspect()["disks"]:
            if disk["disk_target_device"] == target:
                source = disk["disk_vsd_source"]
                return f"{source['pool_name']}/{source['volume_name']}"
        raise AssertionError(f"no disk {target}")

    def start(self) -> None:
        self.post("/v1/compute/start")

    def shutoff(self) -> None:
        self.post("/v1/compute/shutoff")

    # --- the witness ------------------------------------------------------------------------------------------------

    def witness(self) -> Witness:
        assert self.console is not None
        return Witness(self.console)

    def await_ticks(self, count: int, timeout_s: float = 90) -> None:
        """Return when the witness has printed this many more ticks."""
        witness = self.witness()
        before = len(witness.ticks())
        try:
            eventually(
                lambda: len(witness.ticks()) >= before + count, f"{self.name} ticks {count} times", timeout_s=timeout_s
            )
        except AssertionError as error:
            came = len(witness.ticks()) - before
            raise AssertionError(f"{error}; {came} came; its console ends with {witness.lines()[-20:]}") from None


def eventually(condition: Callable[[], bool], what: str, timeout_s: float = 30, poll_s: float = 0.05) -> None:
    """Wait for a state that must come; the limit only ends a test that would hang."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"never came: {what}")
        time.sleep(poll_s)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def end_process(pid: int) -> None:
    """SIGKILL a process that we started, and wait until it is gone or a zombie with no thread left, which holds no file."""
    os.kill(pid, signal.SIGKILL)
    process = Path(f"/proc/{pid}")

    def gone() -> bool:
        try:
            is_zombie = (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
            return is_zombie and len(list((process / "task").iterdir())) <= 1
        except OSError:
            return True

    eventually(gone, f"process {pid} ends", timeout_s=10)


@contextlib.contextmanager
def running_service(connect: str = "", **settings: str) -> Iterator[Service]:
    service = Service(connect, **settings)
    try:
        yield service.start()
    finally:
        service.destroy()
