"""Every setting, in one place. Environment: ``STILLFRAME_<NAME>``; the command line overrides.

Sizes are bytes, times seconds.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

_PORT_MAX = 65535


def _default_state_dir() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/stillframe")
    return Path(os.environ.get("XDG_STATE_HOME", str(Path.home() / ".local" / "state"))) / "stillframe"


class Settings(BaseSettings):
    """What an operator may choose."""

    model_config = SettingsConfigDict(env_prefix="STILLFRAME_", frozen=True)

    state: Path = Field(
        default_factory=_default_state_dir,
        description="Directory of the database, memory states, screenshots and the first administrator's key.",
    )
    listen: str = Field("127.0.0.1:8080", description="Address and port; beyond loopback only with TLS.")
    tls_certificate: Path | None = Field(
        None, description="PEM file with the certificate and its chain; with tls_key the service speaks HTTPS."
    )
    tls_key: Path | None = Field(None, description="PEM file with the certificate's key, not encrypted.")
    plain_http: bool = Field(
        False, description="Listen beyond loopback without TLS: keys are then readable for whoever sees the network."
    )
    trusted_proxies: str = Field(
        "",
        description="Addresses or networks, comma-separated, whose X-Forwarded-For is believed: 127.0.0.1 for a proxy on "
        "this machine; empty: nobody's.",
    )
    link_lifetime_s: int = Field(
        3600,
        ge=60,
        description="How long a signed link, such as screenshot_url, is good, and up to five minutes more.",
    )
    log_retention_days: int = Field(
        365,
        ge=0,
        le=36500,
        description="After how many days lines of the operation log, and tasks that have ended, are removed; 0: never.",
    )
    connect: str = Field(
        "",
        description="libvirt URI; empty: qemu:///system, or the driver inside the service where no libvirt daemon answers.",
    )
    cluster_name: str = Field("stillframe", description="Shown as cluster_name.")
    public_url: str = Field("", description="Base of links such as screenshot_url; empty: http(s)://<listen>.")
    http_errors: Literal["ok", "semantic"] = Field(
        "ok", description='"ok": handled outcomes are HTTP 200; "semantic": 4xx/5xx with the same body.'
    )
    max_body_bytes: int = Field(1 << 20, description="Largest accepted request body.")
    max_header_bytes: int = Field(
        32 << 10, ge=1024, description="Most bytes that a request's URL and headers may have together."
    )
    header_timeout_s: float = Field(
        10.0,
        gt=0,
        description="Longest wait for a request's headers, a TLS handshake included, from the connection or the last "
        "answer on.",
    )
    request_timeout_s: float = Field(30.0, gt=0, description="Longest wait for a request's body.")
    answer_timeout_s: float = Field(
        30.0,
        gt=0,
        description="Longest wait for a client to take an answer, or a part of a long one; the connection is then cut.",
    )
    max_connections: int = Field(
        12_000,
        ge=1,
        description="Most open connections; beyond it the one closes that has been without a complete request for longest.",
    )
    max_held_bytes: int = Field(
        128 << 20,
        ge=1 << 20,
        description="Most memory for requests that are not answered, and as much for answers that are not taken; "
        "beyond it the oldest that is incomplete, or lies there, is cut off.",
    )
    requests_per_s: float = Field(
        100.0,
        ge=0,
        description="How often one key of a tenant may ask, with a burst of twice as many (26001); 0: as often as it "
        "likes.",
    )
    memory_tenants: str = Field(
        "*", description='Tenants with memory-snapshot space: "*" for all, or a comma-separated list of tenants.'
    )
    max_chain_depth: int = Field(
        64,
        ge=2,
        le=190,
        description="Most files that a disk's chain may have; capped at 24, because libvirt 11.3 cannot start a virtual "
        "machine on more than 25.",
    )
    max_snapshots: int = Field(
        1024, ge=1, description="Most snapshots of a virtual machine, where its tenant has no limit of its own."
    )
    max_operations: int = Field(
        64,
        ge=1,
        le=1000,
        description="Most operations under way at a time, the saving of memory among them; more are refused (23023).",
    )
    max_operations_per_tenant: int = Field(
        32, ge=1, description="Most operations under way at a time of one tenant; more are refused (23023)."
    )
    image_directories: str = Field(
        "/var/lib/libvirt/images",
        description="Where files that a disk stands on (templates) may lie, beside the disk's own directory and what is "
        "below that; several are separated by colons, symbolic links are resolved. A disk that stands on a file elsewhere "
        "is refused (23022).",
    )
    call_timeout_s: float = Field(
        30.0,
        gt=0,
        description="Longest wait for one hypervisor call; above 20 for a libvirt on another host. What takes long by its "
        "nature has limits of its own.",
    )
    database_timeout_s: float = Field(
        30.0, gt=0, description="Longest wait for a database that another process has locked, for each transaction."
    )
    host_patience_s: float = Field(
        120.0,
        ge=0,
        description="Longest wait for a libvirt that is away or hangs, in the middle of an operation; afterwards it is "
        "tried again in the background.",
    )
    merge_timeout_s: float = Field(24 * 3600.0, gt=0, description="Longest wait for one merge.")
    merge_bytes_per_s: int = Field(
        0,
        ge=0,
        lt=1 << 63,
        description="How many bytes a second a merge may copy, on running and shut-off virtual machines, at most; 0: as "
        "fast as it goes. One that could never end, because the guest writes that fast itself, is finished without it.",
    )
    merge_gives_way: bool = Field(
        True,
        description="A merge in a running virtual machine slows down while the guest's own writes take more than twice as "
        "long as without it, and more than a millisecond, and speeds up again; beside a guest that does not write it goes as fast as "
        "STILLFRAME_MERGE_BYTES_PER_S lets it. Without this, a merge that is under way when the service is started again "
        "keeps the speed that it began with.",
    )
    lazy_restore: bool = Field(
        True,
        description="A rollback with memory lets the guest run at once, on the saved file, where QEMU may open that: its memory is "
        "read as it is touched, and checked behind its back. Such a guest cannot be captured as smoothly as others until it is "
        "off again: see capture_mode. Without this, the memory is checked and loaded as a whole before the guest runs.",
    )
    share_memory: bool = Field(
        True,
        description="A memory state that was saved is stored together with an earlier one of the same virtual machine: what both hold at "
        "the same place takes space once, on file systems that can share blocks of files (XFS, btrfs). Done behind it, a little at "
        "a time; what is shared is read from the disk again when it is needed.",
    )
    compress_memory: bool = Field(
        False,
        description="Memory states are compressed with zstd by the file system that they lie on, which must be btrfs: they take less "
        "space, and are rolled back to as before. What is shown as their size is what they hold, not what the disk gave for it.",
    )
    shutdown_timeout_s: int = Field(
        30,
        ge=0,
        description="Longest wait for requests under way when the service is told to stop; what is not done by then goes "
        "on at the next start.",
    )
    metrics_open: bool = Field(
        False,
        description="Show /metrics without a key to who asks from this machine itself, not through a proxy. A proxy on this "
        "machine that rewrites Host to a loopback name and adds no X-Forwarded-For, as nginx does unless it is told "
        "otherwise, cannot be told from that: it has to pass both on, or to refuse /metrics.",
    )
    log_format: Literal["human", "json"] = Field(
        "human", description='Lines of the service\'s own log: "human", or "json", one object a line.'
    )
    otlp_endpoint: str = Field(
        "",
        description="Where traces of operations are sent by OTLP over HTTP, such as http://127.0.0.1:4318/v1/traces; "
        "empty: nowhere. Needs the extra otel.",
    )
    log_level: str = Field("INFO", description="Of the service's own log: DEBUG, INFO, WARNING or ERROR.")

    @field_validator("listen")
    @classmethod
    def _is_address(cls, raw: str) -> str:
        host, _, port = raw.rpartition(":")
        if not host or not port.isascii() or not port.isdigit() or int(port) > _PORT_MAX:
            raise ValueError("expected an address and a port, such as 127.0.0.1:8080 or [::1]:8080")
        return raw

    @property
    def database_path(self) -> Path:
        return self.state / "stillframe.db"

    @property
    def database_url(self) -> str:
        return f"sqlite:///{self.database_path}"

    @property
    def lock_file(self) -> Path:
        """Held by whoever works on the state directory; it stays there."""
        return self.state / "lock"

    @property
    def service_file(self) -> Path:
        """Where a running service says how it is reached."""
        return self.state / "service.json"

    @property
    def base_url(self) -> str:
        return self.public_url.rstrip("/") or f"{self.scheme}://{self.listen}"

    @property
    def scheme(self) -> str:
        return "https" if self.tls_certificate else "http"

    @property
    def key_file(self) -> Path:
        """Where the first administrator's key is written, for the command line to find."""
        return self.state / "admin.key"
