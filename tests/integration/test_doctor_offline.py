"""Doctor while no service runs: it sees what needs no libvirt, changes nothing, and lets no service start meanwhile."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from stillframe.cli.main import main
from stillframe.domain.errors import ErrorCase
from support import damage
from support.damage import Expected
from support.offline import domain_xml, file_disk, image, lot, offline
from support.service import STILLFRAME, Service, Vm

VMS = 6
CHINESE = "\u4e00", "\u9fff"


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    service = Service()
    try:
        lots = [lot(service, f"patient-{number}") for number in range(VMS)]
        disks = [file_disk(image(one.directory / "disk-0.qcow2"), "vda") for one in lots]
        offline(service, *(("define", domain_xml(one, [disk])) for one, disk in zip(lots, disks, strict=True)))
        service.start()
        for vm in (one.vm(service) for one in lots):
            vm.create("a")
            vm.create("b")
        service.patients = [one.vm(service) for one in lots]  # type: ignore[attr-defined]
        service.kill()
        yield service
    finally:
        service.destroy()


@pytest.fixture
def vms(service: Service) -> list[Vm]:
    patients: list[Vm] = service.patients  # type: ignore[attr-defined]
    return patients


@dataclass
class Doctor:
    """``stillframe doctor`` on the state directory, in this process: starting one takes longer than looking."""

    service: Service
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def run(
        self, *options: str, state: Path | None = None, language: str = "C.UTF-8"
    ) -> subprocess.CompletedProcess[str]:
        self.monkeypatch.setenv("LC_ALL", language)
        words = ["stillframe", "doctor", *options, "--state", str(state or self.service.state)]
        self.monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            main()
        printed = self.capsys.readouterr()
        assert "Traceback" not in printed.out + printed.err
        return subprocess.CompletedProcess(words, int(ended.value.code or 0), printed.out, printed.err)

    def look(self, *options: str) -> list[dict[str, Any]]:
        """The findings; libvirt is always among what was not looked at, and is left out."""
        done = self.run("--json", *options)
        assert done.returncode == 4, done.stderr
        assert "no service runs" in done.stderr
        data = json.loads(done.stdout)
        unseen = [one for one in data["findings"] if one["kind"] == "not_looked_at" and "libvirt" in one["desc"]]
        assert len(unseen) == 1 or data["vms"] == 0
        assert (data["repaired"], data["not_repaired"]) == ([], [])
        return [one for one in data["findings"] if one not in unseen]


@pytest.fixture
def doctor(service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Doctor:
    return Doctor(service, monkeypatch, capsys)


def serve(service: Service) -> subprocess.CompletedProcess[str]:
    """A start that is refused."""
    command = [STILLFRAME, "serve", "--listen", "127.0.0.1:0", "--connect", service.connect, "--state"]
    return subprocess.run([*command, str(service.state)], capture_output=True, text=True, check=False, timeout=120)


def contents(service: Service) -> dict[str, tuple[int, bytes]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes())
        for path in service.state.rglob("*")
        if path.is_file() and path.suffix != ".db-shm"  # of a log that a killed service left: shared memory, not data
    }


def test_a_healthy_tree(service: Service, doctor: Doctor) -> None:
    """Of a service that was killed, whose last transactions are in the database's log, and of one that was stopped."""
    before = contents(service)
    assert doctor.look() == doctor.look("--deep") == []
    assert contents(service) == before
    service.start()
    service.stop()
    before = contents(service)
    assert doctor.look() == []
    assert contents(service) == before
    assert not list(service.state.glob("stillframe.db-*"))


def test_a_damaged_tree(service: Service, doctor: Doctor, vms: list[Vm]) -> None:
    """What the service would say, as far as it needs no libvirt; nothing can be repaired."""
    damaged = [
        *damage.missing_layer(vms[0]),
        *damage.unreadable_layer(vms[1]),
        *damage.orphan(vms[2]),
        *damage.wrong_backing(vms[3]),
        *damage.orphan_memory(service),
        *damage.damaged_configuration(vms[4], "b"),
    ]
    before = contents(service)
    told = Counter(
        Expected(one["kind"], one["compute_uuid"], one["path"] or one["uuid"], one["size_bytes"], False)
        for one in doctor.look()
    )
    assert told == Counter(replace(one, repairable=False) for one in damaged)
    for one in damaged:
        assert one.what in doctor.run().stdout
    assert contents(service) == before


