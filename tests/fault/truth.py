"""The real service beside the model: makes each request of both, strikes the service if told, and compares them.

After a strike the outcome must be exactly "done" or "not at all"; the model follows what was seen.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fault.model import BLOCK_BYTES, BLOCKS, DISK_BYTES, Model, raw
from stillframe.domain.errors import ErrorCase
from stillframe.operations.recovery import OPERATIONS
from support.lab import make_vm, open_service, settle
from support.ledger import check_census, layer_paths, rows
from support.private_libvirtd import PrivateLibvirtd
from support.qcow2_reader import Reader
from support.service import SNAPSHOT, Vm, eventually
from support.struck import At, Striker, StruckService

VOLUMES = "/v1/compute/volume/snapshot/rollback"
TARGETS = ("vda", "vdb")
_LIFE = ("claimed", "planned", "closing", "closed")
_STEP = ("before", "acted", "noted")
_UNDO = ("undoing", "taken back")
OPEN = "SELECT kind, state FROM operations WHERE lock_key IS NOT NULL OR state = 'left'"

Act = Callable[[Model], Model | ErrorCase]


@dataclass(frozen=True)
class Strike:
    """What befalls one request. ``kill`` may never come; ``again`` kills the recovery from it."""

    fail: At | None = None
    kill: At | None = None
    again: At | None = None

    def __str__(self) -> str:
        return ", ".join(
            f"{word} at {at}" for word, at in (("fail", self.fail), ("kill", self.kill), ("again", self.again)) if at
        )


def strike_of(kind: str, number: int) -> Strike:
    """The strike with this number: every number means one, from the operation's own declaration."""
    operation = OPERATIONS[kind]
    moments = [At(kind, step, phase) for step in operation.families for phase in _STEP]
    moments += [At(kind, "", phase) for phase in _LIFE]
    undoings = [At(kind, step, phase) for step in operation.families for phase in _UNDO]
    commit = At(kind, operation.point_of_no_return, "acted")
    number, way = divmod(number, 8)
    chosen, undone = moments[number % len(moments)], undoings[number % len(undoings)]
    match way:
        case 0:
            steps = [at for at in moments if at.step and at.phase != "noted"]
            return Strike(fail=steps[number % len(steps)])
        case 1:
            return Strike(fail=commit, kill=undone)
        case 2:
            again = [at for at in (*moments, *undoings) if at.phase != "closed"]
            return Strike(kill=chosen, again=again[number // len(moments) % len(again)])
        case _:
            return Strike(kill=chosen)


@dataclass
class Figures:
    """What was done, for whoever reports it."""

    steps: int = 0
    refused: int = 0
    struck: int = 0
    crashes: int = 0
    failures: int = 0
    kinds: dict[str, int] = field(default_factory=dict)

    def __add__(self, other: Figures) -> Figures:
        kinds = {kind: self.kinds.get(kind, 0) + other.kinds.get(kind, 0) for kind in {*self.kinds, *other.kinds}}
        return Figures(
            self.steps + other.steps,
            self.refused + other.refused,
            self.struck + other.struck,
            self.crashes + other.crashes,
            self.failures + other.failures,
            kinds,
        )

    def __str__(self) -> str:
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(self.kinds.items()))
        return (
            f"{self.steps} steps ({kinds}; {self.refused} refused), {self.struck} struck: "
            f"{self.crashes} crashes, {self.failures} failed operations"
        )


class Bench:
    """One service, and one shut-off VM at a time with its model. ``renew`` gives a fresh VM, after a difference."""

    def __init__(self, daemon: PrivateLibvirtd, service: StruckService, name: str = "truth") -> None:
        self.name = name
        self.daemon = daemon
        self.service = service
        self.figures = Figures()
        self.history: list[str] = []
        self.broken = True
        self._reader = Reader()
        self._made = 0
        self.vm: Vm
        self.model: Model

    def begin(self) -> None:
        """A VM without snapshots; the one of before when it is as its model says."""
        self.history.clear()
        if self.broken:
            self._made += 1
            self.service.spare()
            self.service.ensure_started()
            self.vm = make_vm(self.daemon, self.service, f"{self.name}-{self._made}", size=str(DISK_BYTES))
            self.model = Model(dict.fromkeys(TARGETS, (0,) * BLOCKS))
            self.broken = False

    def end(self) -> None:
        """Compare all, delete every snapshot, and compare the head again."""
        self.broken = True
        self.compare_by_qemu()
        while self.model.snapshots:
            leaf = next(name for name in reversed(self.model.snapshots) if len(self.model.children(name)) < 2)
            self.delete(leaf)
        self.compare_by_qemu()
        check_census(self.service)
        self.broken = False

    # --- steps ----------------------------------------------------------------------------------------------------

    def write(self, parts: Sequence[tuple[str, int, int, int]]) -> None:
        """Parts are (disk, first block, blocks, pattern)."""
        words: list[str] = []
        paths = self._head_paths()
        for target, first, count, pattern in parts:
            count = min(count, BLOCKS - first)  # noqa: PLW2901 -- up to the disk's end
            self.model = self.model.write(target, first, count, pattern)
            words += ["-c", f"open -o driver=qcow2 {paths[target]}"]
            words += ["-c", f"write -P {pattern} {first * BLOCK_BYTES} {count * BLOCK_BYTES}", "-c", "close"]
        with self._step("write", f"(disk, first block, blocks, pattern) {list(parts)}"):
            subprocess.run(["qemu-io", *words], check=True, capture_output=True)

    def create(self, name: str, description: str = "", strike: Strike | None = None) -> None:
        body = {"name": name, "description": description}
        self._request("create", f"{SNAPSHOT}/create", body, strike, lambda model: model.create(name, description))

    def modify(self, name: str, description: str) -> None:
        body = {"name": name, "description": description}
        self._request("modify", f"{SNAPSHOT}/modify", body, None, lambda model: model.modify(name, description))

    def rollback(self, name: str, strike: Strike | None = None) -> None:
        self._request("rollback", f"{SNAPSHOT}/rollback", {"name": name}, strike, lambda model: model.rollback(name))

    def rollback_disks(self, name: str, targets: tuple[str, ...], strike: Strike | None = None) -> None:
        """Each disk is an operation of its own: a crash may come between them."""
        listed = {entry["DiskDrive"]: entry for entry in self.vm.get(name)["disk_snapshot_list"]}
        body = {"disk_snapshot_list": [listed[target] for target in targets]}
        self._request("rollback_volume", VOLUMES, body, strike, *(_one_disk(name, target) for target in targets))

    def delete(self, name: str, strike: Strike | None = None) -> None:
        self._request("delete", f"{SNAPSHOT}/delete", {"name": name}, strike, lambda model: model.delete(name))

    # --- comparing ------------------------------------------------------------------------------------------------

    def compare(self) -> None:
        differing = self.differences(self.model)
        assert not differing, differing

    def differences(self, model: Model) -> list[str]:
        """Where the service differs: tree, list, head, and every byte of every snapshot and of the head."""
        found = tree_differences(self.vm, model)
        layers = {name: {disk: path for disk, (path, _) in of.items()} for name, of in layer_paths(self.vm).items()}
        layers["head"] = self._head_paths()
        for name, disks in (*((n, snap.disks) for n, snap in model.snapshots.items()), ("head", model.disks)):
            for target, contents in disks.items():
                path = layers.get(name, {}).get(target)
                if path is None:
                    found.append(f"{name} has no {target}")
                elif self._reader.read(path) != raw(contents):
                    found.append(f"{target} of {name} ({path}) is not what it was")
        return found

    def compare_by_qemu(self) -> None:
        """Every byte again, as qemu-img reads it too."""
        self._reader.forget()
        self.compare()
        layers = {name: {disk: path for disk, (path, _) in of.items()} for name, of in layer_paths(self.vm).items()}
        layers["head"] = self._head_paths()
        for path in {path for of in layers.values() for path in of.values()}:
            assert self._reader.read(path) == _converted(path), path

    def _head_paths(self) -> dict[str, str]:
        """The files that the VM's definition names."""
        found: dict[str, str] = {}
        for disk in self.vm.inspect()["disks"]:
            source = disk["disk_vsd_source"]
            found[disk["disk_target_device"]] = f"{source['pool_name']}/{source['volume_name']}"
        return found

    # --- requests -------------------------------------------------------------------------------------------------

    def _request(self, kind: str, path: str, body: dict[str, Any], strike: Strike | None, *acts: Act) -> None:
        """``acts``: what it means; more than one for a batch, of which each may fail alone."""
        with self._step(kind, f"{json.dumps(body, ensure_ascii=False)}; {strike or 'in peace'}"):
            if strike is None:
                self._follow(acts, self._send(path, body))
            else:
                self.figures.struck += 1
                self.service.strike(kill=strike.kill, fail=(strike.fail,) if strike.fail else ())
                answer = self._send(path, body)
                if answer is None:
                    self._crashed(acts, strike.again)
                else:
                    settle(self.service)
                    self.service.spare()
                    self._follow(acts, answer, strike)
                check_census(self.service)
            self.compare()

    def _send(self, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        return self.service.send(path, cluster_uuid="", compute_uuid=self.vm.uuid, **body)

    def _follow(self, acts: Sequence[Act], answer: dict[str, Any] | None, strike: Strike | None = None) -> None:
        """The model does what the caller was told."""
        assert answer is not None, "the service died"
        told = [result["scode"] for result in answer["data"].get("results", [answer])]
        for act, scode in zip(acts, told, strict=True):
            after = act(self.model)
            if isinstance(after, ErrorCase):
                assert scode == after.code, f"{answer}, not {after}"
                self.figures.refused += 1
            elif strike is not None and scode == ErrorCase.STORAGE_FAILED.code:
                self.figures.failures += 1  # and is undone
            elif strike is not None and scode == ErrorCase.LEFT_BEHIND.code:
                self.figures.failures += 1  # and has gone on by itself
                self.model = after
            else:
                assert scode == 0, answer
                self.model = after

    def _crashed(self, acts: Sequence[Act], again: At | None) -> None:
        """Exactly done, or not at all; of a batch the first ones."""
        self.figures.crashes += 1
        self.service.await_death()
        self._come_back(again)
        settle(self.service)
        self._reader.forget()
        may = [self.model]
        for act in acts:
            after = act(may[-1])
            may += [after] if isinstance(after, Model) else []
        differing = [self.differences(model) for model in may]
        assert [] in differing, f"neither done nor not at all: {differing}"
        self.model = may[differing.index([])]

    def _come_back(self, again: At | None) -> None:
        """Start it; ``again``: recovery is killed too, if that moment comes."""
        service = self.service
        service.spare()
        if again is not None:
            service.strike(kill=again)
            service.fork()
            eventually(lambda: service.is_dead or self._is_settled(), "recovery ends", timeout_s=120, poll_s=0.01)
            service.spare()
            if service.is_dead:
                self.figures.crashes += 1
                service.await_death()
        service.ensure_started()

    def _is_settled(self) -> bool:
        try:
            told = json.loads((self.service.state / "service.json").read_text())
        except (FileNotFoundError, ValueError):
            return False
        return told["pid"] == self.service.pid and not rows(self.service, OPEN)

    @contextmanager
    def _step(self, kind: str, words: str) -> Iterator[None]:
        self.history.append(f"{kind}: {words}")
        self.figures.steps += 1
        self.figures.kinds[kind] = self.figures.kinds.get(kind, 0) + 1
        try:
            yield
        except BaseException as error:
            self.broken = True
            error.add_note("\n".join(["every step of this run:", *self.history]))
            raise


def tree_differences(vm: Vm, model: Model) -> list[str]:
    """Where the service differs in tree, list and head; contents are not looked at."""
    tree = vm.tree()
    children = {name: below["Children"] for name, below in tree["Children"].items()}
    listed = {row["name"]: row["description"] for row in vm.list()["list"]}
    compared = (
        ("Parents", tree["Parents"], model.parents()),
        ("Children", children, model.tree()),
        ("list", listed, {name: snap.description for name, snap in model.snapshots.items()}),
        ("head", (vm.head() or {"name": ""})["name"], model.head),
    )
    return [f"{what} is {seen}, not {wanted}" for what, seen, wanted in compared if seen != wanted]


def _one_disk(name: str, target: str) -> Act:
    return lambda model: model.rollback_disks(name, [target])


def _converted(path: str) -> bytes:
    with tempfile.NamedTemporaryFile(prefix="sf-raw-", dir="/tmp") as converted:
        command = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, converted.name]
        subprocess.run(command, check=True, capture_output=True)
        return Path(converted.name).read_bytes()


@contextmanager
def open_bench() -> Iterator[Bench]:
    """A private libvirtd and a service on it that can be struck; both end with it."""
    with closing(Striker()) as striker, open_service(striker) as (daemon, service):
        yield Bench(daemon, service.start())
