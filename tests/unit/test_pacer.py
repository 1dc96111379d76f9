"""The pace of one merge follows what QEMU counts of the guest; the counters here are a stub of libvirt's ``blockStatsFlags``."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from stillframe.adapters.libvirt.pacer import Pacer, Speed

MIB = 1 << 20
GIVES_WAY = Speed(gives_way=True)


@dataclass
class Domain:
    """Between two looks the guest has made so many writes, each of so long."""

    writes: int = 0
    write_us: int = 1000
    counted: dict[str, int] = field(
        default_factory=lambda: {"wr_operations": 0, "wr_total_times": 0, "rd_operations": 7}
    )

    def blockStatsFlags(self, target: str, flags: int) -> dict[str, int]:  # noqa: N802 -- libvirt's name
        assert (target, flags) == ("vda", 0)
        self.counted["wr_operations"] += self.writes
        self.counted["wr_total_times"] += self.writes * self.write_us * 1000
        return dict(self.counted)


@dataclass
class Job:
    """The speeds that a job was given; it is always as fast as it may."""

    pacer: Pacer
    speeds: list[int] = field(default_factory=list)

    def look_until_it_changes(self) -> int:
        """Returns the new speed."""
        before, give_up_at = len(self.speeds), time.monotonic() + 30
        while len(self.speeds) == before:
            assert time.monotonic() < give_up_at, "the speed stays as it is"
            self.pacer.saw(int(time.monotonic() * self.pacer.bytes_per_s), self.speeds.append)
            time.sleep(0.01)
        assert self.speeds[-1] == self.pacer.bytes_per_s
        return self.speeds[-1]


@pytest.fixture
def source(tmp_path: Path) -> str:
    """A file that is worth it."""
    path = tmp_path / "source"
    path.write_bytes(bytes([7]) * (20 * MIB))
    return str(path)


def test_it_goes_slower_when_the_guest_suffers_and_faster_when_it_does_not(source: str) -> None:
    domain = Domain(writes=50)
    job = Job(Pacer(domain, "vda", source, GIVES_WAY))
    begun = job.pacer.bytes_per_s
    assert 0 < begun < 1024 * MIB
    domain.write_us = 9000
    slower = job.look_until_it_changes()
    assert slower < begun
    domain.write_us = 1100
    assert job.look_until_it_changes() > slower


def test_beside_an_idle_guest_it_is_not_held_back(source: str) -> None:
    domain = Domain()
    job = Job(Pacer(domain, "vda", source, GIVES_WAY))
    assert job.pacer.bytes_per_s > 1024 * MIB
    domain.writes = 50
    assert job.look_until_it_changes() < MIB, "what is usual is learned first"
    assert job.look_until_it_changes() == 8 * MIB


def test_never_faster_than_the_setting(source: str) -> None:
    job = Job(Pacer(Domain(), "vda", source, Speed(5 * MIB, gives_way=True)))
    assert job.pacer.bytes_per_s == 5 * MIB


def test_a_job_that_is_found_gets_the_speed_of_now(source: str) -> None:
    job = Job(Pacer(Domain(writes=50), "vda", source, GIVES_WAY))
    job.pacer.take_over(job.speeds.append)
    assert job.speeds == [job.pacer.bytes_per_s]


def test_released_it_goes_as_fast_as_it_can(source: str) -> None:
    job = Job(Pacer(Domain(writes=50), "vda", source, GIVES_WAY))
    assert job.pacer.holds_back
    job.pacer.release()
    assert (job.pacer.bytes_per_s, job.pacer.holds_back) == (0, False)


@pytest.mark.parametrize("speed", [Speed(), Speed(3 * MIB)])
def test_without_giving_way_nobody_looks(source: str, speed: Speed) -> None:
    domain = Domain(writes=50)
    before = dict(domain.counted)
    job = Job(Pacer(domain, "vda", source, speed))
    job.pacer.take_over(job.speeds.append)
    job.pacer.saw(MIB, job.speeds.append)
    assert (job.pacer.bytes_per_s, job.pacer.holds_back) == (speed.bytes_per_s, speed.bytes_per_s > 0)
    assert (job.speeds, domain.counted) == ([], before)


def test_a_little_is_copied_without_looking(tmp_path: Path) -> None:
    path = tmp_path / "small"
    path.write_bytes(b"a little")
    domain = Domain(writes=50)
    before = dict(domain.counted)
    assert Pacer(domain, "vda", str(path), GIVES_WAY).bytes_per_s == 0
    assert domain.counted == before
