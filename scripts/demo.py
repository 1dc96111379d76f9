"""The story of `make demo`, and the playground of `make up`: a real service, a real guest, every call as curl.

Everything it starts ends with it, also after Ctrl-C or a failure; its files go, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx

STILLFRAME = Path(sys.prefix) / "bin" / "stillframe"
UP_FILE = Path(__file__).resolve().parents[1] / "build" / "up"
SNAPSHOT = "/v1/compute/vsd/snapshot"
GUEST = "witness"


class DemoFailedError(Exception):
    """The story did not go as it should."""


def say(text: str = "") -> None:
    print(text, flush=True)


def chapter(number: int, title: str) -> None:
    say(f"\n── {number}. {title} " + "─" * max(3, 84 - len(title)))


class Playground:
    """A service with its own state directory, and the witness guest in it."""

    def __init__(self, port: int, memory_mib: int, fill_mib: int) -> None:
        self.state = Path(tempfile.mkdtemp(prefix="stillframe-", dir="/tmp"))
        self.url = f"http://127.0.0.1:{port}"
        self.guest_uuid = ""
        self.console = Path()
        self._memory = ["--memory-mib", str(memory_mib), "--fill-mib", str(fill_mib)]
        self._listen = f"127.0.0.1:{port}"
        self._service: subprocess.Popen[bytes] | None = None
        self._http = httpx.Client(base_url=self.url, timeout=300)
        self.key_shown = f'-H "ApiKey: $(cat {self.state}/admin.key)"'

    def start(self) -> None:
        # the embedded driver: no daemon of the machine is touched
        connect = f"qemu:///embed?root={self.state / 'libvirt'}"
        command = [str(STILLFRAME), "serve", "--listen", self._listen, "--state", str(self.state)]
        say(f"$ stillframe serve --listen {self._listen} --state {self.state}")
        with (self.state / "service.log").open("wb") as log:
            self._service = subprocess.Popen(
                [*command, "--connect", connect],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        await_that("the service answers", self._is_up)
        self._http.headers["ApiKey"] = (self.state / "admin.key").read_text().strip()

    def _is_up(self) -> bool:
        if self._service is None or self._service.poll() is not None:
            raise DemoFailedError(
                "the service ended:\n" + (self.state / "service.log").read_text(errors="replace")[-2000:]
            )
        return (self.state / "service.json").exists()

    def create_guest(self) -> None:
        self.guest_uuid = self._cli("guest", "create", GUEST, *self._memory)
        say(self.guest_uuid)
        self.console = Path(self._cli("guest", "console", GUEST, quiet=True))
        await_that("the guest has booted and ticks", lambda: len(self.ticks()) > 20, timeout_s=90)

    def _cli(self, *arguments: str, quiet: bool = False) -> str:
        command = [str(STILLFRAME), *arguments, "--state", str(self.state)]
        if not quiet:
            say("$ " + shlex.join(["stillframe", *command[1:]]))
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise DemoFailedError(done.stderr)
        return done.stdout.strip()

    def get(self, path: str, *, quiet: bool = False, **parameters: str) -> Any:
        query = {"cluster_uuid": "", "compute_uuid": self.guest_uuid, **parameters}
        if not quiet:
            say(f"$ curl -s {self.key_shown} '{self.url}{path}?{urlencode(query)}'")
        return checked(self._http.get(path, params=query).json())

    def post(self, path: str, **body: Any) -> Any:
        body = {"cluster_uuid": "", "compute_uuid": self.guest_uuid, **body}
        text = json.dumps(body, ensure_ascii=False)
        say(f"$ curl -s {self.key_shown} {self.url}{path} -H 'Content-Type: application/json' -d {shlex.quote(text)}")
        begun = time.monotonic()
        answer = self._http.post(path, json=body).json()
        shown = {**answer, "data": "{…}"} if answer["data"] else answer
        say(f"  {json.dumps(shown, ensure_ascii=False)}   [{time.monotonic() - begun:.2f} s]")
        return checked(answer)

    def ticks(self) -> list[tuple[str, int]]:
        """(boot id, number) of every tick that the witness has printed."""
        words = [line.split() for line in self.lines()]
        return [(w[1], int(w[2])) for w in words if len(w) == 3 and w[0] == "T" and w[2].isdigit()]

    def lines(self) -> list[str]:
        return self.console.read_bytes().decode(errors="replace").split("\n")[:-1]

    def run_on(self, count: int) -> None:
        before = len(self.ticks())
        await_that(f"the guest ticks {count} times more", lambda: len(self.ticks()) >= before + count)

    def destroy(self) -> None:
        """The guest, the service, every file: gone."""
        # a second Ctrl-C may not leave half of it behind
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        self._http.close()
        if UP_FILE.exists() and str(self.state) in UP_FILE.read_text():
            UP_FILE.unlink()
        if self._service is not None and self._service.poll() is None:
            with contextlib.suppress(DemoFailedError, OSError):
                self._cli("guest", "delete", GUEST, quiet=True)
            self._service.terminate()
            try:
                self._service.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self._service.kill()
                self._service.wait()
        for pid_file in (self.state / "libvirt" / "run" / "qemu").glob("*.pid"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(pid_file.read_text()), signal.SIGKILL)
        shutil.rmtree(self.state, ignore_errors=True)


def checked(answer: dict[str, Any]) -> Any:
    if answer["scode"] != 0:
        raise DemoFailedError(f"{answer['message']} / {answer['message_cn']}: {answer['desc']}")
    return answer["data"]


def await_that(what: str, condition: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise DemoFailedError(f"this never came: {what}")
        time.sleep(0.05)


def draw_tree(tree: dict[str, Any]) -> Iterator[str]:
    def below(name: str, indent: str) -> Iterator[str]:
        children = tree["Children"].get(name, {"Children": []})["Children"]
        for number, child in enumerate(children):
            last = number == len(children) - 1
            shown = "● head (the guest as it is now)" if child == "head" else f"○ {child}"
            yield f"  {indent}{'└─' if last else '├─'} {shown}"
            yield from below(child, indent + ("   " if last else "│  "))

    yield from below("", "")


def show_tree(play: Playground) -> None:
    for line in draw_tree(play.get(f"{SNAPSHOT}/tree")["tree"]):
        say(line)


def tell(play: Playground) -> None:
    """The story, chapter by chapter; raises when anything is not as it should be."""
    chapter(1, "A service and a real guest")
    play.start()
    play.create_guest()
    say(
        "  A tiny Linux under QEMU. Its only program, the witness, drew a random boot id that lives in memory alone; it"
    )
    say("  counts, writes each count to its disk, checks the disk against its memory, and says so: T <boot id> <count>")
    say(f"  last line: T {play.ticks()[-1][0]} {play.ticks()[-1][1]}")

    chapter(2, "A snapshot of the running guest: disks, configuration, memory, screen")
    before = play.ticks()[-1]
    play.post(f"{SNAPSHOT}/create", name="running", description="记住这一刻 remember this moment", domain_memory=True)
    say("  The point in time is fixed and the guest runs on; its memory is saved behind it:")
    await_memory(play, "running")

    chapter(3, "A second snapshot, of the disks only")
    play.post(f"{SNAPSHOT}/create", name="later", description="", domain_memory=False)

    chapter(4, "The guest runs on")
    play.run_on(300)
    at = play.ticks()[-1]
    say(f"  it was at count {before[1]} before the snapshot, and is at {at[1]} now")

    chapter(5, "Roll back into the running memory")
    play.post(f"{SNAPSHOT}/rollback", name="running", domain_memory=True)
    show_resumed(play, at)

    chapter(6, "A branch: from here the guest goes another way")
    play.post(f"{SNAPSHOT}/create", name="branch", description="", domain_memory=False)
    play.run_on(50)
    play.post(f"{SNAPSHOT}/create", name="branch tip", description="", domain_memory=False)
    say("  No snapshot was lost, the newer one neither:")
    show_tree(play)

    chapter(7, "Delete a snapshot in the middle while the guest runs")
    play.post(f"{SNAPSHOT}/delete", name="branch")
    show_tree(play)
    play.run_on(50)
    torn = [line for line in play.lines() if "TORN" in line]
    if torn:
        raise DemoFailedError(f"disk and memory disagree: {torn[0]}")
    say(f"  and the witness goes on undisturbed: T {play.ticks()[-1][0]} {play.ticks()[-1][1]}, never TORN")


def await_memory(play: Playground, name: str) -> None:
    def attributes() -> dict[str, str]:
        found: dict[str, str] = play.get(f"{SNAPSHOT}/get", quiet=True, name=name)["attr"]
        return found

    await_that("the memory is saved", lambda: attributes()["status"] in ("available", "failed"), timeout_s=120)
    play.get(f"{SNAPSHOT}/get", name=name)
    found = attributes()
    if found["status"] != "available":
        raise DemoFailedError(f"memory was not saved: {found}")
    say(f"  status {found['status']}, {int(found['memory_bytes']) >> 20} MiB on disk, by {found['capture_mode']}")


def show_resumed(play: Playground, left_at: tuple[str, int]) -> None:
    """The witness's own lines prove it: one jump back, same boot id, and on with the next number."""

    def jumped() -> list[int]:
        ticks = play.ticks()
        return [i for i in range(1, len(ticks)) if ticks[i][1] != ticks[i - 1][1] + 1 or ticks[i][0] != ticks[i - 1][0]]

    await_that("the guest resumed", lambda: bool(jumped()))
    play.run_on(20)
    ticks, jumps = play.ticks(), jumped()
    say("  the witness's own lines around the rollback:")
    for boot, number in ticks[jumps[0] - 2 : jumps[0] + 3]:
        say(f"    T {boot} {number}")
    resumed_boot, resumed_at = ticks[jumps[0]]
    printed = {number for _boot, number in ticks[: jumps[0]]}
    if len(jumps) != 1 or resumed_boot != left_at[0] or resumed_at > left_at[1] or resumed_at - 1 not in printed:
        raise DemoFailedError(f"the guest did not resume where it was: {jumps}, {ticks[jumps[0] - 1 : jumps[0] + 1]}")
    if any("TORN" in line for line in play.lines()):
        raise DemoFailedError("disk and memory disagree")
    say(f"  same boot id, straight on with {resumed_at}, no TORN: it never noticed")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def write_up_file(play: Playground) -> None:
    """What another terminal reads to find the service: ``. build/up``."""
    lines = [f"export STILLFRAME_STATE={play.state}", f"export PATH={shlex.quote(str(STILLFRAME.parent))}:$PATH"]
    owner = os.environ.get("SUDO_UID", "")
    if owner:  # `make up` asked for root, so the state is root's, and so is the key in it
        lines.append(
            f'stillframe() {{ sudo env STILLFRAME_STATE="$STILLFRAME_STATE" {shlex.quote(str(STILLFRAME))} "$@"; }}'
        )
    UP_FILE.write_text("".join(f"{line}\n" for line in lines))
    if owner:
        os.chown(UP_FILE, int(owner), -1)


