"""The guest's screen as PNG."""

from __future__ import annotations

import io
from typing import Any

import libvirt
from PIL import Image, UnidentifiedImageError

_MAX_BYTES = 64 << 20  # a 4K screen in PPM takes 25 MiB


def take_screenshot(conn: Any, domain: Any) -> tuple[bytes, str]:
    """(PNG, "") or (b"", why there is none). A screen that cannot be had never fails a snapshot."""
    try:
        stream = conn.newStream(0)
        domain.screenshot(stream, 0, 0)
        raw = _read(stream)
    except libvirt.libvirtError as error:
        return b"", error.get_error_message()
    try:
        with Image.open(io.BytesIO(raw)) as image:
            out = io.BytesIO()
            image.save(out, format="PNG")
    except (UnidentifiedImageError, OSError) as error:
        return b"", f"the screen's image could not be read: {error}"
    return out.getvalue(), ""


def _read(stream: Any) -> bytes:
    chunks: list[bytes] = []
    total = 0
    while True:
        chunk = stream.recv(1 << 18)
        if not chunk:
            stream.finish()
            return b"".join(chunks)
        total += len(chunk)
        if total > _MAX_BYTES:
            stream.abort()
            return b""
        chunks.append(chunk)
