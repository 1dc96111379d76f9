"""The only file that chooses adapters: builds the service from its settings and runs it."""

from __future__ import annotations

import faulthandler
import fcntl
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import uvicorn

from stillframe.adapters.libvirt.block_nodes import DEEPEST_CHAIN
from stillframe.adapters.libvirt.capture import LibvirtPointInTime
from stillframe.adapters.libvirt.connection import Connection, choose_uri
from stillframe.adapters.libvirt.guest import LibvirtGuests
from stillframe.adapters.libvirt.huge_pages import HugePages
from stillframe.adapters.libvirt.inventory import LibvirtInventory, LibvirtPower
from stillframe.adapters.libvirt.keeper import LibvirtKeeper
from stillframe.adapters.libvirt.pacer import Speed
from stillframe.adapters.memory.compression import why_not_compressed
from stillframe.adapters.memory.files import storage_errors
from stillframe.adapters.memory.local import LocalMemoryStore
from stillframe.adapters.metadata.database import look_at_metadata, open_metadata
from stillframe.adapters.metrics.prometheus import PrometheusMetrics
from stillframe.adapters.unasked import Unasked
from stillframe.adapters.volumes.qcow2 import Qcow2Volumes
from stillframe.domain.errors import ErrorCase, StillframeError
from stillframe.domain.findings import Finding, FindingKind
from stillframe.http.app import create_app
from stillframe.http.health import Monitor
from stillframe.http.server import server_config
from stillframe.listening import local_url, split_listen, why_not_kept, why_not_listen, write_secret
from stillframe.logs import begin_logging
from stillframe.operations.doctor import Doctor, Report, untrusted
from stillframe.operations.lending import Lender
from stillframe.operations.log_keeper import LogKeeper
from stillframe.operations.moments import Watch, unwatched
from stillframe.operations.requests import Cluster
from stillframe.operations.sharing import Sharer
from stillframe.operations.standing import Observer
from stillframe.operations.telling import Audience
from stillframe.operations.use_cases import UseCases
from stillframe.operations.world import Limits, Unshared, World
from stillframe.ports.instruments import Instruments
from stillframe.ports.metadata import Metadata
from stillframe.settings import Settings
from stillframe.spoken import speak

log = logging.getLogger(__name__)

# a thread that asks for the interpreter gets it within this time; the default of 5 ms would lengthen guests' pauses
_SWITCH_INTERVAL_S = 0.0005
_LOCK_WAIT_S = 0.5
_WARM_UP_WAIT_S = 10.0  # what one call to libvirt may take where it is loaded; it is not waited for where it hangs


class StateInUseError(Exception):
    """Another ``stillframe serve`` runs on the state directory, or a doctor looks at it."""


@dataclass(frozen=True)
class _Offline:
    """What can be looked at while no service runs (``Sight`` in operations/world.py)."""

    inventory: Unasked
    volumes: Qcow2Volumes
    memory_store: LocalMemoryStore
    metadata: Metadata


@dataclass(frozen=True)
class Service:
    """A built service: what it uses, and what must be closed."""

    use_cases: UseCases
    lender: Lender
    sharer: Sharer
    huge_pages: HugePages
    warm_up: Callable[[], threading.Thread | None]
    connection: Connection
    metadata: Metadata
    metrics: PrometheusMetrics
    close_traces: Callable[[], None]

    def close(self) -> None:
        self.connection.close()
        self.metadata.close()
        self.close_traces()

    def monitor(self) -> Monitor:
        observer = Observer(self.use_cases.world, self.use_cases.recovery)
        return Monitor(self.metrics, observer.standing, self.metrics.render, observer.why_not_ready)


