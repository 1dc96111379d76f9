"""Links that an image element can use: they need no key, name one thing, and expire."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from stillframe.domain.snapshot import ShownSnapshot, SnapshotCard
from stillframe.operations.links import SCREENSHOT, LinkSigner

SCREENSHOT_PATH = "/v1/compute/vsd/snapshot/screenshot"


class Signer(Protocol):
    """``LinkSigner`` or ``SignerWhenNeeded``."""

    def query(self, kind: str, uuid: str) -> str: ...


class SignerWhenNeeded:
    """A signer that is made with its first link: most answers have none. Making it blocks."""

    def __init__(self, make: Callable[[], LinkSigner]) -> None:
        self._make = make
        self._made: LinkSigner | None = None

    def query(self, kind: str, uuid: str) -> str:
        if self._made is None:
            self._made = self._make()
        return self._made.query(kind, uuid)


@dataclass(frozen=True)
class Links:
    """Makes them. ``base_url``: under which clients reach the service."""

    base_url: str
    signer: Signer

    def screenshot(self, snapshot: ShownSnapshot | SnapshotCard) -> str:
        """Empty when the snapshot has none."""
        if not snapshot.screenshot_checksum:
            return ""
        return f"{self.base_url}{SCREENSHOT_PATH}/{snapshot.uuid}.png?{self.signer.query(SCREENSHOT, snapshot.uuid)}"

    def screenshot_ssl(self, snapshot: ShownSnapshot) -> str:
        """The same, where it goes through TLS; else empty."""
        return self.screenshot(snapshot) if self.base_url.startswith("https:") else ""
