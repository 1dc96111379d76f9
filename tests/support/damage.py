"""Damaging a tree on purpose, behind a service that is stopped: each act returns what doctor must say of it."""

from __future__ import annotations

import os
import stat
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from stillframe.adapters.metadata.database import open_metadata
from stillframe.adapters.volumes.qcow2 import Qcow2Volumes
from stillframe.domain.layers import Layer, chain
from stillframe.domain.snapshot import MemoryState, MemoryStatus
from stillframe.operations.delete import OPERATION, DeletePlan, DropPlan
from stillframe.ports.metadata import OperationRow, OperationState, Slot, Transaction
from support.offline import definition, offline
from support.service import Service, Vm


@dataclass(frozen=True)
class Expected:
    """What doctor must say: the kind, of which VM, which file or uuid, and whether a repair would be tried."""

    kind: str
    vm_uuid: str
    what: str
    size_bytes: int
    repairable: bool


def new_uuid() -> str:
    return str(uuid.uuid4())


def occupied(path: str | Path) -> int:
    return Path(path).stat().st_blocks * 512


@contextmanager
def rows(service: Service) -> Iterator[Transaction]:
    """A transaction in the service's database, beside the service or while it does not run."""
    with closing(open_metadata(f"sqlite:///{service.state / 'stillframe.db'}")) as metadata, metadata.write() as tx:
        yield tx


def layers_of(vm: Vm) -> tuple[Layer, ...]:
    """The head of the VM's first disk and what it stands on, topmost first."""
    with rows(vm.service) as tx:
        return chain(tx.layers.layers(vm.uuid), tx.layers.volumes(vm.uuid)[0].head_layer_uuid)


def beside(vm: Vm, suffix: str = ".qcow2") -> str:
    """A fresh name where the VM's layers lie."""
    return str(Path(layers_of(vm)[0].path).with_name(new_uuid() + suffix))


def overlay(vm: Vm, backing: str = "") -> str:
    """A layer's file that no row knows."""
    path = beside(vm)
    Qcow2Volumes().ensure_overlay(path, backing or layers_of(vm)[-1].path, "qcow2")
    return path


# --- what --repair may repair


def orphan(vm: Vm) -> list[Expected]:
    path = overlay(vm)
    return [Expected("orphan_layer", vm.uuid, path, occupied(path), repairable=True)]


def orphans_on_each_other(vm: Vm) -> list[Expected]:
    below = overlay(vm)
    above = overlay(vm, below)
    return [Expected("orphan_layer", vm.uuid, path, occupied(path), repairable=True) for path in (below, above)]


def unfinished(vm: Vm) -> list[Expected]:
    """One of a layer that never came to be, one beside a layer that did."""
    paths = [beside(vm, ".qcow2.part"), layers_of(vm)[0].path + ".part"]
    for path in paths:
        Path(path).write_bytes(b"half" * 4096)
    return [Expected("unfinished_layer", "", path, occupied(path), repairable=True) for path in paths]


def wrong_backing(vm: Vm) -> list[Expected]:
    head, _parent, base = layers_of(vm)
    rebase(head.path, base.path)
    return [Expected("wrong_backing", vm.uuid, head.path, occupied(head.path), repairable=True)]


def wrong_format(vm: Vm) -> list[Expected]:
    head, parent, _base = layers_of(vm)
    rebase(head.path, parent.path, "raw")
    return [Expected("wrong_backing", vm.uuid, head.path, occupied(head.path), repairable=True)]


