"""Nothing of the service hands words to a shell or an interpreter, or reads a format that runs code; the check bites."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCES = sorted((Path(__file__).parents[2] / "src").rglob("*.py"))
_CALLS = {"eval", "exec", "compile", "__import__", "execfile"}
_ATTRIBUTES = {
    "os": ("system", "popen", "exec", "spawn", "posix_spawn", "fork"),
    "subprocess": ("getoutput", "getstatusoutput"),
    "asyncio": ("create_subprocess",),
    "tempfile": ("mktemp",),
}
_MODULES = {"pickle", "marshal", "shelve", "dill", "yaml", "xml", "pty", "commands", "telnetlib", "ftplib"}
_PARSERS = {"fromstring", "parse", "XML", "XMLParser", "iterparse", "HTML", "XSLT", "XInclude"}
_STARTS = {"run", "Popen", "call", "check_call", "check_output"}


def offences(tree: ast.AST, file: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] in _MODULES)
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").partition(".")[0] in _MODULES:
                yield str(node.module)
            if node.module in _ATTRIBUTES:
                yield f"from {node.module}: name the module where it is used"
        elif isinstance(node, ast.Call):
            yield from _offences_of_call(node, file)


def _offences_of_call(node: ast.Call, file: str) -> Iterator[str]:
    name = ast.unparse(node.func)
    module, _, attribute = name.rpartition(".")
    if name in _CALLS or any(attribute.startswith(bad) for bad in _ATTRIBUTES.get(module, ())):
        yield name
    if any(keyword.arg == "shell" or keyword.arg is None for keyword in node.keywords) and module == "subprocess":
        yield f"{name} with a shell, or with arguments that cannot be seen here"
    if module == "subprocess" and attribute in _STARTS:
        if isinstance(node.args[0], (ast.Constant, ast.JoinedStr, ast.BinOp)):
            yield f"{name} of a text"
        if not any(keyword.arg == "env" and ast.unparse(keyword.value) == "ENVIRONMENT" for keyword in node.keywords):
            yield f"{name} without the fixed environment"
    if module == "etree" and attribute in _PARSERS and not file.endswith("adapters/libvirt/domain_xml.py"):
        yield f"{name} beside parse_xml"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_source_does(path: Path) -> None:
    assert list(offences(ast.parse(path.read_text(encoding="utf-8")), str(path))) == []


def test_xml_is_parsed_in_one_place() -> None:
    (path,) = (path for path in SOURCES if path.name == "domain_xml.py")
    parsers = [
        ast.unparse(node.func)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("etree.")
    ]
    assert sorted(parsers.count(f"etree.{name}") for name in ("XMLParser", "fromstring")) == [1, 1]


@pytest.mark.parametrize(
    "line",
    [
        "os.system('ls')",
        "os.popen(words)",
        "os.execvp('a', ['a'])",
        "subprocess.run(['ls'], shell=True, env=ENVIRONMENT)",
        "subprocess.run(['ls'], shell=False, env=ENVIRONMENT)",
        "subprocess.run(['ls'], env=ENVIRONMENT, **more)",
        "subprocess.run('ls', env=ENVIRONMENT)",
        "subprocess.Popen(f'ls {path}', env=ENVIRONMENT)",
        "subprocess.run(['ls'])",
        "subprocess.run(['ls'], env=os.environ)",
        "subprocess.getoutput('ls')",
        "from subprocess import run",
        "eval(text)",
        "exec(text)",
        "import pickle",
        "from yaml import load",
        "import xml.etree.ElementTree",
        "etree.fromstring(text)",
        "etree.parse(path)",
        "tempfile.mktemp()",
    ],
)
def test_a_planted_line_goes_red(line: str) -> None:
    assert list(offences(ast.parse(line), "planted.py"))


def test_a_good_line_does_not() -> None:
    assert (
        list(offences(ast.parse("subprocess.run([program, '--', path], check=False, env=ENVIRONMENT)"), "x.py")) == []
    )


def test_every_exemption_from_bandit_names_its_finding_and_a_reason() -> None:
    for path in SOURCES:
        for line in path.read_text(encoding="utf-8").splitlines():
            assert "nosec" not in line or re.search(r"# nosec B\d{3} # \w.{8,}", line), f"{path.name}: {line}"
