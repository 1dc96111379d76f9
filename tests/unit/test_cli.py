"""The command line against a real service's door on loopback: what it prints, where, and how it ends."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from stillframe.cli.main import main
from stillframe.domain.errors import ErrorCase
from stillframe.domain.findings import Finding, FindingKind
from stillframe.operations.doctor import BusyVm, Repair, Report
from stillframe.operations.requests import Caller, GuestSpec, VmPage, VmQuery, VmRef
from stillframe.settings import Settings
from stillframe.spoken import speak
from support.http_door import ADMIN, ADMIN_KEY, CLUSTER, VM, DoorClient, a_row, refused

CALLER = Caller(ADMIN, "127.0.0.1")
OTHER_VM = "11111111-2222-4333-8444-555555555555"

Run = Callable[..., SimpleNamespace]


@contextmanager
def spoken(state: Path, url: str, certificate: str = "") -> Iterator[None]:
    """A running service says that it is reached there."""
    descriptor = speak(state / "service.json", {"url": url, "pid": 1, "certificate": certificate})
    try:
        yield
    finally:
        os.close(descriptor)


@pytest.fixture
def state(served: tuple[DoorClient, str], tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "admin.key").write_text(f"{ADMIN_KEY}\n")
    with spoken(tmp_path, served[1]):
        yield tmp_path


@pytest.mark.parametrize("file", ["lock", "service.json"])
def test_who_listens_where_a_killed_service_was_is_not_given_the_key(
    run: Run, door: DoorClient, served: tuple[DoorClient, str], tmp_path: Path, file: str
) -> None:
    """Nor by holding what it held, as anybody may who may read it; nor while the next one is being started."""
    with spoken(tmp_path, served[1]):
        (tmp_path / "admin.key").write_text(f"{ADMIN_KEY}\n")
        (tmp_path / "lock").touch()
    with (tmp_path / file).open("rb") as readable:
        fcntl.flock(readable, fcntl.LOCK_EX)
        result = run("vm", "list", "--state", tmp_path)
    assert (result.code, result.out) == (3, "")
    assert "was killed" in result.err
    assert door.stub.asked == []


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run one command as the installed program does, for a reader of English."""
    monkeypatch.setenv("LC_ALL", "C.UTF-8")

    def run_command(*arguments: object) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["stillframe", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err + printed.out
        return SimpleNamespace(code=ended.value.code or 0, out=printed.out, err=printed.err)

    return run_command


def test_vm_list_is_a_table(run: Run, state: Path, door: DoorClient) -> None:
    rows = (a_row(), replace(a_row(), uuid=OTHER_VM, tenant="研发部", name="evil\x1b[2Jname"))
    door.stub.outcomes["list_vms"] = VmPage(rows, 2)
    result = run("vm", "list", "--state", state)
    assert result.code == 0
    assert result.out.splitlines() == [
        "uuid                                  state    action    tenant   name",
        f"{VM}  running  noaction  default  测试",
        f"{OTHER_VM}  running  noaction  研发部   evil?[2Jname",
    ]


def test_vm_list_as_json_is_the_apis_rows(run: Run, state: Path, door: DoorClient) -> None:
    result = run("vm", "list", "--json", "--state", state)
    assert [row["uuid"] for row in json.loads(result.out)] == [VM]
    assert "测试" in result.out


def test_assign_by_uuid(run: Run, state: Path, door: DoorClient) -> None:
    result = run("vm", "assign", VM, "--tenant", "t", "--tenant-name", "研发", "--namespace", "n", "--state", state)
    assert (result.code, result.out) == (0, "")
    assert door.stub.asked == [("assign_vm", VmRef("", "", VM), "t", "研发", "n", CALLER)]


def test_assign_by_name(run: Run, state: Path, door: DoorClient) -> None:
    assert run("vm", "assign", "测试", "--tenant", "t", "--state", state).code == 0
    assert door.stub.asked == [
        ("list_vms", VmQuery(name="测试", fuzzy=False)),
        ("assign_vm", VmRef("", "", VM), "t", "", "", CALLER),
    ]


@pytest.mark.parametrize("count", [0, 2])
def test_assign_needs_one_vm_of_that_name(run: Run, state: Path, door: DoorClient, count: int) -> None:
    door.stub.outcomes["list_vms"] = VmPage((a_row(),) * count, count)
    result = run("vm", "assign", "测试", "--tenant", "t", "--state", state)
    assert (result.code, result.out) == (1, "")
    assert len(result.err.splitlines()) == 1
    assert "测试" in result.err
    assert [call[0] for call in door.stub.asked] == ["list_vms"]


def test_guest_create_prints_only_the_uuid(run: Run, state: Path, door: DoorClient) -> None:
    result = run("guest", "create", "g", "--memory-mib", 512, "--fill-mib", 0, "--disks", 2, "--state", state)
    assert (result.code, result.out, result.err) == (0, f"{VM}\n", "")
    assert door.stub.asked == [("create_guest", GuestSpec("g", 512, 0, 2), CALLER)]


def test_guest_create_has_defaults(run: Run, state: Path, door: DoorClient) -> None:
    run("guest", "create", "g", "--memory-mib", 64, "--state", state)
    assert door.stub.asked == [("create_guest", GuestSpec("g", 64, 16), CALLER)]


def test_guest_delete_and_console(run: Run, state: Path, door: DoorClient) -> None:
    assert run("guest", "delete", "g", "--state", state).out == ""
    assert run("guest", "console", "g", "--state", state).out == "/run/console.log\n"
    assert door.stub.asked == [("delete_guest", "g", CALLER), ("guest_console", "g")]


def test_version_knows_the_service_and_itself(run: Run, state: Path, door: DoorClient, tmp_path: Path) -> None:
    own, service = run("version", "--state", state).out.splitlines()
    assert own.startswith("stillframe ")
    assert service.startswith("service ")
    assert CLUSTER in service
    alone = run("version", "--state", tmp_path / "other")
    assert (alone.code, alone.out, alone.err) == (0, own + "\n", "")
    door.stub.asked.clear()
    option = run("--version")
    assert (option.code, option.out, option.err, door.stub.asked) == (0, own + "\n", "", [])


def _unused_url() -> str:
    with closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}"


