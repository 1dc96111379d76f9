"""A trace of each operation for OpenTelemetry: a span for it, and one for each of its steps.

Needs the extra ``otel``; nothing else imports this. Spans are handed to the exporter in a thread of its own, a bounded number
of them: where nobody takes them they are dropped, and no operation waits.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, Status, StatusCode, set_span_in_context

from stillframe.ports.instruments import Begun

_EXPORT_TIMEOUT_S = 5.0
_CLOSE_WAIT_S = 2.0
_WELL = ("done", "refused")


@dataclass
class _UnderWay:
    span: Span
    steps: list[Span] = field(default_factory=list)


class OtlpTraces:
    """``Instruments`` (ports/instruments.py). Safe from many threads."""

    def __init__(self, processor: SpanProcessor, version: str) -> None:
        """``processor`` takes what has ended; see ``to_endpoint``."""
        resource = Resource.create({"service.name": "stillframe", "service.version": version})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("stillframe", version)
        self._lock = threading.Lock()
        self._under_way: dict[str, _UnderWay] = {}

    def began(self, operation: Begun) -> None:
        with self._lock:
            if operation.operation_uuid in self._under_way:
                return
            attributes = {
                "stillframe.operation_id": operation.operation_uuid,
                "stillframe.kind": operation.kind,
                "stillframe.vm_uuid": operation.vm_uuid,
            }
            self._under_way[operation.operation_uuid] = _UnderWay(
                self._tracer.start_span(operation.kind, context=Context(), attributes=attributes)
            )

    def step_began(self, operation_uuid: str, step: str) -> None:
        with self._lock:
            if one := self._under_way.get(operation_uuid):
                one.steps.append(self._tracer.start_span(step, context=set_span_in_context(one.span)))

    def step_ended(self, operation_uuid: str, *, failed: bool) -> None:
        with self._lock:
            one = self._under_way.get(operation_uuid)
            span = one.steps.pop() if one is not None and one.steps else None
        if span is not None:
            if failed:
                span.set_status(Status(StatusCode.ERROR))
            span.end()

    def ended(self, operation_uuid: str, outcome: str) -> None:
        with self._lock:
            one = self._under_way.pop(operation_uuid, None)
        if one is not None:
            one.span.set_attribute("stillframe.outcome", outcome)
            if outcome not in _WELL:
                one.span.set_status(Status(StatusCode.ERROR, outcome))
            one.span.end()

    def guest_paused(self, operation_uuid: str, mode: str, pause_s: float) -> None:
        with self._lock:
            if one := self._under_way.get(operation_uuid):
                one.span.set_attributes({"stillframe.capture_mode": mode, "stillframe.guest_pause_s": pause_s})

    def memory_saved(self, size_bytes: int) -> None:
        """In no trace."""

    def merged(self, size_bytes: int) -> None:
        """In no trace."""

    def close(self) -> None:
        """What has ended is sent, if that takes no longer than a moment."""
        # in a thread: an endpoint that hangs would hold the service's end up
        closer = threading.Thread(target=self._provider.shutdown, name="traces: close", daemon=True)
        closer.start()
        closer.join(_CLOSE_WAIT_S)


def to_endpoint(endpoint: str, version: str) -> OtlpTraces:
    """Traces that go to this URL by OTLP over HTTP; the standard's ``OTEL_EXPORTER_OTLP_HEADERS`` are sent along."""
    exporter = OTLPSpanExporter(endpoint=endpoint, timeout=_EXPORT_TIMEOUT_S)
    return OtlpTraces(BatchSpanProcessor(exporter), version)
