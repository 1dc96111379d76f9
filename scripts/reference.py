"""The pages of the reference that are made from the code: every call, every setting, the Python client.

    python scripts/reference.py [DIRECTORY]        writes them there, into docs/reference without it

The same code gives the same bytes; tests/unit/test_reference.py says when a page has to be made anew.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from stillframe import client
from stillframe.client.clients import Calls
from stillframe.client.drivers import SyncDriver
from stillframe.client.flow import method
from stillframe.settings import Settings
from support.http_door import DoorClient

# what every call's parameters begin with; said once
_WHERE = ("cluster_uuid", "cluster_name", "cluster_mode", "tenant", "tenant_name", "namespace_uuid", "namespace_name")
_WHERE_MIN = 4
_NO_LIMITS = (9007199254740992, -9007199254740992)  # what JSON can carry
_MADE = "<!-- Generated from the code: make docs-reference -->"


def cell(text: str) -> str:
    """Text that stands in one cell of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


# --- the API


def calls_page(document: dict[str, Any]) -> str:
    """Every call of the OpenAPI document with what it takes and gives."""
    schemas = document["components"]["schemas"]
    parts = []
    parts.append(
        f"# API calls\n\n{_MADE}\n\nEvery call of `/openapi.json`, which says it in full. What the calls mean together is in "
        "[The API](../api.md); every answer is its envelope, and the fields below are those of `data`.\n\n"
        "*Where* stands for the parameters that say which virtual machine, of which "
        f"`compute_uuid` is needed and `cluster_uuid` may be empty: {', '.join(f'`{name}`' for name in _WHERE)}.\n"
    )
    by_tag: dict[str, list[tuple[str, str, dict[str, Any]]]] = {}
    for path, methods in document["paths"].items():
        for verb, call in methods.items():
            by_tag.setdefault(call["tags"][0], []).append((verb.upper(), path, call))
    for tag, calls in by_tag.items():
        parts.append(f"\n## {tag[0].upper()}{tag[1:]}\n")
        parts += [call_section(verb, path, call, schemas) for verb, path, call in calls]
    return "".join(parts)


def call_section(verb: str, path: str, call: dict[str, Any], schemas: dict[str, Any]) -> str:
    asked = [
        (one["name"], {"description": one.get("description", ""), **one["schema"]}, one["required"])
        for one in call.get("parameters", [])
    ]
    if "requestBody" in call:
        body = resolved(call["requestBody"]["content"]["application/json"]["schema"], schemas)
        needed = body.get("required", [])
        asked += [(name, one, name in needed) for name, one in body.get("properties", {}).items()]
    text = f"\n### {call['operationId']}\n\n`{verb} {path}`\n\n{call.get('description', '').strip()}\n"
    where = sum(name in _WHERE for name, _schema, _needed in asked) >= _WHERE_MIN
    rows = [row for row in asked if not (where and row[0] in _WHERE)]
    if rows:
        text += "\n| takes | type | |\n|---|---|---|\n"
        text += "| *where* | | |\n" if where else ""
        for name, schema, needed in rows:
            told = cell(described(schema, schemas) + (" Needed." if needed else ""))
            text += f"| `{name}` | {type_of(schema, schemas)} | {told} |\n"
    return text + answer_table(call, schemas)


def answer_table(call: dict[str, Any], schemas: dict[str, Any]) -> str:
    content = call["responses"]["200"]["content"]
    kind = next(iter(content))
    if kind != "application/json":
        return f"\nGives `{kind}`.\n"
    success = resolved(content[kind]["schema"]["anyOf"][0], schemas) if "anyOf" in content[kind]["schema"] else {}
    data = resolved(success.get("properties", {}).get("data", {}), schemas)
    fields = data.get("properties", {})
    if not fields:
        return "\nGives `{}`.\n"
    text = "\n| gives | type | |\n|---|---|---|\n"
    for name, schema in fields.items():
        text += f"| `{name}` | {type_of(schema, schemas)} | {cell(described(schema, schemas))} |\n"
    return text


