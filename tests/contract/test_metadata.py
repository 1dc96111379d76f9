"""What every metadata adapter promises about snapshots and layers, on real SQLite and real PostgreSQL."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stillframe.domain.errors import ErrorCase, Failed, Refused
from stillframe.domain.layers import Layer, Volume
from stillframe.domain.snapshot import CaptureMode, DiskSnapshot, MemoryState, MemoryStatus, Snapshot
from stillframe.domain.tree import Node
from stillframe.ports.metadata import Metadata, Transaction

if TYPE_CHECKING:
    pass

VM = "0b6b2f0e-vm"
OTHER_VM = "1c7c3f1f-vm"
ODD_NAMES = (
    "快照一",
    "😀" * 128,
    "e\u0301",
    "é",
    "%",
    "_",
    "\\",
    "'; DROP TABLE vms; --",
    "\u202eabc",
    " ",
    "\U0010ffff",
)
ODD_TEXTS = ("\x00", "a\x00b\x1a0000c", "\ud800 \udfff", "\x1a", "长" * 100_000)


def a_snapshot(name: str, *, vm_uuid: str = VM, parent: Snapshot | None = None, ctime: int = 1000) -> Snapshot:
    return Snapshot(
        uuid=str(uuid4()),
        vm_uuid=vm_uuid,
        seq=0,
        name=name,
        description="",
        parent_uuid=None if parent is None else parent.uuid,
        ctime=ctime,
        tenant="t1",
        tenant_name="Tenant 1",
        namespace="n1",
        vm_detail="{}",
        definition_xml="<domain/>",
        definition_checksum="blake3:00",
        disks=(),
    )


def a_memory(status: MemoryStatus = MemoryStatus.SAVING) -> MemoryState:
    return MemoryState(str(uuid4()), "file:///m", status, CaptureMode.BACKGROUND)


def add_volume(tx: Transaction, name: str, *, depth: int = 1, vm_uuid: str = VM) -> list[Layer]:
    """A volume with a chain of ``depth`` layers, lowest first; its head is the topmost."""
    chain: list[Layer] = []
    for number in range(depth):
        parent_uuid = chain[-1].uuid if chain else None
        chain.append(
            Layer(f"{name}-layer{number}", name, parent_uuid, f"/d/{name}.{number}", "qcow2", foreign=number == 0)
        )
    tx.layers.insert_volume(Volume(name, vm_uuid, "vda", chain[-1].uuid, "/d"))
    for layer in chain:
        tx.layers.insert_layer(layer)
    return chain


def disk_of(layer: Layer) -> DiskSnapshot:
    return DiskSnapshot(str(uuid4()), layer.volume_uuid, layer.uuid, "vda")


def publish(metadata: Metadata, *snapshots: Snapshot) -> list[Snapshot]:
    with metadata.write() as tx:
        return [tx.snapshots.insert(snapshot) for snapshot in snapshots]


class TestSnapshots:
    def test_comes_back_as_it_was_published(self, metadata: Metadata) -> None:
        with metadata.write() as tx:
            layers = [add_volume(tx, name)[0] for name in ("vol-b", "vol-a", "vol-c")]
            disks = tuple(disk_of(layer) for layer in layers)
            memory = replace(a_memory(), progress=7, size_bytes=2**40, checksum="blake3:ff", reason="because")
            given_one = replace(a_snapshot("first"), disks=disks, memory=memory, screenshot_checksum="blake3:11")
            published = tx.snapshots.insert(given_one)
        assert published == replace(given_one, seq=1)
        with metadata.read() as tx:
            assert tx.snapshots.by_uuid(published.uuid) == published
            assert tx.snapshots.by_name(VM, "first") == published
            assert tx.snapshots.of_vm(VM) == [published]
            assert tx.snapshots.page(VM, "", 0, 10) == ([published.shown], 1)
            assert tx.snapshots.shown_by_name(VM, "first") == published.shown
            assert tx.snapshots.shown_head(VM) == published.shown
            assert tx.snapshots.nodes(VM) == ([Node(published.uuid, "first", None, 1)], published.uuid)

    def test_absence_is_none_or_empty(self, metadata: Metadata) -> None:
        with metadata.read() as tx:
            assert tx.snapshots.by_uuid("none") is None
            assert tx.snapshots.by_name(VM, "none") is None
            assert tx.snapshots.of_vm(VM) == []
            assert tx.snapshots.page(VM, "", 0, None) == ([], 0)
            assert tx.snapshots.shown_by_name(VM, "none") is None
            assert tx.snapshots.shown_head(VM) is None
            assert tx.snapshots.nodes(VM) == ([], None)

    def test_any_name_is_found_by_itself(self, metadata: Metadata) -> None:
        for number, name in enumerate(ODD_NAMES):
            vm_uuid = f"vm-{number}"
            (published,) = publish(metadata, a_snapshot(name, vm_uuid=vm_uuid))
            with metadata.read() as tx:
                assert tx.snapshots.by_name(vm_uuid, name) == published
                assert tx.snapshots.page(vm_uuid, name, 0, None) == ([published.shown], 1)
                assert tx.snapshots.page(vm_uuid, name + "x", 0, None) == ([], 0)

    def test_any_text_comes_back(self, metadata: Metadata) -> None:
        for number, text in enumerate(ODD_TEXTS):
            vm_uuid = f"vm-{number}"
            odd = replace(a_snapshot("odd", vm_uuid=vm_uuid), description=text, vm_detail=text)
            (published,) = publish(metadata, odd)
            assert (published.description, published.vm_detail) == (text, text)
            with metadata.read() as tx:
                assert tx.snapshots.by_name(vm_uuid, "odd") == published
                assert tx.snapshots.page(vm_uuid, text, 0, None) == ([], 0)

    def test_the_order_of_creation_is_never_reused(self, metadata: Metadata) -> None:
        first, second = publish(metadata, a_snapshot("a"), a_snapshot("b"))
        with metadata.write() as tx:
            tx.snapshots.remove(first.uuid)
            tx.snapshots.remove(second.uuid)
        again, elsewhere = publish(metadata, a_snapshot("a"), a_snapshot("a", vm_uuid=OTHER_VM))
        assert [s.seq for s in (first, second, again, elsewhere)] == [1, 2, 3, 1]

    def test_a_taken_name_is_refused_and_the_transaction_goes_on(self, metadata: Metadata) -> None:
        (first,) = publish(metadata, a_snapshot("same"))
        with metadata.write() as tx:
            with pytest.raises(Refused) as refused:
                tx.snapshots.insert(a_snapshot("same"))
            assert refused.value.case is ErrorCase.NAME_TAKEN
            assert '"same"' in refused.value.desc
            tx.snapshots.insert(a_snapshot("same", vm_uuid=OTHER_VM))
            tx.snapshots.insert(a_snapshot("Same"))
        with metadata.read() as tx:
            assert [s.name for s in tx.snapshots.of_vm(VM)] == ["same", "Same"]
            assert tx.snapshots.by_uuid(first.uuid) == first

    def test_a_parent_of_another_vm_is_refused_at_commit(self, metadata: Metadata) -> None:
        (elsewhere,) = publish(metadata, a_snapshot("a", vm_uuid=OTHER_VM))
        with pytest.raises(Failed) as failed:
            publish(metadata, a_snapshot("b", parent=elsewhere))
        assert failed.value.case is ErrorCase.STORAGE_FAILED
        with metadata.read() as tx:
            assert tx.snapshots.of_vm(VM) == []

    def test_remove_hands_children_and_head_to_the_parent(self, metadata: Metadata) -> None:
        root = a_snapshot("root")
        middle = a_snapshot("middle", parent=root)
        left, right = a_snapshot("left", parent=middle), a_snapshot("right", parent=middle)
        with metadata.write() as tx:
            (layer,) = add_volume(tx, "vol")
            tx.snapshots.insert(root)
            tx.snapshots.insert(replace(middle, disks=(disk_of(layer),), memory=a_memory()))
            tx.snapshots.insert(left)
            tx.snapshots.insert(right)
            tx.snapshots.set_head(VM, middle.uuid)
        for _ in range(2):  # repeatable
            with metadata.write() as tx:
                tx.snapshots.remove(middle.uuid)
        with metadata.read() as tx:
            nodes, head = tx.snapshots.nodes(VM)
            assert [(n.name, n.parent_uuid) for n in nodes] == [
                ("root", None),
                ("left", root.uuid),
                ("right", root.uuid),
            ]
            assert head == root.uuid
            assert tx.snapshots.by_uuid(middle.uuid) is None
        with metadata.write() as tx:
            tx.snapshots.remove(root.uuid)
        with metadata.read() as tx:
            nodes, head = tx.snapshots.nodes(VM)
            assert [(n.name, n.parent_uuid) for n in nodes] == [("left", None), ("right", None)]
            assert head is None

    def test_remove_leaves_a_head_elsewhere(self, metadata: Metadata) -> None:
        first, second = publish(metadata, a_snapshot("a"), a_snapshot("b"))
        with metadata.write() as tx:
            tx.snapshots.remove(first.uuid)
        with metadata.read() as tx:
            assert tx.snapshots.nodes(VM)[1] == second.uuid

    def test_the_head_can_be_set_and_cleared(self, metadata: Metadata) -> None:
        first, _second = publish(metadata, a_snapshot("a"), a_snapshot("b"))
        for head in (first.uuid, first.uuid, None, None):
            with metadata.write() as tx:
                tx.snapshots.set_head(VM, head)
            with metadata.read() as tx:
                assert tx.snapshots.nodes(VM)[1] == head

    def test_description_and_memory_can_change(self, metadata: Metadata) -> None:
        (published,) = publish(metadata, a_snapshot("a"))
        expected = published
        for memory in (a_memory(), a_memory(MemoryStatus.AVAILABLE)):
            with metadata.write() as tx:
                tx.snapshots.set_description(published.uuid, "新")
                tx.snapshots.set_memory(published.uuid, memory)
            expected = replace(published, description="新", memory=memory)
            with metadata.read() as tx:
                assert tx.snapshots.by_uuid(published.uuid) == expected

    def test_what_is_not_published_cannot_change(self, metadata: Metadata) -> None:
        with metadata.write() as tx:
            with pytest.raises(Refused, match="SNAPSHOT_UNKNOWN"):
                tx.snapshots.set_description("none", "x")
            with pytest.raises(Refused, match="SNAPSHOT_UNKNOWN"):
                tx.snapshots.set_memory("none", a_memory())

    def test_a_page_is_newest_first_then_by_code_points(self, metadata: Metadata) -> None:
        names = ["b", "B", "a_1", "a%1", "ä", "中", "😀", "\uffff"]
        publish(metadata, *(a_snapshot(name) for name in names), a_snapshot("new", ctime=2000))
        in_order = ["new", *sorted(names)]
        with metadata.read() as tx:
            found, total = tx.snapshots.page(VM, "", 0, None)
            assert ([s.name for s in found], total) == (in_order, 9)
            found, total = tx.snapshots.page(VM, "", 2, 3)
            assert ([s.name for s in found], total) == (in_order[2:5], 9)
            for part, expected in {"%": ["a%1"], "_": ["a_1"], "b": ["b"], "B": ["B"], "NEW": []}.items():
                found, total = tx.snapshots.page(VM, part, 0, None)
                assert ([s.name for s in found], total) == (expected, len(expected))
            assert tx.snapshots.page(VM, "", 10**30, 10**30) == ([], 9)
            assert tx.snapshots.page(VM, "", 0, 0) == ([], 9)

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        rows=st.dictionaries(
            st.text("aA%_\\é中😀", min_size=1, max_size=4)
            | st.text(st.characters(exclude_categories=["C"]), min_size=1),
            st.integers(0, 3),
            max_size=8,
        ),
        part=st.text("aA%_\\é中😀", max_size=2),
        offset=st.integers(0, 9),
        limit=st.none() | st.integers(0, 9),
    )
    def test_a_page_is_what_the_model_says(
        self, metadata: Metadata, rows: dict[str, int], part: str, offset: int, limit: int | None
    ) -> None:
        vm_uuid = str(uuid4())
        publish(metadata, *(a_snapshot(name, vm_uuid=vm_uuid, ctime=ctime) for name, ctime in rows.items()))
        matching = sorted((name for name in rows if part in name), key=lambda name: (-rows[name], name))
        expected = matching[offset:] if limit is None else matching[offset : offset + limit]
        with metadata.read() as tx:
            found, total = tx.snapshots.page(vm_uuid, part, offset, limit)
        assert ([s.name for s in found], total) == (expected, len(matching))


class TestLayers:
    def test_the_vms_with_rows_are_known(self, metadata: Metadata) -> None:
        with metadata.write() as tx:
            assert tx.layers.vm_uuids() == []
            tx.snapshots.insert(a_snapshot("a", vm_uuid=OTHER_VM))
            tx.layers.insert_volume(Volume("vol", VM, "vda", "layer", "/d"))
            tx.layers.insert_layer(Layer("layer", "vol", None, "/d/l", "qcow2", foreign=True))
            tx.snapshots.insert(a_snapshot("a"))
            assert tx.layers.vm_uuids() == [VM, OTHER_VM]
        with metadata.write() as tx:
            for snapshot in tx.snapshots.of_vm(OTHER_VM):
                tx.snapshots.remove(snapshot.uuid)
            assert tx.layers.vm_uuids() == [VM]

    def test_volumes_and_layers_come_back(self, metadata: Metadata) -> None:
        with metadata.write() as tx:
            chain = add_volume(tx, "vol", depth=3)
            add_volume(tx, "elsewhere", vm_uuid=OTHER_VM)
        with metadata.read() as tx:
            assert tx.layers.volumes(VM) == [Volume("vol", VM, "vda", chain[2].uuid, "/d")]
            assert tx.layers.layers(VM) == chain
            assert tx.layers.referenced(VM) == {chain[2].uuid}

    def test_inserting_again_changes_nothing(self, metadata: Metadata) -> None:
        with metadata.write() as tx:
            chain = add_volume(tx, "vol", depth=2)
        with metadata.write() as tx:
            tx.layers.insert_layer(replace(chain[1], path="/elsewhere"))
            tx.layers.insert_volume(Volume("vol", VM, "vdz", chain[0].uuid, "/elsewhere"))
        with metadata.read() as tx:
            assert tx.layers.layers(VM) == chain
            assert tx.layers.volumes(VM) == [Volume("vol", VM, "vda", chain[1].uuid, "/d")]

    def test_a_volume_without_its_head_layer_is_refused_at_commit(self, metadata: Metadata) -> None:
        with pytest.raises(Failed, match="STORAGE_FAILED"), metadata.write() as tx:
            tx.layers.insert_volume(Volume("vol", VM, "vda", "none", "/d"))
        with metadata.read() as tx:
            assert tx.layers.volumes(VM) == []

    def test_the_head_moves(self, metadata: Metadata) -> None:
        with metadata.write() as tx:
            chain = add_volume(tx, "vol", depth=2)
        for _ in range(2):
            with metadata.write() as tx:
                tx.layers.set_head("vol", chain[0].uuid)
        with metadata.read() as tx:
            assert tx.layers.volumes(VM)[0].head_layer_uuid == chain[0].uuid
            assert tx.layers.referenced(VM) == {chain[0].uuid}

    def test_after_a_merge_everything_that_meant_the_top_means_the_base(self, metadata: Metadata) -> None:
        with metadata.write() as tx:
            base, top, child = add_volume(tx, "vol", depth=3)
            tx.layers.set_head("vol", top.uuid)
            published = tx.snapshots.insert(replace(a_snapshot("a"), disks=(disk_of(top),)))
        for _ in range(2):  # repeatable
            with metadata.write() as tx:
                tx.layers.record_merge(top.uuid, base.uuid)
            with metadata.read() as tx:
                assert tx.layers.layers(VM) == [base, replace(child, parent_uuid=base.uuid)]
                assert tx.layers.volumes(VM)[0].head_layer_uuid == base.uuid
                found = tx.snapshots.by_uuid(published.uuid)
                assert found is not None
                assert [disk.layer_uuid for disk in found.disks] == [base.uuid]
                assert tx.layers.referenced(VM) == {base.uuid}

    def test_after_a_pull_what_backed_on_the_base_backs_on_its_parent(self, metadata: Metadata) -> None:
        with metadata.write() as tx:
            parent, base, top, child = add_volume(tx, "vol", depth=4)
            tx.layers.set_head("vol", child.uuid)
            tx.snapshots.insert(replace(a_snapshot("a"), disks=(disk_of(top),)))
        for _ in range(2):  # repeatable
            with metadata.write() as tx:
                tx.layers.record_pull(base.uuid)
            with metadata.read() as tx:
                assert tx.layers.layers(VM) == [parent, replace(top, parent_uuid=parent.uuid), child]
                assert tx.layers.volumes(VM)[0].head_layer_uuid == child.uuid
                assert tx.layers.referenced(VM) == {top.uuid, child.uuid}

    def test_the_last_layer_takes_its_volume_along(self, metadata: Metadata) -> None:
        with metadata.write() as tx:
            base, top = add_volume(tx, "vol", depth=2)
            tx.layers.set_head("vol", base.uuid)
        for gone, left in ((top, [base]), (top, [base]), (base, []), (base, [])):
            with metadata.write() as tx:
                tx.layers.remove_layer(gone.uuid)
            with metadata.read() as tx:
                assert tx.layers.layers(VM) == left
                assert [volume.uuid for volume in tx.layers.volumes(VM)] == (["vol"] if left else [])

    def test_a_layer_that_is_referred_to_cannot_go(self, metadata: Metadata) -> None:
        with metadata.write() as tx:
            base, middle, top = add_volume(tx, "vol", depth=3)
            tx.layers.set_head("vol", middle.uuid)
            tx.snapshots.insert(replace(a_snapshot("a"), disks=(disk_of(top),)))
        for referred in (base, middle, top):  # by its child, by the head, by a snapshot
            with pytest.raises(Failed, match="STORAGE_FAILED"), metadata.write() as tx:
                tx.layers.remove_layer(referred.uuid)
        with metadata.read() as tx:
            assert tx.layers.layers(VM) == [base, middle, top]