def build(settings: Settings, watch: Watch = unwatched) -> Service:
    """Open database and hypervisor and put the service together; nothing is recovered yet.

    ``watch`` is told the moments of every operation.

    Raises:
        StillframeError: HOST_UNREACHABLE, STORAGE_FAILED.
    """
    metadata = open_metadata(settings.database_url, lock_timeout_s=settings.database_timeout_s)
    try:
        connection = Connection(
            choose_uri(settings.connect, settings.state / "libvirt"), call_timeout_s=settings.call_timeout_s
        )
    except BaseException:
        metadata.close()
        raise
    try:
        connection.open()
    except BaseException:
        connection.close()
        metadata.close()
        raise
    huge_pages = HugePages()
    fixer = LibvirtPointInTime(
        connection,
        merge_timeout_s=settings.merge_timeout_s,
        merge_speed=Speed(settings.merge_bytes_per_s, settings.merge_gives_way),
        huge_pages=huge_pages,
    )
    metrics = PrometheusMetrics(version("stillframe"))
    listeners, close_traces = _traces(settings)
    keeper = LibvirtKeeper(connection, fixer)
    lender = Lender()
    sharer = Sharer()
    world = World(
        inventory=LibvirtInventory(connection),
        power=LibvirtPower(connection),
        fixer=fixer,
        keeper=keeper,
        volumes=_volumes(settings),
        memory_store=LocalMemoryStore(settings.state, compressed=settings.compress_memory),
        metadata=metadata,
        guests=LibvirtGuests(connection, settings.state / "guests"),
        limits=Limits(
            max_chain_depth=min(settings.max_chain_depth, DEEPEST_CHAIN),
            memory_tenants=None if settings.memory_tenants == "*" else _tenants(settings.memory_tenants),
            host_patience_s=settings.host_patience_s,
            link_lifetime_s=settings.link_lifetime_s,
            max_snapshots=settings.max_snapshots,
            max_operations=settings.max_operations,
            max_operations_per_tenant=settings.max_operations_per_tenant,
            lazy_restore=settings.lazy_restore,
        ),
        watch=watch,
        instruments=Audience(metrics, *listeners),
        guard=lender,
        sharing=sharer if settings.share_memory else Unshared(),
    )
    lender.belong_to(world)
    sharer.belong_to(world)
    cluster = Cluster(metadata.cluster_uuid(), settings.cluster_name)
    warm_up = keeper.warm_up if settings.lazy_restore else lambda: None
    use_cases = UseCases(world, cluster)
    return Service(use_cases, lender, sharer, huge_pages, warm_up, connection, metadata, metrics, close_traces)


def _traces(settings: Settings) -> tuple[tuple[Instruments, ...], Callable[[], None]]:
    """Who makes traces of operations, and how it is ended; nobody where they are to go nowhere."""
    if not settings.otlp_endpoint:
        return (), lambda: None
    # the extra's libraries, of which a service without traces has none
    from stillframe.adapters.traces.otlp import to_endpoint  # noqa: PLC0415

    traces = to_endpoint(settings.otlp_endpoint, version("stillframe"))
    return (traces,), traces.close


def _why_not_traced(settings: Settings) -> str:
    """Why operations cannot be traced as the settings say, in both languages; empty when they can, or need not."""
    if not settings.otlp_endpoint:
        return ""
    with suppress(ModuleNotFoundError):  # of a package around it
        if find_spec("opentelemetry.exporter.otlp.proto.http") and find_spec("opentelemetry.sdk"):
            return ""
    return (
        "refused: STILLFRAME_OTLP_ENDPOINT is set, but what sends traces is not installed: install stillframe[otel], or "
        "unset it\n拒绝：已设置 STILLFRAME_OTLP_ENDPOINT，但未安装发送追踪所需的组件：请安装 stillframe[otel]，或取消该设置"
    )


def _why_not_compressed(settings: Settings) -> str:
    """Why memory cannot be compressed as the settings say, in both languages; empty when it can, or need not."""
    if not settings.compress_memory:
        return ""
    with storage_errors(str(settings.state)):
        return why_not_compressed(settings.state)


