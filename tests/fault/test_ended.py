"""Whatever starts daemons and guests ends them when it is told to end, by whichever signal."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.ground import process_is_alive
from support.service import end_process, eventually

pytestmark = pytest.mark.guest

ROOT = Path(__file__).parents[2]
STILL = "tests/stands_still.py"
# the suite's own lanes would first collect the whole suite, each for itself
FOUR_LANES = f"""import sys
sys.path.insert(0, "scripts")
import lanes
sys.exit(lanes.run(dict.fromkeys("abcd", ["{STILL}"]), ["-q", "-p", "no:cacheprovider"]))
"""
# the program, and how many processes of which kind it has when it is told to end
PROGRAMS = {
    "pytest": (("-m", "pytest", "-q", "-p", "no:cacheprovider", STILL), "qemu-system", 1),
    "lanes": (("-c", FOUR_LANES), "qemu-system", 4),
    "fault": (("tests/fault/run.py", "--only", "create"), "qemu-system", 1),
    "soak": (("scripts/soak.py", "--minutes", "5"), "libvirtd", 1),
    "demo": (("scripts/demo.py",), "qemu-system", 1),
    "bench": (("benchmarks/bench.py", "--quick"), "qemu-system", 1),
    "recovery": (("benchmarks/recovery.py", "--vms", "1"), "qemu-system", 1),
}
_HEARING = ("env", "--default-signal=HUP,INT,TERM")  # whatever the suite's own starter wants ignored
_OUR_DIRECTORY = re.compile(r"/tmp/(?:sf|sfd|stillframe)-\w+")  # noqa: S108 -- read, not made


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("name", "number"),
    [("pytest", signal.SIGINT), ("pytest", signal.SIGHUP), *((name, signal.SIGTERM) for name in PROGRAMS)],
)
def test_nothing_is_left(tmp_path: Path, name: str, number: signal.Signals) -> None:
    words, kind, count = PROGRAMS[name]
    told = tmp_path / "told"
    family: dict[int, str] = {}
    with told.open("wb") as output:
        program = subprocess.Popen(
            [*_HEARING, sys.executable, *words],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        eventually(lambda: stands(program, kind, count), f"{name} has {count} {kind}", timeout_s=150)
        family.update(descendants(program.pid))
        directories = {Path(found) for line in family.values() for found in _OUR_DIRECTORY.findall(line)}
        assert directories
        program.send_signal(number)
        assert program.wait(240) != 0, "it has not done what it was to do"
        assert {pid: line for pid, line in family.items() if process_is_alive(pid)} == {}, told.read_text()[-3000:]
        assert [directory for directory in directories if directory.exists()] == [], told.read_text()[-3000:]
    finally:
        # where it fails, the suite must not leave them either
        for pid in (program.pid, *family):
            if process_is_alive(pid):
                end_process(pid)
        program.wait()


def stands(program: subprocess.Popen[bytes], kind: str, count: int) -> bool:
    assert program.poll() is None, "it ended by itself"
    lines = [line for _pid, line in descendants(program.pid) if kind in line.partition(" ")[0]]
    # libvirt also starts a QEMU without a guest, to ask it what it can do
    return sum(kind != "qemu-system" or "guest=" in line for line in lines) >= count


def descendants(ancestor: int) -> Iterator[tuple[int, str]]:
    """(pid, command line) of all of them. A guest is one as well: who started its daemon waits for it."""
    children: dict[int, list[int]] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it ended while we looked
        children.setdefault(parent, []).append(int(process.name))
    rest = [ancestor]
    while rest:
        for pid in children.get(rest.pop(), ()):
            rest.append(pid)
            try:
                yield pid, Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