def loose(vm: Vm) -> list[Expected]:
    """Two layers, one on the other, that nothing refers to; and one whose file has gone already."""
    parent = layers_of(vm)[1]
    one = replace(parent, uuid=new_uuid(), parent_uuid=parent.uuid)
    one = replace(one, path=str(Path(parent.path).with_name(f"{one.uuid}.qcow2")))
    two = replace(one, uuid=new_uuid(), parent_uuid=one.uuid)
    two = replace(two, path=str(Path(parent.path).with_name(f"{two.uuid}.qcow2")))
    gone = replace(one, uuid=new_uuid())
    gone = replace(gone, path=str(Path(parent.path).with_name(f"{gone.uuid}.qcow2")))
    Qcow2Volumes().ensure_overlay(one.path, parent.path, "qcow2")
    Qcow2Volumes().ensure_overlay(two.path, one.path, "qcow2")
    with rows(vm.service) as tx:
        for layer in (one, two, gone):
            tx.layers.insert_layer(layer)
    found = [
        Expected("loose_layer", vm.uuid, layer.path, occupied(layer.path), repairable=True) for layer in (one, two)
    ]
    return [*found, Expected("loose_layer", vm.uuid, gone.path, 0, repairable=True)]


def orphan_memory(service: Service) -> list[Expected]:
    path = service.state / "memory" / f"{new_uuid()}.mem"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.write_bytes(os.urandom(70_000))
    return [Expected("orphan_memory", "", str(path), occupied(path), repairable=True)]


def orphan_screenshots(service: Service) -> list[Expected]:
    """A whole one and one that was cut off."""
    paths = [service.state / "screenshots" / f"{new_uuid()}{suffix}" for suffix in (".png", ".png.part")]
    for path in paths:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.write_bytes(b"picture" * 1000)
    return [Expected("orphan_screenshot", "", str(path), occupied(path), repairable=True) for path in paths]


def memory_of(vm: Vm, name: str, change: Callable[[MemoryState], MemoryState] = lambda memory: memory) -> MemoryState:
    """The snapshot's memory state, after it was changed."""
    with rows(vm.service) as tx:
        snapshot = tx.snapshots.by_name(vm.uuid, name)
        assert snapshot is not None
        assert snapshot.memory is not None
        memory = change(snapshot.memory)
        tx.snapshots.set_memory(snapshot.uuid, memory)
    return memory


def memory_file(vm: Vm, memory: MemoryState) -> Path:
    return vm.service.state / "memory" / f"{memory.uuid}.mem"


def stuck_memory(vm: Vm, name: str) -> list[Expected]:
    memory = memory_of(vm, name, lambda memory: replace(memory, status=MemoryStatus.SAVING, progress=40))
    path = memory_file(vm, memory)
    return [Expected("stuck_memory", vm.uuid, str(path), occupied(path), repairable=True)]


def left_operation(vm: Vm) -> tuple[list[Expected], Path]:
    """An operation that cannot be finished while the returned directory stands in its way."""
    obstacle = Path(beside(vm))
    obstacle.mkdir()
    volume_uuid = layers_of(vm)[0].volume_uuid
    layer = Layer(obstacle.stem, volume_uuid, None, str(obstacle), "qcow2", foreign=False)
    row = OperationRow(
        uuid=new_uuid(),
        vm_uuid=vm.uuid,
        slot=Slot.EXCLUSIVE,
        kind=OPERATION.kind,
        state=OperationState.LEFT,
        plan=OPERATION.encode(DeletePlan(new_uuid(), vm.uuid, None, (DropPlan(layer),), ())),
        steps_done=("unpublish", "drop memory and screenshot"),
        started_at=1,
        ended_at=1,
        error="the power went",
    )
    with rows(vm.service) as tx:
        tx.journal.open(row)
    return [Expected("operation_left", vm.uuid, row.uuid, 0, repairable=True)], obstacle


# --- what has no one right answer


def missing_layer(vm: Vm) -> list[Expected]:
    path = Path(layers_of(vm)[1].path)
    path.unlink()
    return [Expected("missing_layer", vm.uuid, str(path), 0, repairable=False)]


def unreadable_layer(vm: Vm) -> list[Expected]:
    path = Path(layers_of(vm)[1].path)
    poke(path, 0, b"no header any more")
    return [Expected("unreadable_layer", vm.uuid, str(path), occupied(path), repairable=False)]