def _volumes(settings: Settings) -> Qcow2Volumes:
    return Qcow2Volumes(
        commit_timeout_s=settings.merge_timeout_s,
        merge_bytes_per_s=settings.merge_bytes_per_s,
        image_directories=[part for part in settings.image_directories.split(":") if part],
    )


def _tenants(text: str) -> frozenset[str]:
    return frozenset(part.strip() for part in text.split(",") if part.strip())


def serve(settings: Settings, watch: Watch = unwatched) -> int:
    """Run the service until it is told to stop; returns the exit code. Guests go on when it ends."""
    begin_logging(settings)
    host, port = split_listen(settings.listen)
    if refusal := why_not_listen(settings) or _why_not_traced(settings):
        print(refusal, file=sys.stderr)  # noqa: T201 -- the command's own refusal
        return 2
    try:
        settings.state.mkdir(parents=True, exist_ok=True, mode=0o711)
        if refusal := why_not_kept(settings.state) or _why_not_compressed(settings):
            print(refusal, file=sys.stderr)  # noqa: T201 -- see above
            return 2
        with only_one_on(settings):
            return _serve(settings, host, port, watch)
    except StillframeError as error:
        print("\n".join(_why_not_started(settings, error)), file=sys.stderr)  # noqa: T201 -- see above
        return 1
    except StateInUseError:
        print(  # noqa: T201 -- see above
            f"cannot use {settings.state}: another stillframe serve runs on this state directory, or doctor looks at it\n"
            f"无法使用 {settings.state}：另一个 stillframe serve 正在使用该状态目录，或 doctor 正在检查它",
            file=sys.stderr,
        )
        return 1
    except OSError as error:
        print(  # noqa: T201 -- see above
            f"cannot use {settings.state}: {error}; the service runs as uid {os.geteuid()} and must own this directory\n"
            f"无法使用 {settings.state}：服务以 uid {os.geteuid()} 运行，该目录须归其所有",
            file=sys.stderr,
        )
        return 1


def _why_not_started(settings: Settings, error: StillframeError) -> tuple[str, ...]:
    case, file = error.case.value, settings.database_path
    said = (case.message, case.message_cn, error.desc)
    if error.case is not ErrorCase.DATABASE_DAMAGED:
        return said
    look = f"stillframe doctor --state {settings.state}"
    return (
        *said,
        f"the service does not start with {file}: see what is wrong ({look}), and put a backup in its and its -wal's place",
        f"服务不会使用 {file} 启动：请查看详情（{look}），将其连同 -wal 和 -shm 文件移走，并放回备份",
    )


def look_offline(settings: Settings, *, deep: bool) -> Report:
    """What doctor can say by itself while no service runs: of the database, and of files against its rows.

    Nothing is changed, libvirt is not asked, and no service starts on the state directory meanwhile.

    Raises:
        StateInUseError: a service holds the state directory.
        OSError: the state directory cannot be used.
    """
    file = settings.database_path
    with only_one_on(settings):
        try:
            with closing(look_at_metadata(file)) as metadata:
                unasked = Unasked("it is not asked while no service runs")
                sight = _Offline(unasked, _volumes(settings), LocalMemoryStore(settings.state), metadata)
                report = Doctor(sight, Cluster(metadata.cluster_uuid(), settings.cluster_name)).look(deep=deep)
        except StillframeError as error:
            report = untrusted([error.desc], deep=deep)
            if error.case is not ErrorCase.DATABASE_DAMAGED:
                unseen = Finding(FindingKind.NOT_LOOKED_AT, desc=error.desc, path=str(file))
                return Report((unseen,), (), 0, deep)
    size_bytes = file.stat().st_size if file.exists() else 0
    findings = [
        replace(one, path=str(file), size_bytes=size_bytes) if one.kind is FindingKind.DATABASE_DAMAGED else one
        for one in report.findings
    ]
    return replace(report, findings=tuple(findings))


