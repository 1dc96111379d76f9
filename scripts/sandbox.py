"""Run packaging/stillframe.service under a real systemd, and take virtual machines through their snapshots in its sandbox.

    scripts/sandbox.py [--root]        as the service's own user, or with packaging/stillframe-root.conf

This machine's own file system, with a layer over it that is thrown away, is booted as a container (systemd-nspawn) with a
libvirtd and the service in it. Needs root, Debian's systemd-container, and a Python of the system's (/usr/bin/python3) of
the version of .venv's. Exit code 0 when every step went through.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HERE / "tests"))

import httpx

from support import unprivileged
from support.ending import end_in_order
from support.offline import Lot, domain_xml, file_disk, image
from support.service import AdminKey, Service, Vm, eventually

UID, GID, LIBVIRT = 64901, 64901, "libvirt"
STATE, IMAGES = Path("/var/lib/stillframe"), Path("/var/lib/libvirt/images")
_LIBVIRTD_UNIT = """\
[Service]
Type=exec
ExecStart=/usr/sbin/libvirtd
KillMode=process
"""
_LIBVIRTD_CONF = f"""\
auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_group = "{LIBVIRT}"
unix_sock_rw_perms = "0770"
"""
_QEMU_CONF = """\
user = "libvirt-qemu"
group = "kvm"
stdio_handler = "file"
security_driver = "none"
cgroup_controllers = []
namespaces = []
"""
_TARGET = """\
[Unit]
Wants=libvirtd.service stillframe.service try.service
AllowIsolate=yes
"""
_TRY = """\
[Unit]
After=libvirtd.service stillframe.service
[Service]
Type=oneshot
ExecStart=/bin/sh -c '/opt/stillframe/bin/python /opt/try/scripts/sandbox.py --inside >/opt/try/said 2>&1 && touch /opt/try/good'
ExecStopPost=/bin/sh -c 'journalctl --no-pager -u stillframe >/opt/try/journal 2>&1; systemctl --no-block poweroff -f'
"""


# --- outside: the container


@contextmanager
def layered_root() -> Iterator[Path]:
    """This machine's root directory with a layer over it; nothing of what is done to it stays."""
    place = Path(tempfile.mkdtemp(prefix="sfc-", dir="/tmp"))
    run("mount", "-t", "tmpfs", "-o", "size=3g", "stillframe-sandbox", str(place))
    try:
        for name in ("upper", "work", "root"):
            (place / name).mkdir()
        layers = f"lowerdir=/,upperdir={place}/upper,workdir={place}/work"
        run("mount", "-t", "overlay", "-o", layers, "stillframe-sandbox", str(place / "root"))
        try:
            yield place / "root"
        finally:
            unmount(place / "root")
    finally:
        unmount(place)
        place.rmdir()


def unmount(place: Path) -> None:
    """A process that has just been killed may hold it for a moment."""
    for _ in range(50):
        if subprocess.run(["umount", str(place)], capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.1)
    run("umount", str(place))


def furnish(root: Path, *, as_root: bool) -> None:
    """Install service, libvirtd and what is to be tried; the images' directory belongs to root, with a list for the user."""
    install(root)
    units = root / "etc/systemd/system"
    shutil.copy(HERE / "packaging/stillframe.service", units)
    if as_root:
        (units / "stillframe.service.d").mkdir()
        shutil.copy(HERE / "packaging/stillframe-root.conf", units / "stillframe.service.d/root.conf")
    for name, text in (("libvirtd.service", _LIBVIRTD_UNIT), ("try.target", _TARGET), ("try.service", _TRY)):
        (units / name).write_text(text)
    (root / "etc/libvirt/libvirtd.conf").write_text(_LIBVIRTD_CONF)
    (root / "etc/libvirt/qemu.conf").write_text(_QEMU_CONF)
    (root / "etc/machine-id").write_text("1" * 32 + "\n")
    for name, line in (
        ("passwd", f"stillframe:x:{UID}:{GID}::/nonexistent:/bin/false"),
        ("group", f"stillframe:x:{GID}:"),
    ):
        with (root / "etc" / name).open("a") as file:
            file.write(line + "\n")
    shutil.copytree(HERE / "tests/support", root / "opt/try/tests/support")
    (root / "opt/try/scripts").mkdir()
    shutil.copy(__file__, root / "opt/try/scripts")


