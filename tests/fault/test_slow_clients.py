"""Many clients that dribble or do not read, at a running service: good clients are answered, and nothing is left of it.

``STILLFRAME_SLOW_CLIENTS=10000 STILLFRAME_SLOW_S=60`` is the full form: with the settings as they are delivered, whereas the
small form has shorter deadlines, so that they strike. The figures are printed (``pytest -s``).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from statistics import quantiles
from typing import IO, Self

import httpx
import pytest

from stillframe.domain.errors import ErrorCase
from stillframe.http.access import _THREADS as GATE_THREADS
from stillframe.http.ledger import _THREADS as LEDGER_THREADS
from support import slow_clients
from support.service import SNAPSHOT, Service, eventually, running_service

pytestmark = pytest.mark.guest

CLIENTS = int(os.environ.get("STILLFRAME_SLOW_CLIENTS", "1000"))
HOLD_S = float(os.environ.get("STILLFRAME_SLOW_S", "10"))
DELIVERED = "STILLFRAME_SLOW_CLIENTS" in os.environ
SHARES = {"headers": 50, "body": 40, "reading": 10}  # percent
PROGRAMS = 2
GOOD_CLIENTS = 4
# what stays of the first crowd; a leak would be there again with the second
RSS_TOLERANCE_BYTES = 48 << 20


@dataclass(frozen=True)
class Footprint:
    """What a process has of the machine."""

    rss_bytes: int
    threads: int
    sockets: int

    @classmethod
    def of(cls, pid: int) -> Footprint:
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return cls(int(status["VmRSS"].split()[0]) << 10, int(status["Threads"]), sum(_is_socket(pid)))


def _is_socket(pid: int) -> Iterator[bool]:
    """Of each open file."""
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            yield str(file.readlink()).startswith("socket:")


class GoodClients:
    """Some clients that ask one thing after another, on a connection for each or on one for all."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(GOOD_CLIENTS)]
        self.wrong: list[str] = []
        self.took_s: list[float] = []

    def figures(self) -> str:
        cuts = quantiles(self.took_s, n=100)
        return f"{len(self.took_s)} answers, median {cuts[49]:.3f} s, 99 % {cuts[98]:.3f} s, longest {max(self.took_s):.3f} s"

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        limits = httpx.Limits(max_keepalive_connections=number % 2)
        unknown = {"compute_uuid": "b6b0e5b9-dacd-432b-9b83-c3e89799009d", "name": "a", "description": "好" * 1000}
        with self._service.client(limits=limits) as client:
            while not self._stop.is_set():
                self._expect(0, client.build_request("GET", "/v1/compute/list"), client)
                self._expect(0, client.build_request("GET", "/v1/stillframe/version"), client)
                modify = client.build_request("POST", f"{SNAPSHOT}/modify", json=unknown)
                self._expect(ErrorCase.VM_UNKNOWN.code, modify, client)

    def _expect(self, scode: int, request: httpx.Request, client: httpx.Client) -> None:
        begun = time.monotonic()
        try:
            answer = client.send(request).json()
        except (httpx.HTTPError, ValueError) as error:
            answer = {"scode": repr(error)}
        self.took_s.append(time.monotonic() - begun)
        if answer["scode"] != scode:
            self.wrong.append(f"{request.url}: {answer}")


@contextmanager
def held(service: Service, count: int) -> Iterator[Counter[str]]:
    """So many slow connections while the context lasts; afterwards what they have seen is in the counter."""
    seen: Counter[str] = Counter()
    port = service.url.rpartition(":")[2]
    key = service.post("/v1/stillframe/key/create", role="operator", tenant="hostile")["api_key"]
    command = [sys.executable, slow_clients.__file__, port]
    each = {kind: count * percent // 100 // PROGRAMS for kind, percent in SHARES.items()}
    programs = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(PROGRAMS)
    ]
    try:
        for program in programs:
            stdin, _ = pipes(program)
            stdin.write(f"{json.dumps({'key': key, **each})}\n")
            stdin.flush()
        for program in programs:
            assert pipes(program)[1].readline() == "holding\n"
        yield seen
        for program in programs:
            pipes(program)[0].close()
            seen.update(json.loads(pipes(program)[1].readline()))
    finally:
        for program in programs:
            program.kill()
            program.wait()
            for pipe in pipes(program):
                pipe.close()


def pipes(program: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    assert program.stdin is not None
    assert program.stdout is not None
    return program.stdin, program.stdout


def watch(pid: int, seconds: float) -> Footprint:
    """The most of each that the process has in this time."""
    most = Footprint.of(pid)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.2)
        now = Footprint.of(pid)
        most = Footprint(*(max(pair) for pair in zip(astuple(most), astuple(now), strict=True)))
    return most


def test_good_clients_are_answered_while_slow_ones_hold_on_and_nothing_is_left_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONMALLOC", "malloc")  # for the service, as in the systemd unit
    hasty = {} if DELIVERED else dict.fromkeys(("header_timeout_s", "request_timeout_s", "answer_timeout_s"), "3")
    with running_service(requests_per_s="100", **hasty) as service:
        with GoodClients(service) as warming:
            time.sleep(3)
        assert warming.wrong == []
        before = Footprint.of(service.pid)
        for number in (1, 2):
            with held(service, CLIENTS) as seen, GoodClients(service) as good:
                most = watch(service.pid, HOLD_S)
            sys.stdout.write(f"round {number}: {good.figures()}; {dict(seen)}; before {before}, most {most}\n")
            assert good.wrong == []
            assert len(good.took_s) > GOOD_CLIENTS, "all were answered, and there were some"
            assert most.sockets >= before.sockets + CLIENTS // 2, "they were held"
            # slow clients' keys are proved too, and their attempts noted; neither waits for a client
            assert most.threads <= before.threads + GOOD_CLIENTS + GATE_THREADS + LEDGER_THREADS
            eventually(
                lambda: Footprint.of(service.pid).sockets <= before.sockets,
                "the connections are gone",
                timeout_s=120,
            )
            eventually(
                lambda: Footprint.of(service.pid).rss_bytes <= before.rss_bytes + RSS_TOLERANCE_BYTES,
                "the memory is given back",
                timeout_s=120,
            )
            sys.stdout.write(f"round {number}: after {Footprint.of(service.pid)}\n")
        assert service.terminate() == 0
        assert "Traceback" not in service.log_path.read_text()