def resolved(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    """The schema itself where it is a reference to one, or one or nothing."""
    if "$ref" in schema:
        return resolved(schemas[schema["$ref"].rpartition("/")[2]], schemas)
    options = [one for one in schema.get("anyOf", []) if one.get("type") != "null"]
    return resolved(options[0], schemas) if len(options) == 1 else schema


def described(schema: dict[str, Any], schemas: dict[str, Any]) -> str:
    told: str = schema.get("description") or resolved(schema, schemas).get("description", "")
    limits = [
        f"{word} {schema[key]}"
        for key, word in (("minimum", "at least"), ("maximum", "at most"), ("default", "default"))
        if schema.get(key) not in (None, "", *_NO_LIMITS)
    ]
    return " ".join([told, f"({', '.join(limits)})" if limits else ""]).strip()


def type_of(schema: dict[str, Any], schemas: dict[str, Any]) -> str:
    inner = resolved(schema, schemas)
    if inner.get("enum"):
        return ", ".join(f"`{value}`" for value in inner["enum"])
    if inner.get("type") == "array":
        return f"list of {type_of(inner['items'], schemas)}"
    kind = inner.get("format") if inner.get("format") == "uuid" else inner.get("type", "object")
    return f"{kind}"


# --- the settings


def settings_page() -> str:
    """Every setting with its default and what it means."""
    rows = "".join(
        f"| `{name.upper()}` | {default_of(name, field)} | {cell(field.description or '')} |\n"
        for name, field in Settings.model_fields.items()
    )
    return (
        f"# Settings\n\n{_MADE}\n\nEnvironment variables `STILLFRAME_<NAME>`; `stillframe serve`'s options override them. Sizes "
        "are bytes, times seconds. A wrong value is refused at the start.\n\n"
        f"| name | default | meaning |\n|---|---|---|\n{rows}\n"
        "What is behind some of them: [many connections](../operating.md#many-connections), "
        "[when libvirt hangs](../operating.md#when-libvirt-hangs), [metrics and health](../operating.md#metrics-and-health), "
        "[the log](../operating.md#the-services-own-log), [malicious images](../security.md#a-malicious-image).\n"
    )


def default_of(name: str, field: Any) -> str:
    if name == "state":
        return "`/var/lib/stillframe` (root), `~/.local/state/stillframe`"
    value = field.default
    if value is None or value == "":
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


# --- the Python client


def client_page() -> str:
    """Both clients by their signatures and docstrings, and the errors."""
    doc = inspect.getdoc(client) or ""
    parts = [f"# Python client\n\n{_MADE}\n\n{paragraphs(doc)}\n\n## Making one\n"]
    ways = {"Client": "__init__", "Client.by_state": "by_state", "Client.by_profile": "by_profile"}
    parts += [signature_section(shown, getattr(SyncDriver, name)) for shown, name in ways.items()]
    parts.append("\n## Calls\n\nOf `Client` they block and return, of `AsyncClient` they are awaited.\n")
    for name, value in vars(Calls).items():
        if isinstance(value, method):
            parts.append(signature_section(name, value.flow))
    parts.append("\n## Errors\n\nAll are `ClientError`.\n")
    for name in client.__all__:
        found = getattr(client, name)
        if isinstance(found, type) and issubclass(found, Exception):
            parts.append(f"\n### {name}\n\n{paragraphs(inspect.getdoc(found) or '')}\n")
    return "".join(parts)


def signature_section(name: str, function: Any) -> str:
    told = inspect.signature(function)
    parameters = [one for one in told.parameters.values() if one.name not in ("self", "cls")]
    gives = str(told.return_annotation)
    gives = re.sub(r"^Flow\[(.*)\]$", r"\1", gives)
    gives = "" if gives in ("Self", "None") and name.startswith("Client") else f" -> {gives}"
    short = ", ".join(worded(parameters))
    return f"\n### {name}\n\n```python\n{name}({short}){gives}\n```\n\n{paragraphs(inspect.getdoc(function) or '')}\n"


def worded(parameters: list[inspect.Parameter]) -> Iterator[str]:
    starred = False
    for one in parameters:
        if one.kind is inspect.Parameter.KEYWORD_ONLY and not starred:
            starred = True
            yield "*"
        default = "" if one.default is inspect.Parameter.empty else f" = {one.default!r}"
        yield f"{one.name}: {one.annotation}{default}"


def paragraphs(doc: str) -> str:
    """A docstring as Markdown: its code in single backticks, its list of errors as a list."""
    doc = doc.replace("``", "`")
    head, _, raised = doc.partition("\nRaises:\n")
    items = re.sub(r"^ {4}(\w+): ", r"- `\1`: ", raised, flags=re.MULTILINE)
    items = re.sub(r"^ {8}", "  ", items, flags=re.MULTILINE)
    return head.rstrip() + (f"\n\nRaises:\n\n{items.rstrip()}" if raised else "")


def main(directory: Path) -> None:
    document = DoorClient().request("GET", "/openapi.json").json()
    pages = {"api-calls.md": calls_page(document), "settings.md": settings_page(), "client.md": client_page()}
    for name, text in pages.items():
        (directory / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "reference")