def _serve(settings: Settings, host: str, port: int, watch: Watch) -> int:
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    # names of functions alone, no values: what hangs can be seen from outside
    faulthandler.register(signal.SIGUSR1)
    service = build(settings, watch)
    try:
        # before anything listens: the service is never reachable without a key
        service.use_cases.ensure_secrets(lambda text: write_secret(settings.key_file, text))
        service.use_cases.world.memory_store.drop_lazy_files()  # of restores that were cut off: those begin anew
        service.use_cases.recovery.run()
        service.use_cases.write_begun_lines()
        service.use_cases.measure()
        app = create_app(service.use_cases, settings, service.monitor())
        server = _AnnouncingServer(server_config(app, settings, host=host, port=port))
        server.end_streams = app.state.streams.stop
        server.announce = lambda: _announce(settings, host, port)
        server.is_working = lambda: service.use_cases.is_working
        server.service_file = settings.service_file
        log_keeper = LogKeeper(service.use_cases.world, service.use_cases.refusals, settings.log_retention_days)
        service.use_cases.mender.start()
        service.lender.start()
        warming_up = service.warm_up()
        log_keeper.start()
        for stop in (signal.SIGTERM, signal.SIGINT):
            # Uvicorn stops at them, and then raises them once more: the default would end us before we have cleaned up.
            # One that comes before uvicorn hears them must not be lost.
            signal.signal(stop, lambda _number, _frame: server.end())
        # what was built lives as long as the service: left out, a collection of cycles is short, also for a guest's pause
        gc.collect()
        gc.freeze()
        try:
            server.run()
        except SystemExit:
            # uvicorn's way of saying that it could not listen; its own line is in the log
            print(f"cannot listen on {settings.listen}\n无法监听 {settings.listen}", file=sys.stderr)  # noqa: T201
        finally:
            if warming_up is not None:
                warming_up.join(_WARM_UP_WAIT_S)
            service.lender.stop()
            service.sharer.stop()
            service.huge_pages.stop()
            service.use_cases.mender.stop()
            log_keeper.stop()
            settings.service_file.unlink(missing_ok=True)
        return 0 if server.started else 1
    finally:
        service.close()


@contextmanager
def only_one_on(settings: Settings) -> Iterator[None]:
    """One process per state directory: two services would recover each other's running operations.

    Raises:
        StateInUseError: another one is there.
    """
    # nobody else's: who may read a file may lock it, and would keep the service from starting
    descriptor = os.open(settings.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "rb+") as lock:
        os.fchmod(descriptor, 0o600)
        give_up_at = time.monotonic() + _LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                # a doctor that looks at the state directory has it for a moment
                if time.monotonic() > give_up_at:
                    raise StateInUseError from error
                time.sleep(_LOCK_WAIT_S / 10)
            else:
                break
        yield


class _AnnouncingServer(uvicorn.Server):
    """Says where it is reached as soon as it listens, not before; does not outstay its time when told to stop."""

    announce: Callable[[], None]
    is_working: Callable[[], bool]
    end_streams: Callable[[], None]
    service_file: Path

    def end(self) -> None:
        """As soon as it has started, if it has not."""
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.announce()

    def _log_started_message(self, listeners: Sequence[socket.SocketType]) -> None:
        """It is announced already, and uvicorn does not know of our TLS."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Requests have had their time when this goes on; a merge may want hours.

        Its thread cannot be ended, and asyncio and Python would both wait for it: but operations are made to be cut off
        anywhere.
        """
        self.end_streams()  # they would go on for as long as they may
        await super().shutdown(sockets)
        if self.is_working():
            log.warning("operations are under way: they go on at the next start")
            self.service_file.unlink(missing_ok=True)
            logging.shutdown()
            os._exit(0)


def _announce(settings: Settings, host: str, port: int) -> None:
    """Tell commands with the same state directory how the service is reached, for as long as this process lives."""
    url = local_url(settings.scheme, host, port)
    certificate = str(settings.tls_certificate.resolve()) if settings.tls_certificate else ""
    speak(settings.service_file, {"url": url, "pid": os.getpid(), "certificate": certificate})
    log.info("listening on %s", url)
