"""Notes of starts that were cut off go; every other one stays."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stillframe.adapters.libvirt.cut_off import clear_what_was_cut_off

# as libvirt 11.3 leaves it when it is killed between its note and the QEMU
CUT_OFF = (
    "<!-- WARNING -->\n<domstatus state='paused' reason='starting up' pid='0'>"
    "<job type='none' async='start' flags='0x2' asyncStarted='1796025456175'/><domain type='qemu' id='18'/></domstatus>"
)
# it says that it is there: before, its command line may not be
UP = (sys.executable, "-c", "print('up', flush=True); input()")
HOLD = "import fcntl, sys; file = open(sys.argv[1], 'r+'); fcntl.lockf(file, fcntl.LOCK_EX); print('held', flush=True); input()"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    directory = tmp_path / "run" / "qemu"
    directory.mkdir(parents=True)
    (directory / "driver.pid").touch()
    (directory / "vm.xml").write_text(CUT_OFF)
    return directory


def clear_beside(run: Path, command: list[str], pid_file: Path, *, ends: bool) -> None:
    """With this process alive and in this file: it is ended, or goes on."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        pid_file.write_text(str(process.pid))
        clear_what_was_cut_off(run.parent.parent)
        if ends:
            assert process.wait(10) == -signal.SIGKILL
        assert process.poll() is None or ends
        process.communicate(b"\n" if not ends else b"")


def test_a_start_that_was_cut_off_is_forgotten(run: Path) -> None:
    clear_what_was_cut_off(run.parent.parent)
    assert [path.name for path in run.iterdir()] == ["driver.pid"]


@pytest.mark.parametrize(
    "text",
    [
        CUT_OFF.replace("pid='0'", "pid='27502'"),
        CUT_OFF.replace("async='start'", "async='dump'"),
        CUT_OFF.replace("domstatus", "networkstatus"),
        "<domstatus pid='0'/>",
        "no XML",
    ],
)
def test_what_may_be_of_a_guest_stays(run: Path, text: str) -> None:
    (run / "vm.xml").write_text(text)
    clear_what_was_cut_off(run.parent.parent)
    assert (run / "vm.xml").read_text() == text


@pytest.mark.parametrize(
    ("guest", "root", "ends"), [("vm", "", True), ("vm2", "", False), ("vm", "-of-another", False)]
)
def test_a_qemu_that_nobody_knows_goes_with_the_note(run: Path, guest: str, root: str, *, ends: bool) -> None:
    key = f"{run.parent.parent}{root}/lib/qemu/domain-18-vm/master-key.aes"
    command = [*UP, f"guest={guest},debug-threads=on", f'{{"file":"{key}"}}']
    clear_beside(run, command, run / "vm.pid", ends=ends)
    assert [path.name for path in run.iterdir()] == ["driver.pid"]


@pytest.mark.parametrize("text", ["999999999", "", "x"])
def test_a_pid_file_without_a_process_goes(run: Path, text: str) -> None:
    (run / "vm.pid").write_text(text)
    clear_what_was_cut_off(run.parent.parent)
    assert [path.name for path in run.iterdir()] == ["driver.pid"]


@pytest.mark.parametrize(("place", "ends"), [("", True), ("-of-another", False)])
def test_a_qemu_that_was_only_asked_what_it_can_do_goes(run: Path, place: str, *, ends: bool) -> None:
    probe = run.parent.parent / "lib" / "qemu" / "qmp-AB12CD"
    probe.mkdir(parents=True)
    command = [*UP, "-qmp", f"unix:{probe}{place}/qmp.monitor,server=on"]
    clear_beside(run, command, probe / "qmp.pid", ends=ends)
    assert not probe.exists()


def test_another_s_driver_is_left_alone(run: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(run / "driver.pid")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        clear_what_was_cut_off(run.parent.parent)
        assert (run / "vm.xml").exists()
        other.communicate("\n")
    clear_what_was_cut_off(run.parent.parent)
    assert not (run / "vm.xml").exists()


def test_a_driver_that_never_ran_has_nothing(tmp_path: Path) -> None:
    clear_what_was_cut_off(tmp_path)
