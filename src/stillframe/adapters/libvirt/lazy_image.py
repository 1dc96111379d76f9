"""A guest whose memory stays in the saved file: QEMU maps it, and a page is read when it is touched first.

QEMU gets two things. The domain's XML names another backend for its RAM, a private mapping of the file's pages: what the
guest writes is its own, the file never changes. And a small image beside the file, for libvirt to restore from, holds all of
the stream but that RAM: its block has the backend's name there and no page, so QEMU loads none.

The backend needs a name of its own, because libvirt's stays in QEMU too, never touched. It is as long as the original
(``save_image.alias_of``): nothing in the stream moves.

Sources: QEMU qapi/qom.json (MemoryBackendFileProperties), docs/devel/migration/mapped-ram.rst; libvirt formatdomain.html,
"QEMU command line passthrough".
"""

from __future__ import annotations

import errno
import json
import os
import re
from contextlib import suppress
from pathlib import Path, PurePath

from lxml import etree
from lxml.etree import _Element as Element

from stillframe.adapters.libvirt import cpu_questions
from stillframe.adapters.libvirt.domain_xml import bytes_of, parse_domain, parse_xml
from stillframe.adapters.libvirt.save_image import alias_of
from stillframe.adapters.libvirt.save_image_stream import RamBlock
from stillframe.domain.errors import ErrorCase, Failed

_QEMU_URI = "http://libvirt.org/schemas/domain/qemu/1.0"
_COMMANDLINE, _ARG = f"{{{_QEMU_URI}}}commandline", f"{{{_QEMU_URI}}}arg"
_WORDS = 4  # -object, the backend, -machine, its name
_COPY_BYTES = 1 << 20
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# what gives the guest memory of another kind, shares it with somebody, or keeps it in place
_NEED_THEIR_OWN = (
    "memoryBacking",
    "maxMemory",
    "numatune",
    "cpu/numa",
    "launchSecurity",
    "devices/memory",
    "devices/hostdev",
    "devices/shmem",
    "devices/filesystem",
    "devices/interface[@type='vhostuser']",
    "devices/interface[@type='hostdev']",
    "devices/interface[@type='vdpa']",
    "devices/disk[@type='vhostuser']",
    "devices/disk[@type='vhostvdpa']",
    # QEMU cannot give a page of a read-only file back, and would say so for each
    "devices/memballoon[@freePageReporting='on']",
)


def why_not(xml: str) -> str:
    """Why a guest of this XML cannot live on a file; "" when it can."""
    root = parse_domain(xml)
    if root.get("type") not in ("kvm", "qemu"):
        return f"a domain of type {root.get('type')}"
    if any(label.get("type", "dynamic") != "dynamic" for label in root.iterfind("seclabel")):
        return "it has a security label of its own"
    return next((f"it has {path}" for path in _NEED_THEIR_OWN if root.find(path) is not None), "")


def memory_bytes(xml: str) -> int:
    """How much RAM QEMU is started with."""
    return bytes_of(parse_domain(xml).find("memory"))


def with_words(xml: str, memory_path: str, ram: RamBlock) -> str:
    """The XML with its RAM in this block of this file."""
    root = parse_domain(xml)
    alias = alias_of(ram.name)
    backend = {
        "qom-type": "memory-backend-file",
        "id": alias,
        "size": ram.used_bytes,
        "mem-path": memory_path,
        "offset": ram.pages_offset,
        "share": False,
        "readonly": True,  # the file; the mapping is private and may be written to
        "rom": "off",
    }
    line = root.find(_COMMANDLINE)
    if line is None:
        line = etree.SubElement(root, _COMMANDLINE, nsmap={"qemu": _QEMU_URI})
    for word in ("-object", json.dumps(backend), "-machine", f"memory-backend={alias}"):
        etree.SubElement(line, _ARG, value=word)
    return etree.tostring(root.getroottree(), encoding="unicode")


def without_words(xml: str) -> str:
    """The XML of a guest as it would be if it did not live on a file; words of others stay."""
    if "memory-backend-file" not in xml:
        return xml
    root = parse_domain(xml)
    found = _words_in(root)
    if not found:
        return xml
    line = found[0].getparent()
    for word in found:
        if line is not None:
            line.remove(word)
    if line is not None and not len(line):
        root.remove(line)
    cpu_questions.forget(root)
    return etree.tostring(root.getroottree(), encoding="unicode")


