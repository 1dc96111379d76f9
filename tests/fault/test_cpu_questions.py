"""A guest that goes on without libvirt's questions about its CPU: it has the CPU that it had, and where libvirt will not have it so it
goes on all the same. On real guests.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from lxml import etree

from fault.test_too_late import Stopped, directory, finish, overlays, request_for
from stillframe.adapters.libvirt import cpu_questions
from stillframe.adapters.libvirt.capture import LibvirtPointInTime
from stillframe.adapters.libvirt.connection import Connection
from stillframe.adapters.libvirt.lazy_image import lives_on
from stillframe.adapters.libvirt.pause import Pauser
from stillframe.adapters.libvirt.restore import LibvirtRestorer
from stillframe.domain.errors import Failed
from stillframe.ports.hypervisor import SavedConfiguration
from support.ground import Ground
from support.service import Vm

pytestmark = pytest.mark.guest

TARGETS = ("vda", "vdb")
WORD = "cpu-unavailable-features"
CPUS = {
    "named": "<cpu mode='custom' match='exact' check='partial'><model fallback='allow'>Nehalem</model></cpu>",
    "as its maker gave it": "",
    "the host's": "<cpu mode='host-model' check='partial'/>",
}


@pytest.fixture(scope="module")
def connection(ground: Ground) -> Iterator[Connection]:
    with closing(Connection(ground.daemon.uri, call_timeout_s=60)) as opened:
        yield opened


def cpu_of(ground: Ground, vm: Vm) -> str:
    cpu = etree.fromstring(ground.virsh("dumpxml", vm.name)).find("cpu")
    assert cpu is not None
    text = re.sub(r' xmlns:\w+="[^"]*"', "", etree.tostring(cpu, encoding="unicode", with_tail=False))
    return etree.canonicalize(text, strip_text=True)


def features_in_qemu(ground: Ground, vm: Vm) -> tuple[str, int]:
    """What the guest sees of its CPU, in QEMU's own words; and how many questions libvirt has asked since it started it."""
    path = '"path": "/machine/unattached/device[0]"'
    answer = ground.qmp(vm, f'{{"execute": "qom-get", "arguments": {{{path}, "property": "feature-words"}}}}')
    found = json.loads(answer)
    return json.dumps(found["return"]), int(found["id"].removeprefix("libvirt-"))


class Saved:
    """A snapshot with memory of a guest, which can be gone back to."""

    def __init__(self, ground: Ground, connection: Connection, vm: Vm) -> None:
        self._ground, self._vm, self._times = ground, vm, 0
        self.restorer = LibvirtRestorer(connection)
        self._image = str(directory(vm) / "lazy.image")
        self._frozen = {target: vm.disk_path(target) for target in TARGETS}
        fixer = LibvirtPointInTime(connection, merge_timeout_s=60, pauser=Pauser(Stopped(vm).watch))
        request = request_for(vm, self._frozen, "saved")
        self._point = fixer.fix_point(request)
        # its name tells whose file a guest lives on
        path = Path(finish(fixer, self.restorer, request, self._point))
        self._memory = path.rename(path.with_name("0b7a4f0e-6f1e-4a5e-8d39-3f9a5a1b2c3d.mem"))

    def fail_to_go_back(self) -> None:
        with pytest.raises(Failed):
            self._restore(self._prepared())
        assert self._ground.domstate(self._vm) == "shut off"

    def go_back(self) -> None:
        configuration = self._prepared()
        mark = len(self._vm.witness().lines())
        self._restore(configuration)
        self._vm.await_ticks(10)
        assert self._vm.witness().resumption(mark).n > 0
        assert self._vm.witness().torn() == []
        assert len(self._vm.witness().boots()) == 1

    def _prepared(self) -> SavedConfiguration:
        """The VM is off."""
        self._times += 1
        new = overlays(self._vm, f"back-{self._times}", self._frozen)
        back = {target: (file, "qcow2") for target, file in new.items()}
        configuration = SavedConfiguration(self._vm.uuid, self._point.definition_xml, back)
        assert self.restorer.prepare_lazily(str(self._memory), self._image, configuration)
        if self._ground.domstate(self._vm) == "running":
            self._ground.virsh("destroy", self._vm.name)
        return configuration

    def _restore(self, configuration: SavedConfiguration) -> None:
        self.restorer.restore(str(self._memory), configuration, self._image)


@pytest.fixture
def vm(ground: Ground) -> Iterator[Vm]:
    vm = ground.vm(f"questions-{len(ground.vms)}", disks=2, memory_mib=128)
    yield vm
    if ground.domstate(vm) == "running":
        ground.virsh("destroy", vm.name)


def boot(ground: Ground, vm: Vm, cpu: str = "") -> Vm:
    root = etree.fromstring(ground.virsh("dumpxml", "--inactive", vm.name))
    for old in root.findall("cpu"):
        root.remove(old)
    if cpu:
        root.append(etree.fromstring(cpu))
    definition = Path(directory(vm) / "definition.xml")
    definition.write_bytes(etree.tostring(root))
    ground.virsh("define", str(definition))
    ground.virsh("start", vm.name)
    vm.await_ticks(5)
    return vm


@pytest.mark.parametrize("cpu", CPUS.values(), ids=CPUS)
def test_it_has_the_cpu_that_it_had(ground: Ground, connection: Connection, vm: Vm, cpu: str) -> None:
    boot(ground, vm, cpu)
    had = cpu_of(ground, vm)
    qemu_had, questions = features_in_qemu(ground, vm)
    saved = Saved(ground, connection, vm)
    saved.go_back()
    xml = ground.virsh("dumpxml", vm.name)
    assert WORD in xml, "nothing was spared"
    assert lives_on(xml)
    assert cpu_of(ground, vm) == had
    qemu_has, fewer = features_in_qemu(ground, vm)
    assert "features" in qemu_has
    assert qemu_has == qemu_had
    assert fewer < questions / 4
    assert WORD not in ground.virsh("dumpxml", "--inactive", vm.name)
    ground.virsh("destroy", vm.name)
    ground.virsh("start", vm.name)
    assert WORD not in ground.virsh("dumpxml", vm.name)
    assert cpu_of(ground, vm) == had


def test_a_libvirt_that_does_not_know_the_word(
    ground: Ground, connection: Connection, vm: Vm, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot(ground, vm)
    had = cpu_of(ground, vm)
    saved = Saved(ground, connection, vm)
    spared: list[str] = []
    spare = cpu_questions.spare

    def unknown(xml: str) -> str:
        spared.append(xml)
        return spare(xml).replace(WORD, "no-such-capability")

    monkeypatch.setattr(cpu_questions, "spare", unknown)
    saved.fail_to_go_back()
    for _ in range(2):
        saved.go_back()
        assert "no-such-capability" not in ground.virsh("dumpxml", vm.name)
        assert lives_on(ground.virsh("dumpxml", vm.name))
        assert cpu_of(ground, vm) == had
    assert len(spared) == 1, "it is not tried again in vain"
