"""The service's own log, for people and for machines: what each line says of the request and the operation."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from stillframe.adapters.libvirt.calls import Calls
from stillframe.logs import HumanLines, JsonLines
from stillframe.ports.correlation import in_operation, in_request
from support.http_door import DoorClient

OPERATION = "0c1a5d2e-4f6b-4a8c-9e0d-1b3f5a7c9e2b"
REQUEST = "a" * 32


@contextmanager
def written(
    formatter: logging.Formatter, name: str = "stillframe.test"
) -> Iterator[tuple[logging.Logger, io.StringIO]]:
    """A logger, and what it has written in this form."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(formatter)
    log = logging.getLogger(name)
    log.addHandler(handler)
    before = log.level
    log.setLevel(logging.DEBUG)
    try:
        yield log, text
    finally:
        log.setLevel(before)
        log.removeHandler(handler)


def _raised(error: Exception) -> Exception:
    with pytest.raises(type(error)):
        raise error
    return error


def only_line(text: io.StringIO) -> dict[str, str]:
    (line,) = text.getvalue().splitlines()
    told: dict[str, str] = json.loads(line)
    return told


def test_a_json_line_is_one_object_with_the_ids() -> None:
    with written(JsonLines()) as (log, text):
        with in_request(REQUEST), in_operation(OPERATION):
            log.warning("disk %s\nis %s", "vda", "测试")
        told = only_line(text)
    assert told.pop("time").endswith("Z")
    assert told == {
        "level": "WARNING",
        "logger": "stillframe.test",
        "message": "disk vda\nis 测试",
        "operation_id": OPERATION,
        "request_id": REQUEST,
    }


def test_outside_of_both_there_are_no_ids() -> None:
    with written(JsonLines()) as (log, text):
        log.info("the machine is quiet")
        told = only_line(text)
    assert told.keys() == {"time", "level", "logger", "message"}


def test_an_exception_is_one_field() -> None:
    with written(JsonLines()) as (log, text):
        log.error("it broke", exc_info=_raised(RuntimeError("why\nand how")))
        told = only_line(text)
    assert told["message"] == "it broke"
    assert told["exception"].startswith("Traceback")
    assert told["exception"].endswith("RuntimeError: why\nand how")


@pytest.mark.parametrize("nasty", ["\ud800", "\u2028", '"}\n{"level": "ERROR"', "\x00\x1b[31m"])
def test_whatever_is_in_it_a_line_stays_one_line_of_ascii(nasty: str) -> None:
    with written(JsonLines()) as (log, text):
        log.info("request %s %r: %s", REQUEST, "GET /", nasty)
        raw = text.getvalue()
    assert raw.isascii()
    assert len(raw.splitlines()) == 1
    assert json.loads(raw)["level"] == "INFO"


def test_a_line_that_names_its_operation_has_it_as_a_field() -> None:
    """Also where it is written from outside of the operation, and about another than the one that it is written in."""
    with written(JsonLines()) as (log, text), in_operation("another"):
        log.info("operation %s (%s) is done", OPERATION, "create")
        assert only_line(text)["operation_id"] == OPERATION


def test_a_clients_words_do_not_make_an_id() -> None:
    with written(JsonLines()) as (log, text):
        log.info("%s", f"operation {OPERATION}")
        assert "operation_id" not in only_line(text)


def test_a_line_for_people_names_what_its_words_do_not() -> None:
    with written(HumanLines()) as (log, text), in_request(REQUEST), in_operation(OPERATION):
        log.info("disk vda is busy")
        log.info("operation %s: disk vda is busy", OPERATION)
        log.info("request %s and operation %s", REQUEST, OPERATION)
        first, second, third = text.getvalue().splitlines()
    assert first.endswith(f"INFO stillframe.test: disk vda is busy [operation {OPERATION}, request {REQUEST}]")
    assert second.endswith(f"operation {OPERATION}: disk vda is busy [request {REQUEST}]")
    assert third.endswith(f"request {REQUEST} and operation {OPERATION}")


def test_a_requests_lines_carry_the_id_that_its_answer_has() -> None:
    door = DoorClient()
    with written(JsonLines(), "stillframe") as (_, text):
        response = door.request("GET", "/v1/nothing")
        lines = [json.loads(line) for line in text.getvalue().splitlines()]
    assert {line["request_id"] for line in lines} == {response.headers["x-request-id"]}


def test_what_libvirts_threads_log_belongs_to_who_called() -> None:
    with written(JsonLines()) as (log, text):
        with in_operation(OPERATION):
            Calls().run("look", "", lambda: log.info("in a thread of its own"), 60)
        told = only_line(text)
    assert told["operation_id"] == OPERATION