def test_a_repair_needs_the_service(service: Service, doctor: Doctor) -> None:
    before = contents(service)
    for options in ((), ("--json", "--deep")):
        done = doctor.run("--repair", *options)
        assert (done.returncode, done.stdout) == (3, "")
        assert "--repair needs the running service" in done.stderr
        assert "--repair 需要服务正在运行" in doctor.run("--repair", *options, language="zh_CN.UTF-8").stderr
    assert contents(service) == before


def in_both_languages(text: str) -> bool:
    return any(CHINESE[0] <= char <= CHINESE[1] for char in text) and any(
        char.isascii() and char.isalpha() for char in text
    )


@contextmanager
def overwritten(path: Path, offset: int, data: bytes) -> Iterator[None]:
    backup = path.with_suffix(".backup")
    shutil.copy2(path, backup)
    damage.poke(path, offset, data)
    try:
        yield
    finally:
        backup.replace(path)


@pytest.mark.parametrize("offset", [0, 100], ids=["no database any more", "its first table"])
def test_a_database_that_does_not_open(service: Service, doctor: Doctor, offset: int) -> None:
    """The service does not start, says with which file and what to do; doctor names it; with the backup all is well."""
    path = service.state / "stillframe.db"
    with overwritten(path, offset, b"\xa5" * 900):
        before = contents(service)
        refused = serve(service)
        assert (refused.returncode, refused.stdout) == (1, "")
        case = ErrorCase.DATABASE_DAMAGED.value
        for words in (case.message, case.message_cn, str(path), "stillframe doctor", "backup", "备份"):
            assert words in refused.stderr
        seen = doctor.look()
        assert {one["kind"] for one in seen} == {"database_damaged", "not_looked_at"}
        (about,) = {(one["path"], one["size_bytes"]) for one in seen if one["kind"] == "database_damaged"}
        assert about == (str(path), path.stat().st_size)
        assert in_both_languages(doctor.run().stdout)
        assert contents(service) == before
    assert "database_damaged" not in {one["kind"] for one in doctor.look()}
    service.start()
    service.stop()


def test_a_database_that_is_damaged_inside(service: Service, doctor: Doctor) -> None:
    """Where a start does not look: only doctor does."""
    path = service.state / "stillframe.db"
    last_page = path.stat().st_size - 4096
    with overwritten(path, last_page, b"\xa5" * 4096):
        assert "database_damaged" in {one["kind"] for one in doctor.look()}


def test_a_database_that_is_gone(service: Service, doctor: Doctor) -> None:
    path = service.state / "stillframe.db"
    away = path.rename(path.with_suffix(".away"))
    try:
        (damaged, _unseen) = doctor.look()
        assert (damaged["kind"], damaged["path"]) == ("database_damaged", str(path))
        assert "does not exist" in damaged["desc"]
        assert not path.exists(), "looking made one"
    finally:
        away.rename(path)


def test_a_database_of_another_version(service: Service, doctor: Doctor) -> None:
    """It is not damaged, and nothing can be said of it; it is not brought up to date either."""
    path = service.state / "stillframe.db"
    backup = shutil.copy2(path, path.with_suffix(".backup"))
    subprocess.run(["sqlite3", str(path), "UPDATE alembic_version SET version_num = '0001'"], check=True)
    try:
        before = contents(service)
        (unseen,) = doctor.look()
        assert (unseen["kind"], unseen["path"]) == ("not_looked_at", str(path))
        assert "another version" in unseen["desc"]
        assert contents(service) == before
    finally:
        Path(backup).replace(path)


def test_a_service_that_holds_the_directory_and_does_not_answer(service: Service, doctor: Doctor) -> None:
    """As one that is being started. The other way round no service starts while doctor looks: the lock is the same."""
    with (service.state / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for options in ((), ("--json",)):
            done = doctor.run(*options)
            assert (done.returncode, done.stdout) == (3, "")
            assert "holds" in done.stderr
            assert "占用" in doctor.run(*options, language="zh").stderr
        refused = serve(service)
        assert refused.returncode == 1
        assert "doctor" in refused.stderr


def test_where_no_service_has_ever_run(doctor: Doctor, tmp_path: Path) -> None:
    done = doctor.run(state=tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert list(tmp_path.iterdir()) == []
