"""What every ``ports.volumes.Volumes`` must keep: see volumes_contract.py. Looking: at images, chains, what is owned, what is damaged."""

from __future__ import annotations

import os
import struct
import subprocess
import uuid
from pathlib import Path

from contract.volumes_bench import MIB, VolumesBench, fails_with, names_in, run
from stillframe.domain.errors import ErrorCase


def check_probe_reads_the_header(bench: VolumesBench) -> None:
    base = bench.user_image("disk.raw", "raw")
    overlay = bench.overlay(base, "raw")
    info = bench.probe(overlay)
    assert (info.path, info.format, info.virtual_bytes) == (overlay, "qcow2", 2 * MIB)
    assert (info.backing_path, info.backing_format) == (base, "raw")
    assert 0 < info.disk_bytes < MIB
    assert (bench.probe(base, "raw").backing_path, bench.probe(base, "raw").backing_format) == ("", "")


def check_probe_makes_a_relative_backing_name_absolute(bench: VolumesBench) -> None:
    base = bench.user_image("disk.qcow2")
    (bench.directory / "sub").mkdir()
    for name, path in (("disk.qcow2", "beside.qcow2"), ("../disk.qcow2", "sub/below.qcow2")):
        overlay = str(bench.directory / path)
        run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", name, "-F", "qcow2", overlay, "2M")
        assert bench.probe(overlay).backing_path == base


def check_probe_looks_at_an_open_image(bench: VolumesBench) -> None:
    base = bench.user_image("disk.qcow2")
    with bench.held_open(base, "qcow2"):
        assert bench.probe(base).virtual_bytes == 2 * MIB


def check_probe_does_not_follow_the_chain(bench: VolumesBench) -> None:
    base = bench.user_image("disk.qcow2")
    overlay = bench.overlay(base)
    Path(base).unlink()
    assert bench.probe(overlay).backing_path == base


def check_probe_tells_absence(bench: VolumesBench) -> None:
    assert bench.volumes.probe_image(bench.new_path(), "qcow2") is None
    assert bench.volumes.probe_image(str(bench.directory / "no.raw"), "raw") is None


def check_probe_failure_is_not_absence(bench: VolumesBench) -> None:
    plain = bench.directory / "plain"
    plain.write_bytes(b"text")
    loop = bench.directory / "loop.qcow2"
    loop.symlink_to(loop)
    for path in (plain / "below.qcow2", loop):
        for image_format in ("qcow2", "raw"):
            with fails_with(ErrorCase.STORAGE_FAILED, str(path)):
                bench.volumes.probe_image(str(path), image_format)
    for path, image_format in ((plain, "qcow2"), (bench.directory, "qcow2"), (bench.directory, "raw")):
        with fails_with(ErrorCase.IMAGE_REFUSED, str(path)):
            bench.volumes.probe_image(str(path), image_format)


def check_probe_refuses_what_is_not_a_plain_file(bench: VolumesBench) -> None:
    base = bench.user_image("disk.qcow2")
    strange = str(bench.directory / "strange.qcow2")
    for name in (f'json:{{"driver":"file","filename":"{base}"}}', "nbd://localhost/disk", f"file:{base}"):
        run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", name, "-F", "raw", strange, "2M")
        with fails_with(ErrorCase.IMAGE_REFUSED, strange):
            bench.volumes.probe_image(strange, "qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={bench.directory / 'data'}", strange, "2M")
    with fails_with(ErrorCase.IMAGE_REFUSED, strange):
        bench.volumes.probe_image(strange, "qcow2")


def check_chain_is_told_topmost_first_and_ends_where_a_file_is_absent(bench: VolumesBench) -> None:
    base = bench.user_image("disk.raw", "raw")
    middle = bench.overlay(base, "raw")
    top = bench.overlay(middle)
    for path, image_format, below in ((top, "qcow2", [top, middle, base]), (base, "raw", [base])):
        assert [info.path for info in bench.volumes.probe_chain(path, image_format)] == below
    Path(base).unlink()
    found = bench.volumes.probe_chain(top, "qcow2")
    assert [info.path for info in found] == [top, middle]
    assert found[-1].backing_path == base
    assert bench.volumes.probe_chain(base, "raw") == ()


def check_chain_refuses_what_lies_elsewhere(bench: VolumesBench) -> None:
    (bench.directory / "inner").mkdir()
    bench.user_image("outer.qcow2")
    for name in (str(bench.directory / "outer.qcow2"), "../outer.qcow2"):
        disk = str(bench.directory / "inner" / "disk.qcow2")
        run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", name, "-F", "qcow2", disk, "2M")
        assert bench.probe(disk).backing_path == str(bench.directory / "outer.qcow2")
        with fails_with(ErrorCase.IMAGE_REFUSED, disk):
            bench.volumes.probe_chain(disk, "qcow2")


