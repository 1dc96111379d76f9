"""The checksum of a text that is kept in the database."""

from __future__ import annotations

from blake3 import blake3


def text_checksum(text: str) -> str:
    return "blake3:" + blake3(text.encode()).hexdigest()
