"""A day at the terminal: take, watch, tree, rollback and delete on a real guest, with progress, as somebody sees it.

STILLFRAME_SESSION=file writes what was seen; ``make docs-session`` keeps docs/session.txt.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.service import STILLFRAME, Service, Vm, running_service
from support.terminal import Terminal, as_text

pytestmark = pytest.mark.guest

KEPT = "STILLFRAME_SESSION"
BAR = re.compile(r"[━╸╺]")


class Session:
    """Commands in a terminal, and what they showed."""

    def __init__(self, service: Service) -> None:
        self.seen: list[str] = []
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(service.state),
            "TERM": "xterm-256color",
            "LC_ALL": "C.UTF-8",
            "STILLFRAME_STATE": str(service.state),
        }

    def type(self, *words: str, answer: str = "") -> list[str]:
        """Run a command that ends well, and answer its question; the lines that it showed."""
        with Terminal([STILLFRAME, *words], environment=self._environment) as terminal:
            if answer:
                terminal.hear("[y/N]")
                terminal.type(f"{answer}\n")
            code = terminal.end()
        lines = as_text(terminal.raw)
        assert code == 0, lines
        self.seen += [f"$ {shlex.join(['stillframe', *words])}", *lines, ""]
        return lines


@pytest.fixture(scope="module")
def web() -> Iterator[Vm]:
    """A guest whose memory takes a while to be saved."""
    with running_service() as service:
        yield service.guest("web", memory_mib=512, fill_mib=400)


@pytest.fixture(scope="module")
def session(web: Vm) -> Iterator[Session]:
    session = Session(web.service)
    yield session
    if KEPT in os.environ:
        Path(os.environ[KEPT]).write_text("\n".join(session.seen), encoding="utf-8")


def watched(web: Vm, session: Session) -> list[str]:
    """What ``watch`` showed of memory that is being saved: where it was saved before the command had begun, of another try."""
    for _ in range(5):
        before = len(session.seen)
        session.type("take", "web", "after upgrade", "--memory", "--no-wait")
        lines = session.type("watch", "web")
        if "nothing" not in lines[-1].casefold():
            return lines
        web.await_memory("after upgrade")
        web.delete("after upgrade")
        del session.seen[before:]
    raise AssertionError("the memory is always saved before it can be watched")


def shown_progress(lines: list[str]) -> list[int]:
    """The percentages of the bars, in order."""
    return [int(match[1]) for line in lines if BAR.search(line) and (match := re.search(r"(\d+)%", line))]


def test_a_day_at_the_terminal(web: Vm, session: Session) -> None:
    assert any(line.endswith(" web") and "running" in line for line in session.type("ls"))

    lines = session.type("take", "web", "before upgrade", "--memory", "-m", "all is well")
    assert lines[-1] == "before upgrade"
    # a create that takes long has a bar of its own
    percents = shown_progress([line for line in lines if "save_memory" in line])
    assert percents == sorted(percents)
    assert len(set(percents)) > 1, lines
    assert web.get("before upgrade")["attr"]["status"] == "available"

    lines = watched(web, session)
    assert lines[-1].split()[1:] == ["save_memory", "after", "upgrade", "done"]
    assert len(set(shown_progress(lines))) > 1, lines
    lines = session.type("tree", "web")
    assert [line.split("  (")[0] for line in lines[:-1]] == ["◉ before upgrade", "◉ after upgrade"]
    assert lines[-1].startswith("● now: running")

    web.await_ticks(20)
    mark = len(web.witness().lines())
    lines = session.type("rollback", "web", "before upgrade", "--memory", answer="y")
    assert any('of changes since "after upgrade"' in line for line in lines), lines
    assert lines[-1] == "before upgrade"
    web.await_ticks(20)
    assert web.witness().resumption(mark).boot == web.witness().ticks()[0][0]
    assert web.witness().torn() == []

    session.type("take", "web", "another way")
    lines = session.type("tree", "web")
    assert [line.split("  (")[0] for line in lines[:-1]] == ["◉ before upgrade", "├─◉ after upgrade", "○ another way"]
    session.type("show", "web")
    lines = session.type("rm", "web", "another way", answer="y")
    assert any("another way" in line and "is deleted" in line for line in lines)
    assert web.names() == ["after upgrade", "before upgrade"]
    session.type("tasks", "--limit", "5")
    web.await_ticks(20)


def test_in_a_script(web: Vm) -> None:
    """What a script builds on: --json, exit codes, and no question that nobody answers."""
    service = web.service
    taken = json.loads(service.cli("take", "web", "by script", "--json"))
    assert taken["uuid"] == web.get("by script")["uuid"]
    assert json.loads(service.cli("show", web.uuid, taken["uuid"], "--json"))["name"] == "by script"
    with pytest.raises(AssertionError, match="--yes"):
        service.cli("rollback", "web", "by script")
    assert json.loads(service.cli("rollback", "web", taken["uuid"], "--yes", "--json"))["name"] == "by script"
    assert web.state() == "shutoff"
    batch = json.loads(service.cli("rollback-disk", "web", "by script", "vda", "--yes", "--json"))
    assert (batch["success"], batch["fail"]) == (1, 0)
    service.cli("edit", "web", "by script", "-m", "改过")
    assert web.get("by script")["description"] == "改过"
    service.cli("vm", "start", "web")
    service.cli("rm", "web", "by script", "--yes")
    assert "by script" not in web.names()
