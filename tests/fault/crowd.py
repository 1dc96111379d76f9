"""Many clients at once on a few VMs, and the replay of what was accepted on the model."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from fault.model import BLOCKS, Model
from fault.truth import TARGETS, VOLUMES, Bench
from stillframe.domain.errors import ErrorCase
from support.lab import settle
from support.ledger import check_census, rows
from support.private_libvirtd import PrivateLibvirtd
from support.service import SNAPSHOT, AdminKey
from support.struck import Striker, StruckService

_ACCEPTED = (
    "SELECT kind, snapshot FROM operations WHERE vm_uuid = ? AND state = 'done' AND plan <> '' AND id > ? ORDER BY id"
)
_MOST_SNAPSHOTS = 9  # of a VM: beyond it the crowd deletes more than it creates, so that chains stay below their limit
_EXPECTED = {
    ErrorCase.VM_BUSY.code,
    ErrorCase.NAME_TAKEN.code,
    ErrorCase.SNAPSHOT_UNKNOWN.code,
    ErrorCase.SNAPSHOT_HAS_CHILDREN.code,
    ErrorCase.VOLUME_UNKNOWN.code,
}
_WEIGHTS = {"create": 5, "delete": 4, "rollback": 4, "rollback_volume": 3, "modify": 3, "list": 2, "get": 2, "tree": 2}
KEPT = "kept"  # a snapshot of every VM that nobody deletes
_READS = ("list", "get", "tree")


@dataclass(frozen=True)
class Modified:
    """A description that was accepted, and when its request was under way."""

    name: str
    description: str
    begun: float
    ended: float


@dataclass
class Crowd:
    """``answers`` counts (call, scode)."""

    service: StruckService
    benches: list[Bench]
    random: random.Random
    seed: int
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    _modified: dict[str, list[Modified]] = field(default_factory=dict)
    _told: dict[str, Counter[tuple[str, str]]] = field(default_factory=dict)
    _disks: dict[str, tuple[str, str]] = field(default_factory=dict)  # uuid of a disk snapshot -> snapshot, target
    _entries: defaultdict[str, list[dict[str, str]]] = field(default_factory=lambda: defaultdict(list))
    _names: dict[str, list[str]] = field(default_factory=dict)  # by VM: names that may exist
    _last: dict[str, int] = field(default_factory=dict)  # by VM: the journal's last operation before the crowd came
    _created: int = 0

    def __str__(self) -> str:
        calls = {call: [0, 0, 0] for call in _WEIGHTS}
        for (call, scode), count in self.answers.items():
            calls[call][0 if scode == 0 else 1 if scode == ErrorCase.VM_BUSY.code else 2] += count
        told = ", ".join(f"{call} {ok} ({busy} busy, {no} refused)" for call, (ok, busy, no) in calls.items())
        return f"crowd: {sum(self.answers.values())} requests: {told}"

    def accepted(self, call: str) -> int:
        return self.answers[call, 0]

    @property
    def busy(self) -> int:
        return sum(count for (_call, scode), count in self.answers.items() if scode == ErrorCase.VM_BUSY.code)

    # --- pressing -------------------------------------------------------------------------------------------------

    def press(self, seconds: float, in_flight: int) -> None:
        """New contents in every head; then as many clients as said make one request after the other for a while."""
        self._last = {bench.vm.uuid: self._last_operation(bench) for bench in self.benches}
        for bench in self.benches:
            parts = [(t, self.random.randrange(BLOCKS), 20, self.random.randrange(1, 256)) for t in TARGETS]
            bench.write(parts)
            self._names[bench.vm.uuid] = list(bench.model.snapshots)
            self._modified[bench.vm.uuid] = []
            self._told[bench.vm.uuid] = Counter()
        asyncio.run(self._press(seconds, in_flight))

    def _last_operation(self, bench: Bench) -> int:
        ((last,),) = rows(self.service, "SELECT COALESCE(MAX(id), 0) FROM operations WHERE vm_uuid = ?", bench.vm.uuid)
        return int(last)

    async def _press(self, seconds: float, in_flight: int) -> None:
        # an idle connection that the service closes at the moment of its next use would look like a crash
        auth = AdminKey(self.service.state)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        async with httpx.AsyncClient(base_url=self.service.url, timeout=300, limits=limits, auth=auth) as http:
            until = time.monotonic() + seconds
            await asyncio.gather(*(self._client(http, until) for _ in range(in_flight)))

    async def _client(self, http: httpx.AsyncClient, until: float) -> None:
        while time.monotonic() < until:
            bench = self.random.choice(self.benches)
            (call,) = self.random.choices(list(_WEIGHTS), list(_WEIGHTS.values()))
            if call in _READS:
                await self._look(http, bench, call)
            else:
                await self._act(http, bench, call)

    async def _look(self, http: httpx.AsyncClient, bench: Bench, call: str) -> None:
        params = {"cluster_uuid": "", "compute_uuid": bench.vm.uuid}
        if call == "get":
            params["name"] = self._some_name(bench)
        answer = (await http.get(f"{SNAPSHOT}/{call}", params=params)).json()
        self.answers[call, answer["scode"]] += 1
        unknown = call == "get" and answer["scode"] == ErrorCase.SNAPSHOT_UNKNOWN.code
        assert answer["scode"] == 0 or unknown, f"a reader is never refused: {answer}"
        if call == "get" and not unknown:
            snapshot = answer["data"]
            for entry in snapshot["disk_snapshot_list"]:
                self._disks[entry["SnapshotUuid"]] = (snapshot["name"], entry["DiskDrive"])
                known = self._entries[bench.vm.uuid]
                if entry not in known:
                    known.append(entry)

    async def _act(self, http: httpx.AsyncClient, bench: Bench, call: str) -> None:
        """Every request is about one thing, so that one answer says what became of it."""
        uuid = bench.vm.uuid
        if call == "create" and len(self._names[uuid]) > _MOST_SNAPSHOTS:
            call = "delete"
        asked = self._ask(bench, call)
        if asked is None:
            return
        path, body = asked
        begun = time.monotonic()
        answer = (await http.post(path, json={"cluster_uuid": "", "compute_uuid": uuid, **body})).json()
        ended = time.monotonic()
        (result,) = answer["data"].get("results", [answer])
        scode = result["scode"]
        self.answers[call, scode] += 1
        assert scode == 0 or scode in _EXPECTED, result
        if scode:
            return
        if call == "modify":
            self._modified[uuid].append(Modified(body["name"], body["description"], begun, ended))
            return
        about = body["disk_snapshot_list"][0]["SnapshotUuid"] if call == "rollback_volume" else body["name"]
        self._told[uuid][call, about] += 1
        if call == "create":
            self._names[uuid].append(about)
        elif call == "delete":
            self._names[uuid].remove(about)

    def _ask(self, bench: Bench, call: str) -> tuple[str, dict[str, Any]] | None:
        """Path and body of a request; None when there is nothing yet to ask for."""
        name = self._some_name(bench)
        match call:
            case "create":
                return f"{SNAPSHOT}/create", {"name": self._new_name()}
            case "modify":
                return f"{SNAPSHOT}/modify", {"name": name, "description": f"{self.random.randrange(1 << 30)}"}
            case "rollback_volume":
                there = self._names[bench.vm.uuid]
                entries = [e for e in self._entries[bench.vm.uuid] if self._disks[e["SnapshotUuid"]][0] in there]
                return (VOLUMES, {"disk_snapshot_list": [self.random.choice(entries)]}) if entries else None
            case "delete" if name == KEPT:
                return None
        return f"{SNAPSHOT}/{call}", {"name": name}

    def _some_name(self, bench: Bench) -> str:
        return self.random.choice([*self._names[bench.vm.uuid], "no such"])

    def _new_name(self) -> str:
        """Now and then one that is taken for good. No other is ever used again, so that it names one snapshot."""
        if self.random.randrange(8) == 0:
            return KEPT
        self._created += 1
        return f"s{self._created}"

    # --- comparing ------------------------------------------------------------------------------------------------

    def compare(self) -> None:
        """Nothing is open; what was accepted is what callers were told; and it makes what there is, byte for byte."""
        try:
            settle(self.service)
            check_census(self.service)
            for bench in self.benches:
                self._replay(bench)
                bench.compare_by_qemu()
        except BaseException as error:
            error.add_note(f"seed: STILLFRAME_SEED={self.seed}\n{self}")
            raise

    def _replay(self, bench: Bench) -> None:
        done = rows(self.service, _ACCEPTED, bench.vm.uuid, str(self._last[bench.vm.uuid]))
        assert Counter((kind, about) for kind, about in done) == self._told[bench.vm.uuid]
        for kind, about in done:
            after = self._again(bench.model, kind, about)
            assert isinstance(after, Model), f"{kind} {about} was accepted, but must be refused: {after}"
            bench.model = after
        listed = {row["name"]: row["description"] for row in bench.vm.list()["list"]}
        for name in bench.model.snapshots:
            changes = [modified for modified in self._modified[bench.vm.uuid] if modified.name == name]
            # the last one: any that no other began after
            last = {m.description for m in changes if not any(other.begun > m.ended for other in changes)}
            if last:
                assert listed[name] in last, (name, listed[name], changes)
                changed = bench.model.modify(name, listed[name])
                assert isinstance(changed, Model)
                bench.model = changed

    def _again(self, model: Model, kind: str, about: str) -> Model | ErrorCase:
        match kind:
            case "create":
                return model.create(about)
            case "rollback":
                return model.rollback(about)
            case "delete":
                return model.delete(about)
            case "rollback_volume":
                name, target = self._disks[about]
                return model.rollback_disks(name, [target])
        raise AssertionError(f"nobody asked for {kind}")


@contextmanager
def open_crowd(vms: int, seed: int) -> Iterator[Crowd]:
    """A service with shut-off VMs that have a few snapshots of different contents."""
    striker = Striker()
    try:
        with PrivateLibvirtd() as daemon:
            service = StruckService(striker, daemon.uri)
            try:
                service.start()
                benches = [Bench(daemon, service, name=f"crowd-{number}") for number in range(vms)]
                for bench in benches:
                    bench.begin()
                    for number in range(3):
                        bench.write([(target, 16 * number, 24, 7 * number + 1) for target in TARGETS])
                        bench.create(KEPT if number == 0 else f"first {number}")
                yield Crowd(service, benches, random.Random(seed), seed)
            finally:
                service.destroy()
    finally:
        striker.close()