def check_a_place_for_layers_is_a_directory_or_can_be_made(bench: VolumesBench) -> None:
    bench.volumes.check_directory(str(bench.owned_directory))
    assert names_in(bench.directory) == set()
    bench.owned_directory.symlink_to(bench.directory)
    with fails_with(ErrorCase.IMAGE_REFUSED, str(bench.owned_directory)):
        bench.volumes.check_directory(str(bench.owned_directory))


def check_list_owned_takes_only_names_of_the_service(bench: VolumesBench) -> None:
    assert bench.volumes.list_owned(str(bench.owned_directory)) == []
    base = bench.user_image("disk.qcow2")
    made = sorted(bench.overlay(base) for _ in range(2))
    for name in (
        "disk.qcow2",
        f"{uuid.uuid4()}.raw",
        f"{uuid.uuid4()}".upper() + ".qcow2",
        f"{uuid.uuid4().hex}.qcow2",
        f"x{uuid.uuid4()}.qcow2",
        f"{uuid.uuid4()}.qcow2\n",
    ):
        (bench.owned_directory / name).write_bytes(b"")
    (bench.owned_directory / f"{uuid.uuid4()}.qcow2").mkdir()
    assert paths_in(bench) == made


def paths_in(bench: VolumesBench) -> list[str]:
    return [file.path for file in bench.volumes.list_owned(str(bench.owned_directory))]


def check_list_owned_tells_unfinished_files(bench: VolumesBench) -> None:
    overlay = bench.overlay(bench.user_image("disk.qcow2"))
    part = Path(bench.new_path() + ".part")
    part.write_bytes(b"x" * MIB)
    (bench.owned_directory / "disk.qcow2.part").write_bytes(b"")
    found = bench.volumes.list_owned(str(bench.owned_directory))
    told = {file.path: (file.uuid, file.size_bytes, file.unfinished) for file in found}
    assert told == {
        overlay: (Path(overlay).stem, Path(overlay).stat().st_blocks * 512, False),
        str(part): (part.name.partition(".")[0], part.stat().st_blocks * 512, True),
    }


def check_drop_of_an_unfinished_file_takes_it_alone(bench: VolumesBench) -> None:
    overlay = bench.overlay(bench.user_image("disk.qcow2"))
    part = Path(overlay + ".part")
    linked = Path(bench.new_path() + ".part")
    part.write_bytes(b"half")
    linked.symlink_to(overlay)
    for _ in range(2):
        bench.volumes.ensure_dropped(str(part))
    assert names_in(bench.owned_directory) == {Path(overlay).name, linked.name}
    for path in (linked, bench.owned_directory / "notes.part"):
        with fails_with(ErrorCase.STORAGE_FAILED, str(path)):
            bench.volumes.ensure_dropped(str(path))
    part.write_bytes(b"half")
    bench.volumes.ensure_dropped(overlay)
    assert names_in(bench.owned_directory) == {linked.name}


def check_size_is_what_is_occupied(bench: VolumesBench) -> None:
    for path in (bench.overlay(bench.user_image("disk.qcow2")), str(bench.directory / "disk.qcow2")):
        assert bench.volumes.probe_size(path) == Path(path).stat().st_blocks * 512
    assert bench.volumes.probe_size(bench.new_path()) is None
    loop = bench.directory / "loop.qcow2"
    loop.symlink_to(loop)
    with fails_with(ErrorCase.STORAGE_FAILED, str(loop)):
        bench.volumes.probe_size(str(loop))


def check_probe_follows_links_to_the_file(bench: VolumesBench) -> None:
    base = bench.user_image("disk.qcow2")
    linked = bench.directory / "linked.qcow2"
    linked.symlink_to(base)
    assert bench.probe(str(linked)).real_path == bench.probe(base).real_path == os.path.realpath(base)
    assert bench.probe(str(linked)).path == str(linked)


def check_what_was_written_is_seen(bench: VolumesBench) -> None:
    base = bench.user_image("disk.qcow2")
    for act in ("write -P 9 1M 512", "write -z 1M 64k", "discard 1M 64k"):
        overlay = bench.overlay(base)
        bench.read(overlay)
        run("qemu-io", "-f", "qcow2", "-c", "read 0 2M", overlay)
        assert not bench.volumes.probe_written(overlay)
        bench.write(overlay, "qcow2", act)
        assert bench.volumes.probe_written(overlay), act
        bench.volumes.ensure_overlay(overlay, base, "qcow2")
        assert not bench.volumes.probe_written(overlay)
        run("qemu-img", "snapshot", "-c", "inside", overlay)
        assert bench.volumes.probe_written(overlay)


