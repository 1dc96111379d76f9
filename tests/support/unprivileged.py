"""The service as a user without any right of root's, on a daemon that lets its group in, as docs/operating.md sets it up."""

from __future__ import annotations

import os
import stat
import struct
import sys
from pathlib import Path

from support.private_libvirtd import Rights

# nobody, because libvirt wants its clients to have a name on the machine, and a group that is only a number
UID, GID, LIBVIRT_GID = 65534, 65534, 64902
RIGHTS = Rights(
    socket_group=f"+{LIBVIRT_GID}",
    socket_permissions="0770",
    qemu_user="libvirt-qemu",
    qemu_group="kvm",
    remember_owner=True,
)
_ACL_VERSION = 2
_USER_OWNER, _USER, _GROUP_OWNER, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x10, 0x20
_NO_ID = 0xFFFFFFFF

# Directories that only root may pass through (a Python below /root) are replaced, for this process, by empty ones that hold
# nothing but what is needed. $1 is an empty directory, then pairs of a closed directory and what is needed below it.
_ENTER = """\
set -e
scratch=$1; shift
mount -t tmpfs -o mode=755 stillframe-test "$scratch"
number=0
while [ "$1" != -- ]; do
  number=$((number + 1))
  mkdir "$scratch/$number"
  mount --bind "$2" "$scratch/$number"
  [ "$(stat -c %m "$1")" = "$1" ] || mount -t tmpfs -o mode=755 stillframe-test "$1"
  mkdir -p "$2"
  mount --bind "$scratch/$number" "$2"
  shift 2
done
shift
exec "$@"
"""


def prefix(scratch: Path) -> list[str]:
    """What stands before a command that is to run as that user: no capability, and none to be got."""
    scratch.mkdir()
    needed = [Path(sys.base_prefix), Path(sys.prefix), Path(__file__).parents[2]]
    closed = [str(word) for path in needed if (gate := _gate_of(path)) is not None for word in (gate, path.resolve())]
    user = [f"--reuid={UID}", f"--regid={GID}", f"--groups={LIBVIRT_GID}"]
    return [
        *("unshare", "--mount", "--propagation", "private", "sh", "-c", _ENTER, "sh", str(scratch), *closed, "--"),
        *("setpriv", *user, "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs", "--"),
    ]


def _gate_of(path: Path) -> Path | None:
    """The topmost directory on the way that others may not pass through."""
    for directory in reversed(path.resolve().parents):
        if not directory.stat().st_mode & stat.S_IXOTH:
            return directory
    return None


def allow(path: Path) -> None:
    """What ``setfacl -R -m u:<UID>:rwX,d:u:<UID>:rwX`` does to a directory and all in it."""
    for one in (path, *path.rglob("*")):
        mode = one.stat().st_mode
        rights = 7 if one.is_dir() else 6
        os.setxattr(one, "system.posix_acl_access", _acl(mode, rights))
        if one.is_dir():
            os.setxattr(one, "system.posix_acl_default", _acl(mode, rights))


def _acl(mode: int, rights: int) -> bytes:
    group = mode >> 3 & 7
    entries = [
        (_USER_OWNER, mode >> 6 & 7, _NO_ID),
        (_USER, rights, UID),
        (_GROUP_OWNER, group, _NO_ID),
        (_MASK, group | rights, _NO_ID),
        (_OTHER, mode & 7, _NO_ID),
    ]
    return struct.pack("<I", _ACL_VERSION) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
