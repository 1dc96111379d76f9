"""A hundred snapshots on one VM: pages, filter, order, a tree with branches, and the limit of a chain's depth."""

from __future__ import annotations

import pytest

from integration.conftest import Take
from stillframe.domain.errors import ErrorCase
from support.checksums import checksum_image
from support.ledger import head_checksums, layer_paths, unchanged
from support.offline import write
from support.refusal import must_refuse_post
from support.service import SNAPSHOT

LIMIT = 24  # what libvirt can open, below the default of max_chain_depth


@pytest.mark.guest
def test_a_hundred_snapshots_and_a_chain_at_its_limit(take: Take) -> None:
    vm = take("one")
    for number in range(LIMIT - 1):
        vm.create(f"trunk {number:03}")
    write(vm.disk_path(), 7)
    with unchanged(vm):
        desc = must_refuse_post(vm, ErrorCase.CHAIN_TOO_DEEP, f"{SNAPSHOT}/create", name="one too many")
        assert "vda" in desc
        assert str(LIMIT) in desc
    for number in range(LIMIT - 1, 100):
        if (number - LIMIT + 1) % 10 == 0:
            vm.rollback("trunk 010")
        write(vm.disk_path(), number, f"{number % 60}M", "64k")
        vm.create(f"branch {number:03}")
    tree = vm.tree()
    assert len(tree["Parents"]) == 101
    assert len(tree["Children"]["trunk 010"]["Children"]) == 9  # trunk 011 and eight branches
    assert vm.list()["total_count"] == 100
    assert len({path for of in layer_paths(vm).values() for path, _ in of.values()}) == 100

    middle = layer_paths(vm)["trunk 018"]["vda"]
    contents = checksum_image(*middle)
    for number in range(12, 17):
        vm.delete(f"trunk {number:03}")
    assert checksum_image(*layer_paths(vm)["trunk 018"]["vda"]) == contents
    vm.rollback("trunk 022")
    vm.create("there is room again")
    assert vm.list()["total_count"] == 96
    pages = [vm.list(page_number=page, page_size=40)["list"] for page in range(4)]
    assert [len(page) for page in pages] == [40, 40, 16, 0]
    assert [row for page in pages for row in page] == vm.list()["list"]


@pytest.mark.guest
def test_a_guest_on_the_deepest_chain_starts_and_outlives_a_restart(take: Take) -> None:
    """Libvirt's parser stops at 32 levels of QEMU's answer; beyond it a restarted driver kills its guests."""
    vm = take("two")
    for number in range(LIMIT - 2):
        vm.create(f"deep {number:03}")
    vm.start()
    vm.await_ticks(10)
    vm.create("deepest")
    must_refuse_post(vm, ErrorCase.CHAIN_TOO_DEEP, f"{SNAPSHOT}/create", name="one too many")
    vm.service.kill()
    vm.service.start()
    assert vm.state() == "running"
    vm.delete("deep 010")
    vm.create("room again")
    vm.await_ticks(10)
    assert vm.witness().jumps() == []
    assert vm.witness().torn() == []


def test_pages_filters_and_order(take: Take) -> None:
    vm = take("one")
    names = ["升级前", "Upgrade 50%", "upgrade_1", "upgrade-2", "100% sure", "ünïcode"]
    for name in names:
        vm.create(name, description=f"of {name}")
    rows = vm.list()["list"]
    assert rows == sorted(rows, key=lambda row: (-row["ctime"], row["name"]))
    assert {row["name"] for row in rows} == set(names)
    assert vm.list(page_size=0) == vm.list(page_size=-3) == vm.list(page_number=0) == {"list": rows, "total_count": 6}
    for size in (1, 2, 4, 6, 7):
        pages = [vm.list(page_num=page, page_size=size) for page in range(8)]
        assert all(page["total_count"] == 6 for page in pages)
        assert [row for page in pages for row in page["list"]] == rows
    found = {
        part: {row["name"] for row in vm.list(filter_name=part)["list"]}
        for part in ("", "pgrade", "Upgrade", "%", "_", "级", "u\u0308", "nothing", "\\")
    }
    assert found == {
        "": set(names),
        "pgrade": {"Upgrade 50%", "upgrade_1", "upgrade-2"},
        "Upgrade": {"Upgrade 50%"},
        "%": {"Upgrade 50%", "100% sure"},
        "_": {"upgrade_1"},
        "级": {"升级前"},
        "u\u0308": {"ünïcode"},  # typed in another normal form
        "nothing": set(),
        "\\": set(),
    }
    page = vm.list(filter_name="pgrade", page_number=1, page_size=2)
    assert page["total_count"] == 3
    assert len(page["list"]) == 1


def test_a_vm_without_snapshots(take: Take) -> None:
    vm = take("one")
    assert vm.list() == {"list": [], "total_count": 0}
    assert vm.head() == {}
    assert vm.tree() == {"UUID": vm.uuid, "Parents": {"head": ""}, "Children": {"": {"Children": ["head"]}}}
    assert head_checksums(vm) == {}


def test_the_tree_lists_children_in_order_of_creation_with_the_head_last(take: Take) -> None:
    vm = take("one")
    vm.create("z")
    for name in ("y", "x"):
        vm.rollback("z")
        vm.create(name)
    vm.rollback("z")
    vm.modify("y", description="changed")
    assert vm.tree() == {
        "UUID": vm.uuid,
        "Parents": {"z": "", "y": "z", "x": "z", "head": "z"},
        "Children": {"": {"Children": ["z"]}, "z": {"Children": ["y", "x", "head"]}},
    }
    vm.delete("y")
    assert vm.tree()["Children"]["z"] == {"Children": ["x", "head"]}