def check_what_was_written_at_the_end_of_a_large_image_is_seen(bench: VolumesBench) -> None:
    base = str(bench.directory / "disk.qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", base, "10T")
    overlay = bench.overlay(base)
    assert not bench.volumes.probe_written(overlay)
    bench.write(overlay, "qcow2", f"write -P 9 {(10 << 40) - 512} 512")
    assert bench.volumes.probe_written(overlay)


def check_written_is_not_said_of_what_cannot_be_read(bench: VolumesBench) -> None:
    overlay = bench.overlay(bench.user_image("disk.qcow2"))
    assert not bench.volumes.probe_written(bench.new_path()), "proved absent"
    whole = Path(overlay).read_bytes()
    (l1_offset,) = struct.unpack(">Q", whole[40:48])
    for contents in (b"", b"not an image" * 100, whole[: l1_offset + 4], whole[:36] + b"\xff" * 4 + whole[40:]):
        Path(overlay).write_bytes(contents)
        with fails_with(ErrorCase.STORAGE_FAILED, overlay):
            bench.volumes.probe_written(overlay)


def check_damage_is_found_and_soundness_is_said(bench: VolumesBench) -> None:
    base = bench.user_image("disk.qcow2", size_bytes=2 * MIB)
    overlay = bench.overlay(base)
    bench.write(overlay, "qcow2", "write -P 5 0 64k")
    for path in (base, overlay):
        assert bench.volumes.probe_damage(path, "qcow2") == ""
    assert bench.volumes.probe_damage(bench.user_image("disk.raw", "raw"), "raw") == ""
    before = Path(base).read_bytes()
    # the first L2 table: entries that point where two clusters would share a place
    header = Path(base).read_bytes()[:104]
    (l1_offset,) = struct.unpack(">Q", header[40:48])
    with Path(base).open("r+b") as file:
        file.seek(l1_offset)
        (l2_entry,) = struct.unpack(">Q", file.read(8))
        file.seek(l2_entry & 0x00FFFFFFFFFFFE00)
        first = file.read(8)
        file.write(first)
    damaged = Path(base).read_bytes()
    assert damaged != before
    assert "corruption" in bench.volumes.probe_damage(base, "qcow2")
    assert Path(base).read_bytes() == damaged, "looking repaired something"
    assert bench.volumes.probe_damage(overlay, "qcow2") == ""
    Path(base).unlink()
    assert bench.volumes.probe_damage(overlay, "qcow2") == "", "what it stands on is another file's matter"


def check_damage_that_cannot_be_looked_for(bench: VolumesBench) -> None:
    """Not there, or written to at this moment: that is neither sound nor damaged."""
    base = bench.user_image("disk.qcow2")
    with fails_with(ErrorCase.STORAGE_FAILED):
        bench.volumes.probe_damage(bench.new_path(), "qcow2")
    with bench.held_open(base, "qcow2"), fails_with(ErrorCase.STORAGE_FAILED, base):
        bench.volumes.probe_damage(base, "qcow2")


def check_leaked_space_is_no_damage(bench: VolumesBench) -> None:
    """A QEMU that is killed leaves clusters that are counted and used by nobody."""
    base = bench.user_image("disk.qcow2", size_bytes=2 * MIB)
    with Path(base).open("r+b") as file:
        file.seek(48)
        (table_offset,) = struct.unpack(">Q", file.read(8))
        file.seek(table_offset)
        (block_offset,) = struct.unpack(">Q", file.read(8))
        file.seek(block_offset)
        block = file.read(65536)
        unused = next(at for at in range(0, len(block), 2) if block[at : at + 2] == b"\0\0")
        file.seek(block_offset + unused)
        file.write(struct.pack(">H", 1))
        file.truncate((unused // 2 + 1) * 65536)
    said = subprocess.run(["qemu-img", "check", "-f", "qcow2", base], capture_output=True, check=False)
    assert said.returncode == 3, said.stdout
    assert bench.volumes.probe_damage(base, "qcow2") == ""


def check_list_owned_failure_is_not_emptiness(bench: VolumesBench) -> None:
    plain = bench.directory / "plain"
    plain.write_bytes(b"")
    with fails_with(ErrorCase.STORAGE_FAILED, str(plain)):
        bench.volumes.list_owned(str(plain))
