"""Health, figures, log and traces of a service in a process of its own, without a guest: also when something is away."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing

import httpx
import pytest

from support.scraped import Figures
from support.service import STILLFRAME, Service, eventually, running_service

FRESH_S = 5.0  # see operations/standing.py


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with running_service(log_format="json", metrics_open="true", database_timeout_s="2") as running:
        yield running


def ask(service: Service, path: str, **headers: str) -> httpx.Response:
    """Without a key."""
    return httpx.get(f"{service.url}{path}", headers=headers, timeout=60)


def test_it_is_there_and_ready(service: Service) -> None:
    assert ask(service, "/healthz").text == "ok\n"
    eventually(lambda: ask(service, "/readyz").text == "ready\n", "it is ready")
    figures = Figures(service)
    assert figures.of("host_reachable") == figures.of("database_reachable") == 1
    assert figures.of("http_open_connections") >= 1


def test_open_figures_are_this_machines_own(service: Service) -> None:
    assert "stillframe_build_info" in ask(service, "/metrics").text
    assert ask(service, "/metrics", **{"X-Forwarded-For": "192.0.2.7"}).status_code == 401
    key = (service.state / "admin.key").read_text().strip()
    assert (
        ask(service, "/metrics", **{"X-Forwarded-For": "192.0.2.7", "Authorization": f"Bearer {key}"}).status_code
        == 200
    )


def test_a_locked_database_makes_it_not_ready_and_the_figures_go_on(service: Service) -> None:
    with closing(sqlite3.connect(service.state / "stillframe.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        eventually(lambda: ask(service, "/readyz").text == "not ready: database\n", "it says so", timeout_s=60)
        begun = time.monotonic()
        assert ask(service, "/healthz").status_code == 200
        assert Figures(service).of("database_reachable") == 1, "who reads waits for no writer"
        # not for the lock's end: this is what nobody may wait for, with all the time that a loaded machine takes
        assert time.monotonic() - begun < 30
        other.execute("ROLLBACK")
    eventually(lambda: ask(service, "/readyz").text == "ready\n", "it is ready again", timeout_s=60)


def test_its_log_is_json_and_names_requests(service: Service) -> None:
    response = service.response("GET", "/v1/nothing")
    wanted = response.headers["x-request-id"]
    # libvirt's driver inside the service writes warnings of its own, and there is no telling it how
    own = [line for line in service.log_path.read_text().splitlines() if not re.match(r"[-\d]+ [:.+\d]+: \d+: ", line)]
    lines = [json.loads(line) for line in own]
    assert all(line.keys() >= {"time", "level", "logger", "message"} for line in lines)
    assert [line["request_id"] for line in lines if line.get("request_id") == wanted]


def test_traces_without_the_extra_are_refused_at_the_start() -> None:
    """The extra is installed here: an interpreter is told that it is not."""
    hidden = (
        "import sys; sys.modules['opentelemetry.exporter'] = None; "
        "from stillframe.bootstrap import serve; from stillframe.settings import Settings; "
        "sys.exit(serve(Settings(otlp_endpoint='http://127.0.0.1:1/v1/traces')))"
    )
    python = STILLFRAME.replace("bin/stillframe", "bin/python")
    done = subprocess.run([python, "-c", hidden], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "install stillframe[otel]" in done.stderr
    assert "请安装 stillframe[otel]" in done.stderr


def test_an_endpoint_that_nobody_listens_at_changes_nothing() -> None:
    with running_service(otlp_endpoint="http://127.0.0.1:9/v1/traces") as running:
        assert running.get("/v1/stillframe/version")["version"]