def install(root: Path) -> None:
    """The packages of .venv below /opt/stillframe, on a Python that ProtectHome=yes does not hide."""
    target, version = root / "opt/stillframe", f"python{sys.version_info.major}.{sys.version_info.minor}"
    run("/usr/bin/python3", "-m", "venv", "--without-pip", str(target))
    packages = target / "lib" / version / "site-packages"
    if not packages.is_dir():
        sys.exit(f"/usr/bin/python3 is not {version}, which .venv was made with")
    shutil.copytree(Path(sys.prefix) / "lib" / version / "site-packages", packages, dirs_exist_ok=True)
    for link in packages.glob("*stillframe*.pth"):
        link.unlink()
    shutil.copytree(HERE / "src/stillframe", packages / "stillframe")
    shutil.copytree(Path(sys.prefix) / "share/stillframe", target / "share/stillframe")
    program = target / "bin/stillframe"
    program.write_text("#!/opt/stillframe/bin/python\nfrom stillframe.cli.main import main\n\nmain()\n")
    program.chmod(0o755)


def boot(root: Path) -> bool:
    """Boot it and wait until it has switched itself off; true when all went through."""
    command = ["systemd-nspawn", "-q", "-D", str(root), "--register=no", "--keep-unit", "--private-network", "--boot"]
    words = shlex.join([*command, "--", "systemd.unit=try.target"])
    # whatever ends us ends the container: with the first process of a process namespace all others in it go
    alone = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]
    # systemd wants a terminal: script(1) gives it one
    command = [*alone, "script", "-qc", words, "/dev/null"]
    with Path(root.parent, "console").open("wb") as console:
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=console, timeout=900, check=False)
    told = [root / "opt/try/said", root / "opt/try/journal"]
    for path in told if told[0].exists() else [root.parent / "console"]:
        print(path.read_text(errors="replace"))
    return (root / "opt/try/good").exists()


def run(*command: str) -> None:
    subprocess.run(command, check=True)


# --- inside: the virtual machines


def inside() -> None:
    """Snapshots of a VM in the images' directory, running and off; doctor finds nothing afterwards."""
    eventually((STATE / "service.json").exists, "the service is up", timeout_s=120)
    tell_rights()
    with adopted_vm() as vm:
        take_through(vm)
        findings = vm.service.get("/v1/stillframe/doctor", deep="true")["findings"]
    if findings:
        sys.exit(f"doctor found {findings}")
    print("all went through")


def tell_rights() -> None:
    pid = subprocess.run(
        ["systemctl", "show", "-P", "MainPID", "stillframe"], capture_output=True, text=True, check=True
    ).stdout.strip()
    wanted = ("Uid", "Groups", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp")
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.partition(":")[0] in wanted:
            print(line)


def remote() -> Service:
    """The service of the container, spoken to with its own administrator's key."""
    service = Service()
    service.state = STATE
    url = json.loads((STATE / "service.json").read_text())["url"]
    service.http = httpx.Client(base_url=url, timeout=300, auth=AdminKey(STATE))
    return service


@contextmanager
def adopted_vm() -> Iterator[Vm]:
    directory = IMAGES / "vm"
    directory.mkdir(parents=True)
    one = Lot("adopted", str(uuid.uuid4()), directory)
    disk = image(directory / "disk-0.qcow2")
    disk.chmod(0o600)
    (directory / "console.log").touch()
    unprivileged.UID = UID
    unprivileged.allow(directory)
    (directory / "domain.xml").write_text(domain_xml(one, [file_disk(disk, "vda")]))
    run("virsh", "-q", "define", str(directory / "domain.xml"))
    yield one.vm(remote())


def take_through(vm: Vm) -> None:
    """Off and running, with memory, rolled back, merged."""
    vm.create("off")
    vm.start()
    vm.await_ticks(3)
    vm.create("memory", memory=True)
    vm.await_ticks(3)
    vm.rollback("memory", memory=True)
    vm.await_ticks(3)
    vm.create("disks")
    vm.delete("off")
    vm.shutoff()
    vm.rollback("disks")
    vm.delete("memory")
    vm.delete("disks")
    if torn := vm.witness().torn():
        sys.exit(f"{vm.name}: {torn}")
    print(f"{vm.name}: {len(vm.witness().ticks())} ticks, none torn")


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Run the systemd unit in a container and take VMs through its sandbox."
    )
    parser.add_argument("--root", action="store_true", help="with packaging/stillframe-root.conf")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.inside:
        inside()
        return 0
    if os.geteuid() != 0:
        sys.exit("a container needs root")
    end_in_order()
    with layered_root() as root:
        furnish(root, as_root=told.root)
        return 0 if boot(root) else 1


if __name__ == "__main__":
    sys.exit(main())
