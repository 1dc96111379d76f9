"""A real libvirtd with domains that nobody registered: adopted as they are, raw disks and CD-ROMs included.

The daemon is private to the test (a mount namespace of its own); Stillframe reaches it through its socket.
"""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from stillframe.adapters.libvirt.guest import guest_image_dir
from support.checksums import checksum_image
from support.private_libvirtd import PrivateLibvirtd
from support.service import Service, Vm, running_service

pytestmark = pytest.mark.guest

DOMAIN = """
<domain type='qemu'>
  <name>{name}</name><uuid>{uuid}</uuid>
  <description>made by hand, long before Stillframe</description>
  <memory unit='MiB'>128</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{image}/vmlinuz</kernel><initrd>{image}/initrd.gz</initrd>
    <cmdline>console=ttyS0 quiet no_timer_check mb=16 dirty=10</cmdline></os>
  <features><acpi/></features><cpu mode='maximum'/>
  <devices>
    <disk type='file' device='disk'><driver name='qemu' type='raw' cache='none'/>
      <source file='{dir}/{name}.img'/><target dev='vda' bus='virtio'/></disk>
    <disk type='file' device='cdrom'><driver name='qemu' type='raw'/>
      <source file='{dir}/cd.iso'/><target dev='sda' bus='sata'/><readonly/></disk>
    <serial type='file'><source path='{dir}/{name}.log' append='on'/><target port='0'/></serial>
    <graphics type='vnc' autoport='yes' listen='127.0.0.1' passwd='secret12'/><video><model type='vga'/></video>
    <memballoon model='none'/>
  </devices>
</domain>
"""


@pytest.fixture(scope="module")
def daemon() -> Iterator[PrivateLibvirtd]:
    with PrivateLibvirtd() as private:
        yield private


@pytest.fixture(scope="module")
def service(daemon: PrivateLibvirtd) -> Iterator[Service]:
    with running_service(daemon.uri) as running:
        yield running


def virsh(daemon: PrivateLibvirtd, *arguments: str) -> str:
    done = subprocess.run(["virsh", "-c", daemon.uri, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def adopted(daemon: PrivateLibvirtd, service: Service) -> Iterator[Vm]:
    directory = service.state / "images"
    directory.mkdir(exist_ok=True)
    name, vm_uuid = "old-server", str(uuid.uuid4())
    (directory / "cd.iso").write_bytes(b"CD" * 4096)
    subprocess.run(["qemu-img", "create", "-q", "-f", "raw", f"{directory}/{name}.img", "256M"], check=True)
    xml = directory / "domain.xml"
    xml.write_text(DOMAIN.format(name=name, uuid=vm_uuid, image=guest_image_dir(), dir=directory))
    virsh(daemon, "define", str(xml))
    virsh(daemon, "start", name)
    vm = Vm(service, vm_uuid, name, directory / f"{name}.log")
    try:
        vm.await_ticks(10)
        yield vm
    finally:
        subprocess.run(["virsh", "-c", daemon.uri, "destroy", name], capture_output=True, check=False)
        virsh(daemon, "undefine", name, "--managed-save")


def test_a_foreign_domain_is_adopted_snapshotted_and_given_back(daemon: PrivateLibvirtd, adopted: Vm) -> None:
    vm = adopted
    raw = f"{vm.console.parent if vm.console else ''}/{vm.name}.img"
    assert vm.uuid in [row["uuid"] for row in vm.service.get("/v1/compute/list")["domains"]]

    first = vm.create("with memory", memory=True)
    assert [disk["DiskDrive"] for disk in first["disk_snapshot_list"]] == ["vda"], "the CD-ROM is left alone"
    assert first["attr"]["capture_mode"] == "background-snapshot"
    assert "secret12" not in json.dumps(first), "the VNC password leaves the service nowhere"
    frozen = checksum_image(raw, "raw")
    vm.create("disks")
    vm.await_ticks(30)

    vm.rollback("with memory", memory=True)
    vm.await_ticks(30)
    (jump,) = vm.witness().jumps()
    assert jump[0][0] == jump[1][0], "the same boot id: it resumed"
    assert vm.witness().torn() == []
    assert checksum_image(raw, "raw") == frozen
    assert "secret12" in virsh(daemon, "dumpxml", "--security-info", vm.name), "the configuration came back whole"
    assert "made by hand" in virsh(daemon, "dumpxml", vm.name)
    assert "cd.iso" in virsh(daemon, "domblklist", vm.name)

    vm.delete("disks")
    vm.delete("with memory")
    assert vm.disk_path() == raw
    assert 'type="raw"' in virsh(daemon, "dumpxml", vm.name).replace("'", '"'), "raw again after the last delete"
    vm.await_ticks(20)
    assert vm.witness().torn() == []
    left = {path.name for path in Path(raw).parent.iterdir()}
    assert left == {"cd.iso", "domain.xml", f"{vm.name}.img", f"{vm.name}.log"}, "no file of ours remains"


def test_libvirts_own_snapshots_still_work_after_ours(daemon: PrivateLibvirtd, adopted: Vm) -> None:
    """Migration capabilities are sticky in QEMU: ours are cleared, after a capture and after a restore."""
    vm = adopted
    vm.create("ours", memory=True)
    vm.rollback("ours", memory=True)
    vm.await_ticks(5)
    memory = f"{vm.service.state}/images/virsh.mem"
    overlay = f"{vm.service.state}/images/virsh.qcow2"
    virsh(
        daemon, "snapshot-create-as", vm.name, "theirs", "--live", "--atomic", "--no-metadata",
        "--memspec", f"file={memory}", "--diskspec", f"vda,snapshot=external,file={overlay}", "--diskspec", "sda,snapshot=no",
    )  # fmt: skip
    vm.await_ticks(5)
    assert vm.witness().torn() == []
    answer = vm.service.raw(
        "POST",
        "/v1/compute/vsd/snapshot/delete",
        json={"cluster_uuid": "", "compute_uuid": vm.uuid, "name": "ours"},
    )
    assert answer["scode"] == 23012, f"a disk on a layer that we do not know is drift, and said so: {answer}"
