"""A running witness guest beside the model; its disks' contents are known by their checksums alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

from fault.model import Model
from fault.truth import OPEN, strike_of, tree_differences
from stillframe.domain.errors import ErrorCase
from support.lab import make_vm, open_service, settle
from support.ledger import check_census, checksums, rows
from support.service import SNAPSHOT, Vm, eventually
from support.struck import At, Striker, StruckService

_NAMES = ("a", "b", "c", "d", "e")
_CRASH_EVERY = 4
_BACKGROUND = "save_memory"


@dataclass(frozen=True)
class Fixed:
    """What a snapshot was right after its creation."""

    disks: dict[str, str]
    boot: str
    has_memory: bool


@dataclass
class LiveBench:
    """``model`` holds the tree; the contents of its disks are left out."""

    service: StruckService
    vm: Vm
    model: Model = field(default_factory=lambda: Model({}))
    fixed: dict[str, Fixed] = field(default_factory=dict)
    history: list[str] = field(default_factory=list)
    crashes: int = 0

    def run(self, random: Random, steps: int) -> None:
        for _ in range(steps):
            self._step(random)
            self._compare()
        if not self.crashes:  # every strike of this seed was at a moment that nothing came to
            self._step(random, at_once=True)
            self._compare()
        check_census(self.service)

    def _step(self, random: Random, *, at_once: bool = False) -> None:
        """``at_once``: it is killed at the first moment of all, which every request comes to."""
        known = list(self.model.snapshots)
        call = random.choice(["create", "create", "rollback", "delete"]) if known else "create"
        body: dict[str, Any] = {"name": random.choice(_NAMES if call == "create" else known)}
        kinds = [call]
        if call == "create":
            body["domain_memory"] = random.random() < 0.6
            kinds += [_BACKGROUND] * body["domain_memory"]
        elif call == "rollback":
            body["domain_memory"] = self.fixed[body["name"]].has_memory and random.random() < 0.8
        kill = At(call, "", "claimed") if at_once else None
        if kill is None and random.randrange(_CRASH_EVERY) == 0:
            kill = strike_of(random.choice(kinds), random.randrange(1 << 12) * 8 + 7).kill
        self.history.append(f"{call} {body}, {f'kill at {kill}' if kill else 'in peace'}")
        if kill is not None:
            self.service.strike(kill=kill)
        answer = self.service.send(f"{SNAPSHOT}/{call}", cluster_uuid="", compute_uuid=self.vm.uuid, **body)
        self._come_back(answer)
        self._follow(call, body, answer)

    def _come_back(self, answer: dict[str, Any] | None) -> None:
        """No operation is open; the service was started again if it was struck, in the background or not."""
        if answer is None:
            self.service.await_death()
        eventually(lambda: self.service.is_dead or not rows(self.service, OPEN), "every operation ends", timeout_s=120)
        self.service.spare()
        if self.service.is_dead:
            self.crashes += 1
            self.service.start()
            settle(self.service)

    def _follow(self, call: str, body: dict[str, Any], answer: dict[str, Any] | None) -> None:
        name: str = body["name"]
        after = {"create": self.model.create, "rollback": self.model.rollback, "delete": self.model.delete}[call](name)
        if isinstance(after, ErrorCase):
            assert answer is None or answer["scode"] == after.code, answer
            return
        if answer is None and not self._is(after):
            return  # not at all: the comparison says whether that is so
        assert answer is None or answer["scode"] == 0, answer
        known = answer is not None or after.parents() != self.model.parents()
        if call == "rollback" and not self._went_back(name, memory=body["domain_memory"], known=known):
            return
        self.model = after
        if call == "create":
            attr = self.vm.get(name)["attr"]
            assert not body["domain_memory"] or attr["status"] == "available", attr
            self.fixed[name] = Fixed(checksums(self.vm)[name], self._boot(), body["domain_memory"])
        elif call == "delete":
            del self.fixed[name]

    def _is(self, model: Model) -> bool:
        return bool(self.vm.tree()["Parents"] == model.parents())

    def _went_back(self, name: str, *, memory: bool, known: bool) -> bool:
        """``known``: the caller was told so, or the tree says so; else false when the guest runs on as before."""
        if not memory:
            if self.vm.state() == "shutoff":
                self.vm.start()
                self.vm.await_ticks(3)
            else:
                assert not known, "a rollback without memory leaves the guest off"
                return False
            return True
        assert self.vm.state() == "running"
        self.vm.await_ticks(3)
        if known:
            assert self._boot() == self.fixed[name].boot, "the guest goes on from the memory that was saved"
        return True

    def _boot(self) -> str:
        return self.vm.witness().ticks()[-1][0]

    def _compare(self) -> None:
        assert self.vm.state() == "running"
        self.vm.await_ticks(3)
        assert self.vm.witness().torn() == []
        assert tree_differences(self.vm, self.model) == []
        assert checksums(self.vm) == {name: fixed.disks for name, fixed in self.fixed.items()}
        check_census(self.service)


@contextmanager
def open_live_bench() -> Iterator[LiveBench]:
    """A service that can be struck and one guest that ticks."""
    with closing(Striker()) as striker, open_service(striker) as (daemon, service):
        vm = make_vm(daemon, service.start(), "live", size="64M")
        vm.start()
        vm.await_ticks(10)
        yield LiveBench(service, vm)