def marked_corrupt(vm: Vm) -> list[Expected]:
    path = Path(layers_of(vm)[0].path)
    poke(path, 79, b"\x02")  # incompatible features: the corrupt bit (docs/interop/qcow2.rst)
    return [Expected("unreadable_layer", vm.uuid, str(path), occupied(path), repairable=False)]


def damaged_inside(vm: Vm) -> list[Expected]:
    """Found by a deep look only: the header is whole, the table of reference counts is not."""
    path = Path(layers_of(vm)[1].path)
    table = int.from_bytes(path.read_bytes()[48:56], "big")
    poke(path, table, b"\0" * 8)
    return [Expected("damaged_layer", vm.uuid, str(path), occupied(path), repairable=False)]


def wrong_backing_on_nothing(vm: Vm) -> list[Expected]:
    """The parent's file is gone, too: pointing at it would help nobody."""
    head, parent, base = layers_of(vm)
    rebase(head.path, base.path)
    Path(parent.path).unlink()
    return [
        Expected("wrong_backing", vm.uuid, head.path, occupied(head.path), repairable=False),
        Expected("missing_layer", vm.uuid, parent.path, 0, repairable=False),
    ]


def drifted(vm: Vm) -> list[Expected]:
    head, parent, _base = layers_of(vm)
    redefine(vm, head.path, parent.path)
    return [Expected("disk_drifted", vm.uuid, parent.path, occupied(parent.path), repairable=False)]


def orphan_in_use(vm: Vm) -> list[Expected]:
    """The VM was put on a file of ours that no row knows."""
    head = layers_of(vm)[0].path
    path = overlay(vm)
    redefine(vm, head, path)
    return [
        Expected("disk_drifted", vm.uuid, path, occupied(path), repairable=False),
        Expected("orphan_layer", vm.uuid, path, occupied(path), repairable=False),
    ]


def orphan_below_a_foreign_file(vm: Vm) -> list[Expected]:
    """The VM's disk is the user's own file, which stands on an orphan by another name."""
    head = layers_of(vm)[0].path
    path = overlay(vm, head)
    link = Path(head).parent.parent / "link.qcow2"
    link.symlink_to(path)
    mine = create(Path(head).parent.parent / "mine.qcow2", str(link))
    redefine(vm, head, str(mine))
    return [
        Expected("foreign_overlay", vm.uuid, str(mine), occupied(mine), repairable=False),
        Expected("orphan_layer", vm.uuid, path, occupied(path), repairable=False),
    ]


def foreign_overlay(vm: Vm) -> list[Expected]:
    head = layers_of(vm)[0].path
    mine = create(Path(head).parent.parent / "mine.qcow2", head)
    redefine(vm, head, str(mine))
    return [Expected("foreign_overlay", vm.uuid, str(mine), occupied(mine), repairable=False)]


def foreign_files(vm: Vm) -> list[Expected]:
    """Files that others put beside ours. Those that have our kind of name are named, none is touched."""
    directory = Path(layers_of(vm)[0].path).parent
    (directory / "notes.txt").write_text("mine")
    (directory / f"{new_uuid()}.raw").write_bytes(b"mine")
    (directory / f"{new_uuid()}.qcow2").symlink_to(directory / "notes.txt")
    text = directory / f"{new_uuid()}.qcow2"
    text.write_text("not an image")
    image = create(directory / f"{new_uuid()}.qcow2", "")
    elsewhere = create(directory / f"{new_uuid()}.qcow2", str(create(vm.service.state / "lot" / "template.qcow2", "")))
    return [
        Expected("orphan_layer", "", str(path), occupied(path), repairable=False) for path in (text, image, elsewhere)
    ]


