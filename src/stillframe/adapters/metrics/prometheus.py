"""Figures in Prometheus' text format: what was told is counted here, what stands is looked at when it is asked for.

Every label has a bounded set of values: kinds, families of steps, calls, codes of the catalogue, and the tenants that are
shown. No virtual machine, snapshot or key is a label. The names are a promise: docs/operating.md, "Metrics and health".
"""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from stillframe.ports.instruments import Begun, DatabaseFigures, Standing, Traffic

_PAUSE_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_WORK_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)
_REQUEST_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)


@dataclass
class _UnderWay:
    kind: str
    began_at: float
    steps: list[tuple[str, float]] = field(default_factory=list)


class PrometheusMetrics:
    """``Instruments`` and ``RequestMeter`` (ports/instruments.py), with a registry of its own.

    Counts are those of this process: they begin at 0 with each start. Safe from many threads.
    """

    def __init__(self, version: str) -> None:
        # the time at which each series began would be as many series again
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library has not annotated it
        self._registry = registry = CollectorRegistry()
        self._lock = threading.Lock()
        self._under_way: dict[str, _UnderWay] = {}
        ProcessCollector(registry=registry)
        build = Info("stillframe_build", "The version that runs.", registry=registry)
        build.info({"version": version, "python": platform.python_version()})
        self._pause = Histogram(
            "stillframe_guest_pause_seconds",
            "How long guests stood still for snapshots with memory, from the stop's request to the resume's answer.",
            ["mode"],
            buckets=_PAUSE_S,
            registry=registry,
        )
        self._operations = Counter(
            "stillframe_operations",
            "Operations that have ended, by outcome: done, refused, undone, or left to be finished later.",
            ["kind", "outcome"],
            registry=registry,
        )
        self._durations = Histogram(
            "stillframe_operation_duration_seconds",
            "How long operations took, from their beginning or resumption in this process.",
            ["kind", "outcome"],
            buckets=_WORK_S,
            registry=registry,
        )
        self._steps = Histogram(
            "stillframe_step_duration_seconds",
            "How long steps took that went well, their rows in the database included.",
            ["kind", "step"],
            buckets=_WORK_S,
            registry=registry,
        )
        self._step_failures = Counter(
            "stillframe_step_failures", "Steps that failed.", ["kind", "step"], registry=registry
        )
        self._saved = Counter(
            "stillframe_memory_saved_bytes", "Size on disk of memory states that were finished.", registry=registry
        )
        self._merged = Counter(
            "stillframe_merged_bytes", "Size on disk of layers that were merged into a neighbour.", registry=registry
        )
        self._requests = Counter(
            "stillframe_http_requests",
            "Requests by call and class of the HTTP status; gone: the client left without an answer.",
            ["call", "code"],
            registry=registry,
        )
        self._request_failures = Counter(
            "stillframe_http_request_failures",
            "Requests that ended with an error of the catalogue, by its scode.",
            ["call", "scode"],
            registry=registry,
        )
        self._latency = Histogram(
            "stillframe_http_request_duration_seconds",
            "From a request's headers to the first byte of its answer.",
            ["call"],
            buckets=_REQUEST_S,
            registry=registry,
        )
        self._active_requests = Gauge(
            "stillframe_http_active_requests", "Requests that are being read or answered.", registry=registry
        )
        for mode in ("background-snapshot", "live", "stopped"):  # a rate needs a first value to rise from
            self._pause.labels(mode)

    # --- Instruments ---------------------------------------------------------------------------------------------------

    def began(self, operation: Begun) -> None:
        with self._lock:
            self._under_way.setdefault(operation.operation_uuid, _UnderWay(operation.kind, time.monotonic()))

    def step_began(self, operation_uuid: str, step: str) -> None:
        now = time.monotonic()
        with self._lock:
            if one := self._under_way.get(operation_uuid):
                one.steps.append((step, now))

    def step_ended(self, operation_uuid: str, *, failed: bool) -> None:
        now = time.monotonic()
        with self._lock:
            one = self._under_way.get(operation_uuid)
            if one is None or not one.steps:
                return
            step, began_at = one.steps.pop()
        if failed:
            self._step_failures.labels(one.kind, step).inc()
        else:
            self._steps.labels(one.kind, step).observe(now - began_at)

    def ended(self, operation_uuid: str, outcome: str) -> None:
        with self._lock:
            one = self._under_way.pop(operation_uuid, None)
        if one is not None:
            self._operations.labels(one.kind, outcome).inc()
            self._durations.labels(one.kind, outcome).observe(time.monotonic() - one.began_at)

    def guest_paused(self, _operation_uuid: str, mode: str, pause_s: float) -> None:
        self._pause.labels(mode).observe(pause_s)

    def memory_saved(self, size_bytes: int) -> None:
        self._saved.inc(size_bytes)

    def merged(self, size_bytes: int) -> None:
        self._merged.inc(size_bytes)

    # --- RequestMeter --------------------------------------------------------------------------------------------------

    def request_began(self) -> None:
        self._active_requests.inc()

    def request_ended(self, call: str, status: int, scode: int, wait_s: float) -> None:
        self._active_requests.dec()
        self._requests.labels(call, f"{status // 100}xx" if status else "gone").inc()
        if scode:
            self._request_failures.labels(call, str(scode)).inc()
        if status:
            self._latency.labels(call).observe(wait_s)

    # --- for who asks --------------------------------------------------------------------------------------------------

    def render(self, standing: Standing, traffic: Traffic) -> bytes:
        """Everything, as a scrape wants it. What could not be found out is absent, and a gauge says so."""
        return generate_latest(_Scrape(self._registry, standing, traffic))


