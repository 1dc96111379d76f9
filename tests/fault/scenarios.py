"""What is struck: one request for each way that an operation can go, how it is prepared, and what is true after it.

A scenario leaves the lab as it found it, so that cells of the matrix can follow each other on the same VMs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from support.lab import Lab, settle
from support.ledger import checksums, head_checksums, layer_paths
from support.offline import outweigh, unburden, write
from support.service import SNAPSHOT, Vm

VOLUMES = "/v1/compute/volume/snapshot/rollback"


@dataclass(frozen=True)
class Scenario:
    """``kinds``: the operations that its request runs, its own first.

    ``prepare`` makes the tree that the request needs; ``request`` is its path and body; ``is_done`` tells a complete
    outcome from none at all, and fails on anything else; ``clean`` goes back to the lab's tree from a complete one.
    """

    name: str
    kinds: tuple[str, ...]
    vm: Callable[[Lab], Vm]
    prepare: Callable[[Lab], None]
    request: Callable[[Lab], tuple[str, dict[str, Any]]]
    is_done: Callable[[Lab], bool]
    clean: Callable[[Lab], None]
    notes: dict[str, Any] = field(default_factory=dict)


def _nothing(_lab: Lab) -> None:
    """Nothing has to be prepared."""


def _running(lab: Lab) -> Vm:
    return lab.running


def _off(lab: Lab) -> Vm:
    return lab.off


def _exists(vm: Callable[[Lab], Vm], name: str) -> Callable[[Lab], bool]:
    return lambda lab: name in vm(lab).names()


def _delete(vm: Callable[[Lab], Vm], *names: str) -> Callable[[Lab], None]:
    def act(lab: Lab) -> None:
        for name in names:
            if name in vm(lab).names():
                vm(lab).delete(name)

    return act


def _create(memory: bool) -> Callable[[Lab], tuple[str, dict[str, Any]]]:
    return lambda _lab: (f"{SNAPSHOT}/create", {"name": "new", "domain_memory": memory})


def _clean_memory(lab: Lab) -> None:
    """What was saved is worth something: the guest runs on from it."""
    vm = lab.running
    if vm.get("new")["attr"]["status"] == "available":
        vm.rollback("new", memory=True)
        vm.await_ticks(3)
    vm.delete("new")


# --- rollback ---------------------------------------------------------------------------------------------------------


def _make_newer(vm: Callable[[Lab], Vm]) -> Callable[[Lab], None]:
    """A head that stands on a newer snapshot, with something written since."""

    def act(lab: Lab) -> None:
        if "newer" not in vm(lab).names():
            vm(lab).create("newer")
        if vm(lab) is lab.off:
            write(vm(lab).disk_path(), 9, length="64k")

    return act


def _rollback(name: str, memory: bool) -> Callable[[Lab], tuple[str, dict[str, Any]]]:
    return lambda _lab: (f"{SNAPSHOT}/rollback", {"name": name, "domain_memory": memory})


def _is_back(lab: Lab) -> bool:
    """With memory: the guest runs either way."""
    vm = lab.running
    assert vm.state() == "running"
    return bool(vm.head()["name"] == "goal")


def _is_back_and_off(lab: Lab) -> bool:
    vm = lab.running
    back = vm.head()["name"] == "base"
    assert vm.state() == ("shutoff" if back else "running")
    if back:
        assert head_checksums(vm) == lab.exact[vm.uuid]["base"]
    return back


def _on_the_goal_again(lab: Lab) -> None:
    lab.running.rollback("goal", memory=True)
    lab.running.await_ticks(3)
    _delete(_running, "newer")(lab)


# --- single disks -----------------------------------------------------------------------------------------------------


def _write_vda(lab: Lab) -> None:
    write(lab.off.disk_path(), 7, length="64k")


def _volume(lab: Lab) -> tuple[str, dict[str, Any]]:
    (entry,) = [disk for disk in lab.off.get("base")["disk_snapshot_list"] if disk["DiskDrive"] == "vda"]
    return VOLUMES, {"disk_snapshot_list": [entry]}


def _is_vda_back(lab: Lab) -> bool:
    now = head_checksums(lab.off)
    assert now["vdb"] == lab.exact[lab.off.uuid]["goal"]["vdb"], "the other disk stays as it is"
    assert lab.off.head()["name"] == "goal", "the tree's head stays"
    if now["vda"] == lab.exact[lab.off.uuid]["base"]["vda"]:
        return True
    assert now["vda"] not in [of["vda"] for of in checksums(lab.off).values()], "what was written since is there"
    return False


def _off_on_the_goal_again(lab: Lab) -> None:
    lab.off.rollback("goal")


# --- delete -----------------------------------------------------------------------------------------------------------


def _make_doomed(vm: Callable[[Lab], Vm], *, below: bool, pulled: bool = False) -> Callable[[Lab], None]:
    """A snapshot to be deleted, on the head's way; ``below``: another one stands on it.

    ``pulled``: what stands on it occupies more than it does, so that its data goes up; else down.
    """

    def act(lab: Lab) -> None:
        one = vm(lab)
        for name, pattern in (("doomed", 3), *((("tip", 4),) if below else ())):
            if name not in one.names():
                _advance(lab, one, pattern)
                one.create(name)
                for path, _format in layer_paths(one)[name].values():
                    unburden(path)
        _advance(lab, one, 5)
        for target, (doomed, _format) in layer_paths(one)["doomed"].items():
            above = layer_paths(one)["tip"][target][0] if below else one.disk_path(target)
            outweigh(*(above, doomed) if pulled else (doomed, above))

    return act


def _advance(lab: Lab, vm: Vm, pattern: int) -> None:
    if vm is lab.off:
        write(vm.disk_path(), pattern, offset="64k", length="64k")
    else:
        vm.await_ticks(3)


def _make_branch(lab: Lab) -> None:
    """A leaf with memory that the head does not stand on."""
    vm = lab.running
    if "doomed" not in vm.names():
        vm.create("doomed", memory=True)
    if vm.head()["name"] != "goal":
        vm.rollback("goal", memory=True)
        vm.await_ticks(3)


def _make_elsewhere(*, pulled: bool = False) -> Callable[[Lab], None]:
    """A snapshot with another one on it, both on a branch that the head does not stand on."""

    def act(lab: Lab) -> None:
        vm = lab.running
        if "tip" not in vm.names():
            _make_doomed(_running, below=True, pulled=pulled)(lab)
        if vm.head()["name"] != "goal":
            vm.rollback("goal", memory=True)
            vm.await_ticks(3)

    return act


def _delete_doomed(_lab: Lab) -> tuple[str, dict[str, Any]]:
    return f"{SNAPSHOT}/delete", {"name": "doomed"}


def _is_gone(vm: Callable[[Lab], Vm]) -> Callable[[Lab], bool]:
    return lambda lab: "doomed" not in vm(lab).names()


# --- forget -----------------------------------------------------------------------------------------------------------


def _make_guest(lab: Lab) -> None:
    names = [row["name"] for row in lab.service.get("/v1/compute/list")["domains"]]
    if "short-lived" not in names:
        made = lab.service.post("/v1/stillframe/guest/create", name="short-lived", memory_mib=96, fill_mib=1)
        vm = Vm(lab.service, made["uuid"], "short-lived")
        vm.create("only", memory=True)


def _is_forgotten(lab: Lab) -> bool:
    """An interrupted delete of a guest leaves the guest, or nothing; its snapshots are all there, or all gone."""
    names = [row["name"] for row in lab.service.get("/v1/compute/list")["domains"]]
    return "short-lived" not in names


def _settled(lab: Lab) -> None:
    settle(lab.service)


SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        "create, disks, running", ("create",), _running, _nothing, _create(False), _exists(_running, "new"),
        _delete(_running, "new"),
    ),
    Scenario(
        "create, memory", ("create", "save_memory"), _running, _nothing, _create(True), _exists(_running, "new"),
        _clean_memory,
    ),
    Scenario("create, off", ("create",), _off, _nothing, _create(False), _exists(_off, "new"), _delete(_off, "new")),
    Scenario(
        "rollback, memory", ("rollback",), _running, _make_newer(_running), _rollback("goal", True), _is_back,
        _on_the_goal_again,
    ),
    Scenario(
        "rollback, disks", ("rollback",), _running, _make_newer(_running), _rollback("base", False), _is_back_and_off,
        _on_the_goal_again,
    ),
    Scenario(
        "rollback, one disk", ("rollback_volume",), _off, _write_vda, _volume, _is_vda_back, _off_on_the_goal_again
    ),
    Scenario(
        "delete, live, below another", ("delete",), _running, _make_doomed(_running, below=True), _delete_doomed,
        _is_gone(_running), _delete(_running, "tip"),
    ),
    Scenario(
        "delete, live, below the head", ("delete",), _running, _make_doomed(_running, below=False), _delete_doomed,
        _is_gone(_running), _settled,
    ),
    Scenario(
        "delete, live, a branch", ("delete",), _running, _make_branch, _delete_doomed, _is_gone(_running), _settled
    ),
    Scenario(
        "delete, live, on another branch", ("delete",), _running, _make_elsewhere(), _delete_doomed, _is_gone(_running),
        _delete(_running, "tip"),
    ),
    Scenario(
        "delete, live, pulled on another branch", ("delete",), _running, _make_elsewhere(pulled=True), _delete_doomed,
        _is_gone(_running), _delete(_running, "tip"),
    ),
    Scenario(
        "delete, live, pulled into the head", ("delete",), _running, _make_doomed(_running, below=False, pulled=True),
        _delete_doomed, _is_gone(_running), _settled,
    ),
    Scenario(
        "delete, off, below another", ("delete",), _off, _make_doomed(_off, below=True), _delete_doomed,
        _is_gone(_off), _delete(_off, "tip"),
    ),
    Scenario(
        "delete, off, below the head", ("delete",), _off, _make_doomed(_off, below=False), _delete_doomed,
        _is_gone(_off), _settled,
    ),
    Scenario(
        "delete, off, pulled into another", ("delete",), _off, _make_doomed(_off, below=True, pulled=True), _delete_doomed,
        _is_gone(_off), _delete(_off, "tip"),
    ),
    Scenario(
        "delete, off, pulled into the head", ("delete",), _off, _make_doomed(_off, below=False, pulled=True),
        _delete_doomed, _is_gone(_off), _settled,
    ),
    Scenario(
        "delete of the VM", ("forget",), _off, _make_guest,
        lambda _lab: ("/v1/stillframe/guest/delete", {"name": "short-lived"}), _is_forgotten, _settled,
    ),
)  # fmt: skip