def lives_on(xml: str) -> str:
    """The uuid of the memory state whose file a guest of this XML has its RAM in; "" for any other."""
    if "memory-backend-file" not in xml:
        return ""
    found = _words_in(parse_domain(xml))
    stem = PurePath(str(_backend_in(found[1])["mem-path"])).stem if found else ""
    return stem if _UUID.fullmatch(stem) else ""


def loses_writes(xml: str) -> bool:
    """QEMU would save such a guest with old versions of pages if it ran meanwhile.

    Under emulation QEMU 10.0 looks for the written pages of a block at the block's own offsets, and not where the block
    lies among all of them (physical_memory_sync_dirty_bitmap): those are the same for the first block alone, which is
    libvirt's. KVM keeps such pages itself.
    """
    return "memory-backend-file" in xml and parse_domain(xml).get("type") == "qemu" and bool(lives_on(xml))


def write_image(memory_path: str, image_path: str, ram: RamBlock) -> None:
    """All of a finished memory file but the pages of its RAM, as a new file of mode 0600.

    Raises:
        Failed: SPACE_EXHAUSTED or STORAGE_FAILED; nothing of it is left then, if that could be removed.
    """
    try:
        with suppress(FileNotFoundError):
            Path(image_path).unlink()
        source = os.open(memory_path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            image = os.open(image_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                length = os.fstat(source).st_size
                os.ftruncate(image, length)
                _copy_data(source, image, 0, ram.bitmap_offset)
                _copy_data(source, image, ram.pages_offset + ram.used_bytes, length)
                os.pwrite(image, alias_of(ram.name).encode(), ram.name_offset)
            finally:
                os.close(image)
        finally:
            os.close(source)
    except OSError as error:
        with suppress(OSError):
            Path(image_path).unlink()
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        case = ErrorCase.SPACE_EXHAUSTED if full else ErrorCase.STORAGE_FAILED
        raise Failed(case, f"{image_path}: {error.strerror}") from error


def _copy_data(source: int, image: int, start: int, end: int) -> None:
    """Between these offsets, but for what both files have holes for."""
    position = start
    while position < end:
        try:
            position = os.lseek(source, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        behind = min(os.lseek(source, position, os.SEEK_HOLE), end)
        while position < behind:
            data = os.pread(source, min(_COPY_BYTES, behind - position), position)
            if not data:
                raise OSError(errno.EIO, "the memory file became shorter while it was read")
            position += os.pwrite(image, data, position)


def _words_in(root: Element) -> list[Element]:
    """Our four words in a domain's XML; none when it has none."""
    args = root.findall(f"{_COMMANDLINE}/{_ARG}")
    for at in range(len(args) - _WORDS + 1):
        found = args[at : at + _WORDS]
        backend = _backend_in(found[1])
        words = (found[0].get("value"), found[2].get("value"), found[3].get("value"))
        if backend and words == ("-object", "-machine", f"memory-backend={backend['id']}"):
            return found
    return []


def _backend_in(word: Element) -> dict[str, object]:
    """The backend that a word of ours describes; nothing for a word of another's."""
    try:
        backend = json.loads(word.get("value", ""))
    except ValueError:
        return {}
    ours = (
        isinstance(backend, dict) and backend.get("qom-type") == "memory-backend-file" and backend.get("rom") == "off"
    )
    return backend if ours and {"id", "mem-path"} <= backend.keys() else {}


def may_open(capabilities_xml: str, path: str) -> bool:
    """QEMU, as libvirt starts it by these capabilities, may open this file by itself.

    Where another security driver than DAC confines it, that is not to be told from here; no, then.
    """
    root = parse_xml(capabilities_xml)
    models = [model for model in root.iterfind("host/secmodel") if model.findtext("model") not in ("none", None)]
    if [model.findtext("model") for model in models] not in ([], ["dac"]):
        return False
    label = next((text.text or "" for model in models for text in model.iterfind("baselabel")), "")
    ids = re.fullmatch(r"\+(\d+):\+(\d+)", label.strip())
    uid, gid = (int(ids[1]), int(ids[2])) if ids else (os.geteuid(), os.getegid())
    return uid == 0 or _is_open_to(path, uid, gid)


def _is_open_to(path: str, uid: int, gid: int) -> bool:
    """By mode bits alone; no for what cannot be looked at."""
    try:
        for part in (*Path(path).parents, Path(path)):
            status = part.stat()
            wanted = 0o4 if str(part) == path else 0o1
            shift = 6 if status.st_uid == uid else 3 if status.st_gid == gid else 0
            if not status.st_mode >> shift & wanted:
                return False
    except OSError:
        return False
    return True
