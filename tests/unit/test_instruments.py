"""What operations tell, on a real runner and a real journal: to figures, to traces, and to a listener that breaks."""

from __future__ import annotations

import logging
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from prometheus_client.parser import text_string_to_metric_families

from stillframe.adapters.metadata.database import open_metadata
from stillframe.adapters.metrics.prometheus import PrometheusMetrics
from stillframe.adapters.traces.otlp import OtlpTraces, to_endpoint
from stillframe.domain.errors import ErrorCase, Failed, StillframeError
from stillframe.operations.rows import About
from stillframe.operations.runner import Runner
from stillframe.operations.standing import Glance, Observer
from stillframe.operations.steps import Operation, Scratch, Step
from stillframe.operations.telling import Audience
from stillframe.operations.world import Limits, World
from stillframe.ports.correlation import operation_id
from stillframe.ports.instruments import Begun, Standing, Traffic, Unheard
from stillframe.ports.metadata import Slot
from support.service import eventually

VM = str(uuid.uuid4())
FAMILIES = ("prepare *", "commit", "clean up")


class Bench:
    """A runner with both listeners, and an operation of four steps that breaks where it is told to."""

    def __init__(self, directory: Path) -> None:
        self.metrics = PrometheusMetrics("1.2.3")
        self.spans = InMemorySpanExporter()
        self.traces = OtlpTraces(SimpleSpanProcessor(self.spans), "1.2.3")
        self.metadata = open_metadata(f"sqlite:///{directory / 'journal.db'}", lock_timeout_s=0.1)
        self.operation_ids: set[str] = set()
        self.runner = self.make_runner(Audience(self.metrics, self.traces))

    def make_runner(self, audience: Audience) -> Runner:
        world = SimpleNamespace(
            metadata=self.metadata,
            now_s=lambda: 1.0,
            new_uuid=lambda: str(uuid.uuid4()),
            watch=lambda moment: None,
            instruments=audience,
            limits=Limits(host_patience_s=0.0),
        )
        return Runner(cast("World", world))

    def run(self, *breaks_at: str, runner: Runner | None = None) -> str:
        """Returns the operation's uuid."""

        @dataclass(frozen=True)
        class Plan:
            pass

        def step(name: str, *, commits: bool = False) -> Step[Plan]:
            def do(_world: World, _plan: Plan, _scratch: Scratch) -> None:
                self.operation_ids.add(operation_id())
                if name in breaks_at:
                    raise Failed(ErrorCase.STORAGE_FAILED, f"{name} broke")

            def undo(_world: World, _plan: Plan) -> None:
                if f"undo {name}" in breaks_at:
                    raise Failed(ErrorCase.STORAGE_FAILED, f"undo of {name} broke")

            return Step(name, do, undo, commits=commits)

        steps = (step("prepare 1"), step("prepare 2"), step("commit", commits=True), step("clean up"))
        operation = Operation("test", Slot.EXCLUSIVE, Plan, lambda _plan: steps, FAMILIES, "commit")
        # that it fails is what the figures tell of
        with (runner or self.runner).claim(About(VM), Slot.EXCLUSIVE, "test") as claim, suppress(Failed):
            claim.run(operation, Plan())
        return claim.row.uuid

    def samples(self) -> dict[tuple[str, ...], float]:
        """(name, label values in the order of their names) -> value."""
        page = self.metrics.render(Standing(None, host_answers=False), Traffic()).decode()
        return {
            (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
        }

    def of_steps(self, what: str = "duration_seconds_count") -> dict[str, float]:
        """Family -> how often."""
        name = f"stillframe_step_{what}"
        return {labels[1]: value for (found, *labels), value in self.samples().items() if found == name}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.traces.close()
    made.metadata.close()


# --- figures --------------------------------------------------------------------------------------------------------


def test_an_operation_that_goes_well(bench: Bench) -> None:
    bench.run()
    assert bench.of_steps() == {"prepare *": 2, "commit": 1, "clean up": 1}
    assert bench.of_steps("failures_total") == {}
    samples = bench.samples()
    assert samples["stillframe_operations_total", "test", "done"] == 1
    assert samples["stillframe_operation_duration_seconds_count", "test", "done"] == 1
    assert 0 < samples["stillframe_operation_duration_seconds_sum", "test", "done"] < 60


@pytest.mark.parametrize(
    ("breaks_at", "outcome", "went_well", "failed"),
    [
        (["prepare 2"], "undone", {"prepare *": 1, "undo: prepare *": 2}, {"prepare *": 1}),
        (["clean up"], "left", {"prepare *": 2, "commit": 1}, {"clean up": 1}),
        (
            ["commit", "undo prepare 2"],
            "left",
            {"prepare *": 2, "undo: commit": 1},
            {"commit": 1, "undo: prepare *": 1},
        ),
    ],
)
def test_operations_that_do_not(
    bench: Bench, breaks_at: list[str], outcome: str, went_well: dict[str, float], failed: dict[str, float]
) -> None:
    bench.run(*breaks_at)
    assert bench.of_steps() == went_well
    assert bench.of_steps("failures_total") == failed
    ended = {key[2]: n for key, n in bench.samples().items() if key[0] == "stillframe_operations_total"}
    assert ended == {outcome: 1}


def test_what_is_refused_in_planning(bench: Bench) -> None:
    with pytest.raises(StillframeError), bench.runner.claim(About(VM), Slot.EXCLUSIVE, "test"):
        raise Failed(ErrorCase.STORAGE_FAILED, "no")
    assert bench.samples()["stillframe_operations_total", "test", "refused"] == 1
    assert bench.of_steps() == {}


def test_an_end_that_is_noted_late_is_counted_once(bench: Bench) -> None:
    """``Runner.end`` says it again when the database takes it at last."""
    operation_uuid = bench.run()
    bench.metrics.ended(operation_uuid, "done")
    bench.metrics.ended(str(uuid.uuid4()), "left")
    ended = {key: n for key, n in bench.samples().items() if key[0] == "stillframe_operations_total"}
    assert ended == {("stillframe_operations_total", "test", "done"): 1}


def test_pauses_and_bytes(bench: Bench) -> None:
    bench.metrics.guest_paused("an operation", "background-snapshot", 0.004)
    bench.metrics.guest_paused("an operation", "live", 0.3)
    bench.metrics.memory_saved(3 << 20)
    bench.metrics.merged(5 << 20)
    samples = bench.samples()
    assert samples["stillframe_guest_pause_seconds_bucket", "0.005", "background-snapshot"] == 1
    assert samples["stillframe_guest_pause_seconds_bucket", "0.002", "background-snapshot"] == 0
    assert samples["stillframe_guest_pause_seconds_sum", "live"] == pytest.approx(0.3)
    assert samples[("stillframe_memory_saved_bytes_total",)] == 3 << 20
    assert samples[("stillframe_merged_bytes_total",)] == 5 << 20


# --- traces ---------------------------------------------------------------------------------------------------------


def spans_of(bench: Bench) -> dict[str, list[ReadableSpan]]:
    found: dict[str, list[ReadableSpan]] = {}
    for span in bench.spans.get_finished_spans():
        found.setdefault(span.name, []).append(span)
    return found


def test_a_trace_is_the_operation_and_its_steps(bench: Bench) -> None:
    operation_uuid = bench.run()
    spans = spans_of(bench)
    (whole,) = spans.pop("test")
    assert whole.parent is None
    assert dict(whole.attributes or {}) == {
        "stillframe.operation_id": operation_uuid,
        "stillframe.kind": "test",
        "stillframe.vm_uuid": VM,
        "stillframe.outcome": "done",
    }
    assert {name: len(of_name) for name, of_name in spans.items()} == {"prepare *": 2, "commit": 1, "clean up": 1}
    for span in (span for of_name in spans.values() for span in of_name):
        assert span.parent is not None
        assert span.parent.span_id == whole.context.span_id
        assert whole.start_time <= span.start_time <= span.end_time <= whole.end_time
        assert span.status.status_code is StatusCode.UNSET
    assert whole.resource.attributes["service.name"] == "stillframe"


def test_a_trace_says_what_failed(bench: Bench) -> None:
    bench.run("prepare 2")
    spans = spans_of(bench)
    assert [span.status.status_code for span in spans["prepare *"]] == [StatusCode.UNSET, StatusCode.ERROR]
    assert len(spans["undo: prepare *"]) == 2
    (whole,) = spans["test"]
    assert (whole.attributes or {})["stillframe.outcome"] == "undone"
    assert whole.status.status_code is StatusCode.ERROR


def test_operations_after_each_other_are_traces_of_their_own(bench: Bench) -> None:
    bench.run()
    bench.run()
    assert len({span.context.trace_id for span in bench.spans.get_finished_spans()}) == 2


def test_a_guests_pause_is_in_its_operations_trace(bench: Bench) -> None:
    bench.traces.began(Begun("one", "create", VM))
    bench.traces.guest_paused("one", "background-snapshot", 0.004)
    bench.traces.guest_paused("another", "live", 1.0)
    bench.traces.ended("one", "done")
    (span,) = bench.spans.get_finished_spans()
    assert (span.attributes or {})["stillframe.guest_pause_s"] == 0.004


def test_an_endpoint_that_hangs_holds_nothing_up(bench: Bench, silent_endpoint: str) -> None:
    traces = to_endpoint(silent_endpoint, "1.2.3")
    runner = bench.make_runner(Audience(traces))
    for _ in range(20):
        bench.run(runner=runner)
    begun = time.monotonic()
    traces.close()
    assert time.monotonic() - begun < 30, "it is left to itself after two seconds; a loaded machine may take its time"


@pytest.fixture
def silent_endpoint() -> Iterator[str]:
    """Takes connections, and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1/traces"


# --- nobody hurts an operation ---------------------------------------------------------------------------------------


class Broken(Unheard):
    def __getattribute__(self, name: str) -> Any:
        def breaks(*_args: Any, **_named: Any) -> None:
            raise RuntimeError(name)

        return object.__getattribute__(self, name) if name.startswith("_") else breaks


def test_a_listener_that_breaks_is_logged_and_hurts_nobody(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    audience = Audience(Broken(), bench.metrics)
    bench.run(runner=bench.make_runner(audience))
    audience.guest_paused("an operation", "live", 0.1)
    audience.memory_saved(1)
    audience.merged(1)
    assert bench.of_steps() == {"prepare *": 2, "commit": 1, "clean up": 1}
    assert bench.samples()["stillframe_operations_total", "test", "done"] == 1
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    for what in ("began", "step began", "step ended", "ended", "guest paused", "memory saved", "merged"):
        assert f"Broken could not be told: {what}" in told


def test_what_an_operation_logs_is_known_to_be_its_own(bench: Bench) -> None:
    operation_uuid = bench.run()
    assert bench.operation_ids == {operation_uuid}
    assert operation_id() == ""


# --- looking, without being held up ---------------------------------------------------------------------------------


def test_a_look_that_hangs_is_not_waited_for_and_not_repeated() -> None:
    go_on, begun = threading.Event(), []

    def look() -> str:
        begun.append(1)
        go_on.wait(60)
        return "seen"

    glance = Glance("it", look)
    assert [glance.take(0.01) for _ in range(5)] == [None] * 5
    assert len(begun) == 1
    go_on.set()
    assert glance.take(60) == "seen"
    assert glance.take(0) == "seen", "what is fresh is not looked at again"
    assert len(begun) == 1


def test_a_look_that_fails_is_told_once_and_comes_right_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    outcomes: list[str] = ["", "", "well"]

    def look() -> str:
        if not (outcome := outcomes.pop(0)):
            raise Failed(ErrorCase.HOST_UNREACHABLE, "away")
        return outcome

    glance = Glance("it", look, fresh_s=0)
    assert [glance.take(60) for _ in range(3)] == [None, None, "well"]
    told = [record.getMessage() for record in caplog.records]
    assert len([words for words in told if "away" in words]) == 1
    assert told[-1] == "it: it answers again"


class Host:
    """The inventory as far as a probe asks it."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.answers.set()

    def check_reachable(self) -> None:
        if not self.answers.wait(60):
            raise Failed(ErrorCase.HOST_UNREACHABLE, "it hangs")


def observer_of(bench: Bench, host: Host, *, has_run: bool = True) -> Observer:
    world = SimpleNamespace(metadata=bench.metadata, inventory=host, now_s=lambda: 1.0, limits=Limits())
    return Observer(cast("World", world), cast("Any", SimpleNamespace(has_run=has_run)))


def test_what_hangs_or_is_locked_makes_it_not_ready_and_nothing_else(bench: Bench, tmp_path: Path) -> None:
    assert observer_of(bench, Host(), has_run=False).why_not_ready() == "recovering"
    eventually(lambda: observer_of(bench, Host()).why_not_ready() == "", "it is ready")
    host = Host()
    host.answers.clear()
    observer = observer_of(bench, host)
    eventually(lambda: observer.standing().database is not None, "the database is read")
    assert observer.standing().host_answers is False
    eventually(lambda: observer.why_not_ready() == "hypervisor", "and can be written")
    host.answers.set()
    eventually(lambda: observer.why_not_ready() == "", "it is ready")
    with bench.metadata.write():  # somebody else writes for longer than is waited for
        locked = observer_of(bench, Host())
        assert locked.why_not_ready() == "database"
        eventually(lambda: locked.standing().database is not None, "readers never wait for a writer")


def test_operations_under_way_and_left_are_told(bench: Bench) -> None:
    bench.run("clean up")
    with bench.runner.claim(About(VM), Slot.EXCLUSIVE, "power"):
        observer = observer_of(bench, Host())
        eventually(lambda: observer.standing().database is not None, "the database is read")
        figures = observer.standing().database
    assert figures is not None
    assert (dict(figures.active), dict(figures.left)) == ({"power": 1}, {"test": 1})
