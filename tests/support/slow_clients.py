"""A program that holds slow connections to a service, as many as it is told, and opens each anew when it is cut off.

    python slow_clients.py PORT

reads from its input a key, because no command line holds one, and how many of each kind, as JSON:
``{"key": "sfk_…", "headers": n, "body": n, "reading": n}``; says ``holding`` when all
have been connected once; goes on until its input ends, and then tells what it has seen, as JSON.
"""

from __future__ import annotations

import errno
import heapq
import json
import selectors
import socket
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

PAUSE_S = 3.0  # between two bytes of one connection
NEW_PER_S = 500  # connections; more would be a flood, which is another thing than slow clients
PIPELINED = 100  # answers that a client asks for and never reads
LINUX_IP_BIND_ADDRESS_NO_PORT = 24


@dataclass
class Slow:
    """One place: a connection of a kind, and the next one when it is cut off."""

    number: int
    kind: str
    first: bytes
    dribble: bytes
    said: int = 0  # how often; 0: not connected yet
    socket: socket.socket = field(default_factory=socket.socket)


class SlowClients:
    def __init__(self, port: int, key: str, counts: dict[str, int]) -> None:
        self._port = port
        get = "GET /openapi.json HTTP/1.1\r\nHost: service\r\n"
        post = "POST /v1/compute/vsd/snapshot/create HTTP/1.1\r\nHost: service\r\nContent-Type: application/json\r\n"
        says = {
            "headers": (get, "X-Slow: " + "s" * 10_000),
            "body": (f"{post}ApiKey: {key}\r\nContent-Length: 10000\r\n\r\n", "{" + " " * 9_999),
            # it goes on asking, and learns from that when it is cut off
            "reading": (f"{get}\r\n" * PIPELINED, "G" * 10_000),
        }
        kinds = [kind for kind, count in counts.items() for _ in range(count)]
        self._unborn = [Slow(n, kind, *(part.encode() for part in says[kind])) for n, kind in enumerate(kinds)]
        self._expected = len(kinds)
        self._selector = selectors.DefaultSelector()
        self._due: list[tuple[float, int, Slow]] = []
        self._turn = 0
        self.counts: Counter[str] = Counter()

    def hold(self) -> None:
        """Until standard input ends."""
        self._selector.register(sys.stdin, selectors.EVENT_READ)
        is_told = False
        begun, made = time.monotonic(), 0
        while True:
            now = int((time.monotonic() - begun) * NEW_PER_S) - made
            for slow in self._unborn[:now]:
                self._connect(slow)
            made += now  # whoever had nobody to send makes no more of them later
            del self._unborn[:now]
            if not is_told and self.counts["connected"] >= self._expected:
                tell("holding")
                is_told = True
            for key, _ in self._selector.select(0.01 if self._unborn else 0.2):
                if key.fileobj is sys.stdin:
                    return
                self._is_ready(key.data)
            while self._due and self._due[0][0] <= time.monotonic():
                self._say(heapq.heappop(self._due)[2])

    def _connect(self, slow: Slow) -> None:
        slow.socket = socket.socket()
        slow.socket.setblocking(False)
        slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        # each address of the loopback has ports of its own
        slow.socket.setsockopt(socket.SOL_IP, LINUX_IP_BIND_ADDRESS_NO_PORT, 1)
        slow.socket.bind((f"127.0.0.{2 + slow.number % 16}", 0))
        slow.said = 0
        begun = slow.socket.connect_ex(("127.0.0.1", self._port))
        if begun not in (0, errno.EINPROGRESS):
            self._lost(slow, "not connected")
            return
        self._selector.register(slow.socket, selectors.EVENT_WRITE, slow)

    def _is_ready(self, slow: Slow) -> None:
        """It is connected, answered or cut off."""
        if slow.said == 0:
            error = slow.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                self._lost(slow, "not connected")
                return
            self.counts["connected"] += 1
            self._selector.unregister(slow.socket)
            if slow.kind != "reading":  # an answer that lies there would be reported for ever
                self._selector.register(slow.socket, selectors.EVENT_READ, slow)
            self._say(slow)
        else:
            self._hear(slow)

    def _hear(self, slow: Slow) -> None:
        try:
            heard = slow.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            heard = b""
        if heard.startswith(b"HTTP/1.1 "):
            self.counts[f"answered: {slow.kind}"] += 1
        elif not heard:
            self._lost(slow, f"cut off: {slow.kind}")

    def _say(self, slow: Slow) -> None:
        if slow.socket.fileno() < 0:
            return
        said = slow.first if slow.said == 0 else slow.dribble[slow.said - 1 : slow.said]
        slow.said += 1
        try:
            slow.socket.send(said)
        except BlockingIOError:
            pass  # the server hears no more until its answers are read
        except OSError:
            self._lost(slow, f"cut off: {slow.kind}")
            return
        self._turn += 1
        heapq.heappush(self._due, (time.monotonic() + PAUSE_S, self._turn, slow))

    def _lost(self, slow: Slow, how: str) -> None:
        self.counts[how] += 1
        if slow.socket in self._selector.get_map():
            self._selector.unregister(slow.socket)
        slow.socket.close()
        self._unborn.append(Slow(slow.number, slow.kind, slow.first, slow.dribble))


def main(port: str) -> None:
    told = json.loads(sys.stdin.readline())
    clients = SlowClients(int(port), told.pop("key"), told)
    clients.hold()
    tell(json.dumps(clients.counts))


def tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