def copied_layer(vm: Vm, to: Vm) -> list[Expected]:
    """Somebody copied a layer to where another VM's layers lie."""
    layer = layers_of(vm)[1]
    path = Path(beside(to)).with_name(Path(layer.path).name)
    path.write_bytes(Path(layer.path).read_bytes())
    return [Expected("orphan_layer", vm.uuid, str(path), occupied(path), repairable=False)]


def unknown_vm(vm: Vm) -> list[Expected]:
    offline(vm.service, ("undefine", vm.uuid))
    return [Expected("vm_unknown", vm.uuid, vm.uuid, 0, repairable=False)]


def missing_memory(vm: Vm, name: str) -> list[Expected]:
    memory = memory_of(vm, name)
    path = memory_file(vm, memory)
    path.unlink()
    return [Expected("missing_memory", vm.uuid, str(path), memory.size_bytes, repairable=False)]


def truncated_memory(vm: Vm, name: str) -> list[Expected]:
    path = memory_file(vm, memory_of(vm, name))
    os.truncate(path, path.stat().st_size // 2)
    return [Expected("damaged_memory", vm.uuid, str(path), occupied(path), repairable=False)]


def flipped_memory(vm: Vm, name: str) -> list[Expected]:
    """Found by a deep look only."""
    path = memory_file(vm, memory_of(vm, name))
    with path.open("rb") as file:
        offset = os.lseek(file.fileno(), path.stat().st_size // 3, os.SEEK_DATA)
        file.seek(offset)
        byte = file.read(1)[0]
    poke(path, offset, bytes([byte ^ 1]))
    return [Expected("damaged_memory", vm.uuid, str(path), occupied(path), repairable=False)]


def screenshot_of(vm: Vm, name: str) -> Path:
    with rows(vm.service) as tx:
        snapshot = tx.snapshots.by_name(vm.uuid, name)
    assert snapshot is not None
    return vm.service.state / "screenshots" / f"{snapshot.uuid}.png"


def missing_screenshot(vm: Vm, name: str) -> list[Expected]:
    path = screenshot_of(vm, name)
    path.unlink()
    return [Expected("missing_screenshot", vm.uuid, path.stem, 0, repairable=False)]


def damaged_screenshot(vm: Vm, name: str) -> list[Expected]:
    path = screenshot_of(vm, name)
    poke(path, 60, b"!")
    return [Expected("damaged_screenshot", vm.uuid, str(path), occupied(path), repairable=False)]


def damaged_configuration(vm: Vm, name: str) -> list[Expected]:
    """The row is written anew, as no call of the service would."""
    with rows(vm.service) as tx:
        snapshot = tx.snapshots.by_name(vm.uuid, name)
        assert snapshot is not None
        children = [child for child in tx.snapshots.of_vm(vm.uuid) if child.parent_uuid == snapshot.uuid]
        assert not children, "only a leaf can be taken out and put back"
        changed = replace(snapshot, definition_xml=snapshot.definition_xml.replace("<vcpu", "<vcpU", 1))
        tx.snapshots.remove(snapshot.uuid)
        tx.snapshots.insert(changed)
    size_bytes = len(changed.definition_xml.encode())
    return [Expected("damaged_configuration", vm.uuid, snapshot.uuid, size_bytes, repairable=False)]


# --- by hand


def poke(path: Path, offset: int, data: bytes) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)
    path.chmod(mode)


def create(path: Path, backing: str) -> Path:
    over = ["-b", backing, "-F", "qcow2"] if backing else []
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", *over, str(path), *([] if backing else ["64M"])], check=True
    )
    return path


def rebase(path: str, backing: str, image_format: str = "qcow2") -> None:
    command = ["qemu-img", "rebase", "-q", "-u", "-f", "qcow2", "-b", backing, "-F", image_format, path]
    subprocess.run(command, check=True)


def redefine(vm: Vm, old: str, new: str) -> None:
    xml = definition(vm.service, vm.name)
    assert old in xml
    offline(vm.service, ("define", xml.replace(old, new)))
