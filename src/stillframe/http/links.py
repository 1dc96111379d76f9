"""Links that an image element can use: they need no key, name one thing, and expire."""

from __future__ import annotations

from dataclasses import dataclass

from stillframe.domain.snapshot import ShownSnapshot, SnapshotCard
from stillframe.operations.links import SCREENSHOT, LinkSigner

SCREENSHOT_PATH = "/v1/compute/vsd/snapshot/screenshot"


@dataclass(frozen=True)
class Links:
    """Makes them. ``base_url``: under which clients reach the service."""

    base_url: str
    signer: LinkSigner

    def screenshot(self, snapshot: ShownSnapshot | SnapshotCard) -> str:
        """Empty when the snapshot has none."""
        if not snapshot.screenshot_checksum:
            return ""
        return f"{self.base_url}{SCREENSHOT_PATH}/{snapshot.uuid}.png?{self.signer.query(SCREENSHOT, snapshot.uuid)}"

    def screenshot_ssl(self, snapshot: ShownSnapshot) -> str:
        """The same, where it goes through TLS; else empty."""
        return self.screenshot(snapshot) if self.base_url.startswith("https:") else ""