@pytest.mark.parametrize(
    "content",
    [None, "", "{", "[]", '{"pid": 1}', '{"url": 5}', '{"url": "file:///etc/passwd"}', "\udcff", "unused"],
)
@pytest.mark.parametrize("command", [("vm", "list"), ("guest", "create", "g")])
def test_without_a_service(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, command: tuple[str, ...]
) -> None:
    if content is not None:
        text = json.dumps({"url": _unused_url(), "pid": 1}) if content == "unused" else content
        (tmp_path / "service.json").write_text(text, errors="surrogateescape")
    for language, said in (("en", f"stillframe: no service runs for {tmp_path}"), ("zh", "没有正在运行的服务")):
        monkeypatch.setenv("LC_ALL", language)
        result = run(*command, "--state", tmp_path)
        assert (result.code, result.out) == (3, "")
        assert said in result.err
        assert len(result.err.splitlines()) == 1


class _Foreign(BaseHTTPRequestHandler):
    """A server that is not Stillframe; on /v1/stillframe/version it hangs up."""

    def do_GET(self) -> None:
        if "version" in self.path:
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>welcome</html>")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.mark.parametrize("command", [("vm", "list"), ("version",)])
def test_another_server_on_that_port(run: Run, tmp_path: Path, command: tuple[str, ...]) -> None:
    with HTTPServer(("127.0.0.1", 0), _Foreign) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        with spoken(tmp_path, f"http://127.0.0.1:{server.server_port}"):
            result = run(*command, "--state", tmp_path)
        server.shutdown()
        thread.join()
    assert result.code == 1
    assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("vm", "assign", "x"),
        ("guest", "create"),
        ("guest", "create", "g", "--disks", "two"),
        ("serve", "--listen", "8080"),
        ("serve", "--listen", "127.0.0.1:99999"),
        ("serve", "--listen", "http://127.0.0.1:80"),
    ],
)
def test_wrong_usage(run: Run, arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err


def test_a_wrong_setting_is_wrong_usage(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STILLFRAME_MAX_CHAIN_DEPTH", "many")
    result = run("vm", "list")
    assert result.code == 2
    assert "max_chain_depth" in result.err


@pytest.fixture
def bootstrapped(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings that ``serve`` handed to the bootstrap."""
    seen: list[Settings] = []

    def serve(settings: Settings) -> int:
        seen.append(settings)
        return 7

    module = ModuleType("stillframe.bootstrap")
    module.serve = serve  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "stillframe.bootstrap", module)
    return seen


def test_serve_overrides_what_was_given(run: Run, bootstrapped: list[Settings], tmp_path: Path) -> None:
    assert run("serve", "--listen", "[::1]:0", "--state", tmp_path, "--connect", "test:///default").code == 7
    (settings,) = bootstrapped
    assert (settings.listen, settings.state, settings.connect) == ("[::1]:0", tmp_path, "test:///default")


def test_serve_leaves_the_rest_to_the_environment(
    run: Run, bootstrapped: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STILLFRAME_LISTEN", "127.0.0.1:9999")
    run("serve")
    assert bootstrapped[0].listen == "127.0.0.1:9999"


def test_a_broken_start_is_a_sentence(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("stillframe.bootstrap")
    module.serve = lambda settings: 1 // 0  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "stillframe.bootstrap", module)
    result = run("serve")
    assert result.code == 1
    assert "ZeroDivisionError" in result.err


def a_finding(**changes: Any) -> Finding:
    found = Finding(FindingKind.ORPHAN_LAYER, VM, "测试", ("a", "b"), "/d/x.qcow2", "x", 200704, "it stands on y", True)
    return replace(found, **changes)


def test_doctor_ends_with_0_when_nothing_is_found(run: Run, state: Path, door: DoorClient) -> None:
    door.stub.outcomes["doctor"] = Report((), (BusyVm(VM, "web", "create", 5),), 3, deep=False)
    result = run("doctor", "--state", state)
    assert (result.code, result.err) == (0, "")
    assert "web" in result.out
    assert "create" in result.out
    assert door.stub.asked == [("doctor", False)]


def test_doctor_ends_with_4_and_names_what_was_found(run: Run, state: Path, door: DoorClient) -> None:
    missing = Finding(FindingKind.MISSING_MEMORY, path="/m/y.mem\x1b[2J", uuid="y", size_bytes=3 << 30)
    door.stub.outcomes["doctor"] = Report((a_finding(), missing), (), 3, deep=True)
    result = run("doctor", "--deep", "--state", state)
    assert (result.code, result.err) == (4, "")
    lines = result.out.splitlines()
    assert lines[1].split() == ["vm", "snapshots", "kind", "size", "repair", "what"]
    assert lines[2].split() == ["测试", "a,b", "orphan_layer", "196.0", "KiB", "yes", "/d/x.qcow2"]
    assert lines[3].split() == ["-", "-", "missing_memory", "3.0", "GiB", "no", "/m/y.mem?[2J"]
    for words in (FindingKind.ORPHAN_LAYER.words.repair, FindingKind.MISSING_MEMORY.words.advice_cn, "it stands on y"):
        assert words in result.out
    assert door.stub.asked == [("doctor", True)]


def test_doctor_repairs_and_says_what_it_did(run: Run, state: Path, door: DoorClient) -> None:
    repairs = (Repair(a_finding()), Repair(a_finding(path="/d/z.qcow2"), "it is open in a running QEMU"))
    door.stub.outcomes["repair"] = Report((a_finding(path="/d/z.qcow2"),), (), 3, deep=False, repairs=repairs)
    result = run("doctor", "--repair", "--state", state)
    assert result.code == 4
    assert "repaired / 已修复: 1" in result.out
    assert "not repaired / 未修复: 1" in result.out
    assert "open in a running QEMU" in result.out
    assert door.stub.asked == [("repair", False, CALLER)]
    door.stub.outcomes["repair"] = Report((), (), 3, deep=False, repairs=(Repair(a_finding()),))
    assert run("doctor", "--repair", "--state", state).code == 0


def test_doctor_as_json_is_the_calls_data(run: Run, state: Path, door: DoorClient) -> None:
    door.stub.outcomes["doctor"] = Report((a_finding(),), (), 3, deep=False)
    result = run("doctor", "--json", "--state", state)
    assert result.code == 4
    data = json.loads(result.out)
    assert list(data) == ["findings", "busy", "repaired", "not_repaired", "vms", "deep"]
    assert list(data["findings"][0]) == [
        "kind", "compute_uuid", "compute_name", "snapshots", "path", "uuid", "size_bytes", "message", "message_cn",
        "desc", "repairable", "remedy", "remedy_cn",
    ]  # fmt: skip
    door.stub.outcomes["doctor"] = refused(ErrorCase.STORAGE_FAILED, "the database")
    result = run("doctor", "--json", "--state", state)
    assert (result.code, result.out) == (1, "")


def test_the_installed_program(state: Path, door: DoorClient) -> None:
    program = Path(sys.executable).with_name("stillframe")
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [str(program), "vm", "list", "--state", str(state)]
    done = subprocess.run(command, check=True, capture_output=True, env=environment, timeout=30)
    assert VM.encode() in done.stdout


@pytest.mark.parametrize(
    ("called", "meant"), [("delete", "rm"), ("revert", "rollback"), ("list", "ls"), ("create", "take")]
)
def test_who_calls_a_command_otherwise_is_told_its_name(
    called: str, meant: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for language, words in (("en_US.UTF-8", f'No such command "{called}"'), ("zh_CN.UTF-8", f"没有命令“{called}”")):
        monkeypatch.setenv("LC_ALL", language)
        result = run(called, "vm", "name")
        assert result.code == 2
        assert words in result.err
        assert f"stillframe {meant}" in result.err
