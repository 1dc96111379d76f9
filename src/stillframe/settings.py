"""Every setting, in one place. Environment: ``STILLFRAME_<NAME>``; the command line overrides.

Sizes are bytes, times seconds.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


def _default_state_dir() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/stillframe")
    return Path(os.environ.get("XDG_STATE_HOME", str(Path.home() / ".local" / "state"))) / "stillframe"


class Settings(BaseSettings):
    """What an operator may choose."""

    model_config = SettingsConfigDict(env_prefix="STILLFRAME_", frozen=True)

    state: Path = Field(
        default_factory=_default_state_dir, description="Directory of the database, memory states, logs."
    )
    listen: str = Field("127.0.0.1:8080", description="Address and port; loopback only until keys exist.")
    connect: str = Field(
        "", description="libvirt URI; empty: qemu:///system, or the embedded driver where no libvirt daemon answers."
    )
    cluster_name: str = Field("stillframe", description="Shown as cluster_name.")
    public_url: str = Field("", description="Base of links such as screenshot_url; empty: http://<listen>.")
    http_errors: Literal["ok", "semantic"] = Field(
        "ok", description='"ok": handled outcomes are HTTP 200; "semantic": 4xx/5xx with the same body.'
    )
    max_body_bytes: int = Field(1 << 20, description="Largest accepted request body.")
    memory_tenants: str = Field(
        "*", description='Tenants with memory-snapshot space: "*" for all, or a comma-separated list of tenants.'
    )
    max_chain_depth: int = Field(
        64, ge=2, le=190, description="Most files that a disk's chain may have; capped by what libvirt can open (24)."
    )
    image_directories: str = Field(
        "/var/lib/libvirt/images",
        description="Where backing files may lie, colon-separated, beside a disk's own directory and what is below that.",
    )
    call_timeout_s: float = Field(30.0, gt=0, description="Longest wait for one hypervisor call.")
    database_timeout_s: float = Field(
        30.0, gt=0, description="Longest wait for a database that another process has locked, for each transaction."
    )
    host_patience_s: float = Field(
        120.0, ge=0, description="Longest wait for a libvirt that is away, in the middle of an operation."
    )
    merge_timeout_s: float = Field(24 * 3600.0, gt=0, description="Longest wait for one merge.")
    merge_bytes_per_s: int = Field(
        0,
        ge=0,
        lt=1 << 63,
        description="How fast a merge may be, so that guests do not feel it; 0: as fast as it goes.",
    )
    shutdown_timeout_s: int = Field(
        30, ge=0, description="Longest wait for requests under way when the service is told to stop."
    )
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR.")

    @property
    def database_path(self) -> Path:
        return self.state / "stillframe.db"

    @property
    def service_file(self) -> Path:
        """Where a running service says how it is reached."""
        return self.state / "service.json"

    @property
    def base_url(self) -> str:
        return self.public_url.rstrip("/") or f"http://{self.listen}"
