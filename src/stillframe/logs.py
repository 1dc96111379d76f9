"""The service's own log: lines for people, or one JSON object a line; both name the request and the operation."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from stillframe.ports.correlation import operation_id, request_id
from stillframe.settings import Settings


def begin_logging(settings: Settings) -> None:
    """From now on what is logged goes to standard error, as the settings say."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if settings.log_format == "json" else HumanLines())
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])


class HumanLines(logging.Formatter):
    """A line, and what it belongs to in brackets at its end where its own words do not name it; then the traceback."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 -- the framework's name
        line = super().formatMessage(record)
        about = [f"{what} {uuid}" for what, uuid in _about(record).items() if uuid not in record.message]
        return f"{line} [{', '.join(about)}]" if about else line


class JsonLines(logging.Formatter):
    """One object a line: ``time`` (UTC), ``level``, ``logger``, ``message``; where they are known ``operation_id``,
    ``request_id`` and ``exception``, the whole traceback in one field.
    """

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {
            "time": at.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {f"{what}_id": uuid for what, uuid in _about(record).items()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        # in ASCII alone: some readers of lines end one at characters beyond it
        return json.dumps(line)


def _about(record: logging.LogRecord) -> dict[str, str]:
    """The operation and the request: those that the line itself begins with, else those that it was written in."""
    found = {}
    for what, current in (("operation", operation_id()), ("request", request_id())):
        named = current
        # by our own template, never by the words in it, which may be a client's
        if str(record.msg).startswith(f"{what} %s") and isinstance(record.args, tuple) and record.args:
            named = str(record.args[0])
        if named:
            found[what] = named
    return found