class _Scrape(Collector):
    """What was counted, and what stands now."""

    def __init__(self, registry: CollectorRegistry, standing: Standing, traffic: Traffic) -> None:
        self._registry = registry
        self._standing = standing
        self._traffic = traffic

    def collect(self) -> Iterator[Metric]:
        yield from self._registry.collect()
        database = self._standing.database
        yield _flag("stillframe_database_reachable", "1: the database was read for this scrape.", database is not None)
        yield _flag("stillframe_host_reachable", "1: libvirt answered for this scrape.", self._standing.host_answers)
        if database is not None:
            yield from _of_database(database)
        yield from _of_traffic(self._traffic)


def _flag(name: str, words: str, holds: bool) -> Metric:
    return GaugeMetricFamily(name, words, value=int(holds))


def _of_database(figures: DatabaseFigures) -> Iterator[Metric]:
    for name, words, counts in (
        ("stillframe_active_operations", "Operations that hold a slot of their virtual machine now.", figures.active),
        ("stillframe_left_operations", "Operations that ended with something left to finish.", figures.left),
    ):
        family = GaugeMetricFamily(name, words, labels=["kind"])
        for kind in sorted(counts):
            family.add_metric([kind], counts[kind])
        yield family
    space = GaugeMetricFamily(
        "stillframe_tenant_space_used_bytes", "What a tenant's layers occupy, reservations included.", labels=["tenant"]
    )
    budget = GaugeMetricFamily(
        "stillframe_tenant_space_budget_bytes", "What a tenant's layers may occupy.", labels=["tenant"]
    )
    memory = GaugeMetricFamily(
        "stillframe_tenant_memory_used_bytes",
        "What a tenant's memory states occupy, reservations included.",
        labels=["tenant"],
    )
    memory_budget = GaugeMetricFamily(
        "stillframe_tenant_memory_budget_bytes",
        "What a tenant's memory states may occupy; absent where nothing bounds them.",
        labels=["tenant"],
    )
    snapshots = GaugeMetricFamily("stillframe_tenant_snapshots", "Snapshots of a tenant.", labels=["tenant"])
    for tenant in figures.tenants:
        space.add_metric([tenant.tenant], tenant.space_bytes)
        budget.add_metric([tenant.tenant], tenant.space_budget_bytes)
        memory.add_metric([tenant.tenant], tenant.memory_bytes)
        snapshots.add_metric([tenant.tenant], tenant.snapshots)
        if tenant.memory_budget_bytes is not None:
            memory_budget.add_metric([tenant.tenant], tenant.memory_budget_bytes)
    yield from (space, budget, memory, memory_budget, snapshots)


def _of_traffic(traffic: Traffic) -> Iterator[Metric]:
    if traffic.connections is not None:
        yield GaugeMetricFamily("stillframe_http_open_connections", "Open connections.", value=traffic.connections)
    busy = GaugeMetricFamily("stillframe_busy_workers", "Threads that are at work, by kind of calls.", labels=["pool"])
    waiting = GaugeMetricFamily(
        "stillframe_waiting_requests", "Requests that wait for a thread, by kind of calls.", labels=["pool"]
    )
    for name, pool in sorted(traffic.pools.items()):
        busy.add_metric([name], pool.busy)
        waiting.add_metric([name], pool.waiting)
    yield from (busy, waiting)