def keep_up(play: Playground) -> None:
    """`make up`: stay until told to stop."""
    play.start()
    play.create_guest()
    write_up_file(play)
    say(
        f"\nThe service is at {play.url}; its console opens there in a browser, with the key in {play.state}/admin.key."
    )
    say(f"The guest is {GUEST} ({play.guest_uuid}); it writes to {play.console}")
    say("In another terminal, in this directory:")
    say("  . build/up")
    say(f"  stillframe take {GUEST} first --memory")
    say(f"  stillframe tree {GUEST}")
    say("Ctrl-C ends it and removes everything.")
    signal.pause()


def main() -> int:
    up = sys.argv[1:] == ["up"]
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    memory = {"memory_mib": 128, "fill_mib": 16} if up else {"memory_mib": 512, "fill_mib": 256}
    play = Playground(int(os.environ.get("PORT", "8080")) if up else free_port(), **memory)
    try:
        if up:
            keep_up(play)
            return 0
        begun = time.monotonic()
        tell(play)
        took = time.monotonic() - begun
    except KeyboardInterrupt:
        say("\nstopped")
        return 0 if up else 130
    except DemoFailedError as error:
        say(f"\ndemo: failed: {error}")
        return 1
    finally:
        play.destroy()
    say(f"\nThe guest, the service and every file of this story are gone again ({took:.0f} s).")
    say("demo: ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
