"""What is qemu-img's own when a layer is pulled into the one that stands on it: kills at every write, and the throttle."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

from contract.volumes_bench import MIB, VolumesBench, fails_with, is_same, program, run
from stillframe.adapters.volumes.qcow2 import Qcow2Volumes
from stillframe.domain.errors import ErrorCase, Failed
from stillframe.ports.hypervisor import MergeProgress

# Before its n-th write to a file, whatever thread makes it, the process dies.
_DIES = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

static void count(void) {
  static int done;
  if (__sync_add_and_fetch(&done, 1) == atoi(getenv("DIES_AT"))) kill(getpid(), SIGKILL);
}
ssize_t pwrite64(int fd, const void *from, size_t size, off64_t at) {
  count();
  return ((ssize_t(*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64"))(fd, from, size, at);
}
ssize_t pwritev64(int fd, const struct iovec *from, int number, off64_t at) {
  count();
  return ((ssize_t(*)(int, const struct iovec *, int, off64_t))dlsym(RTLD_NEXT, "pwritev64"))(fd, from, number, at);
}
"""


def mortal(directory: Path) -> Callable[[int], Qcow2Volumes]:
    """An adapter whose qemu-img dies before its n-th write."""
    source, library = directory / "dies.c", directory / "dies.so"
    source.write_text(_DIES)
    run("cc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl")

    def dying(at: int) -> Qcow2Volumes:
        return Qcow2Volumes(program(directory, f'DIES_AT={at} LD_PRELOAD={library} exec qemu-img "$@"'))

    return dying


def test_a_pull_killed_at_any_write_loses_nothing(tmp_path: Path) -> None:
    """What top has got is in its tables, on the disk, before its header names another backing file."""
    bench, dying = VolumesBench(Qcow2Volumes(lock_wait_s=0.2), tmp_path), mortal(tmp_path)
    parent = bench.user_image("disk", "qcow2", 8 * MIB)
    base = bench.overlay(parent)
    bench.write(base, "qcow2", *(f"write -P {at + 7} {at * MIB} 300k" for at in range(7)), "write -z 7M 64k")
    top = bench.overlay(base)
    expected = str(bench.directory / "expected.raw")
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", top, expected)
    empty = Path(top).read_bytes()
    backings, ends = [], []
    for write in range(1, 1000):
        Path(top).write_bytes(empty)
        try:
            dying(write).ensure_pulled(top, base, parent, "qcow2")
        except Failed as failure:
            ends.append(failure.desc)
        else:
            break
        assert is_same(top, "qcow2", expected), f"killed at write {write}, top reads otherwise"
        backings.append(bench.probe(top).backing_path)
    assert set(backings[:-1]) == {base}, "the header is not among the last that is written"
    assert len(backings) > 20
    assert [words for words in ends if "signal 9" not in words] == []
    assert bench.probe(top).backing_path == parent
    assert is_same(top, "qcow2", expected)


def test_a_throttled_pull_tells_how_far_it_is(tmp_path: Path) -> None:
    bench = VolumesBench(Qcow2Volumes(merge_bytes_per_s=16 * MIB), tmp_path)
    parent = bench.user_image("disk.qcow2", size_bytes=48 * MIB)
    base = bench.overlay(parent)
    top = bench.overlay(base)
    bench.write(base, "qcow2", "write -P 7 0 48M")
    told: list[MergeProgress] = []
    bench.volumes.ensure_pulled(top, base, parent, "qcow2", told.append)
    partial_bytes = {progress.bytes_done for progress in told if 0 < progress.bytes_done < progress.bytes_total}
    assert len(partial_bytes) > 1, told


def test_tables_that_stand_for_more_than_there_is_are_not_followed(tmp_path: Path) -> None:
    """One table in every place of the first one: a file of some kilobytes would keep a reader busy for days."""
    bench = VolumesBench(Qcow2Volumes(lock_wait_s=0.2), tmp_path)
    parent = str(tmp_path / "huge.qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", parent, "1T")
    base, top = (bench.overlay(parent) for _ in range(2))
    for path in (base, top):
        bench.write(path, "qcow2", "write -P 7 0 64k")
    assert bench.volumes.probe_pulled(top, base)
    for path in (base, top):
        with Path(path).open("r+b") as file:
            entries, offset = struct.unpack(">IQ", file.read(48)[36:])
            file.seek(offset)
            entry = file.read(8)
            file.seek(offset)
            file.write(entry * entries)
    with fails_with(ErrorCase.STORAGE_FAILED, "more than it occupies"):
        bench.volumes.probe_pulled(top, base)
