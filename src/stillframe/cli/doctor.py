"""What doctor said, as lines for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

Table = Callable[[Sequence[Sequence[str]]], list[str]]

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_STEP = 1024


def lines_of(data: dict[str, Any], table: Table) -> Iterator[str]:
    """``data`` of either call: what was repaired, what was not, what is left, and who was not looked at."""
    yield from _section("repaired / 已修复", data["repaired"], table)
    yield from _section("not repaired / 未修复", data["not_repaired"], table)
    yield from _section("found / 发现的问题", data["findings"], table)
    for vm in data["busy"]:
        name = vm["compute_name"] or vm["compute_uuid"]
        yield f"not looked at, busy with {vm['operation']} / 未检查，正在执行 {vm['operation']}: {name}"
    if not data["findings"]:
        yield f"nothing found / 未发现问题 ({data['vms']} VMs)"


def size(size_bytes: int) -> str:
    """For people: three digits and a unit."""
    value = float(size_bytes)
    for unit in _UNITS[:-1]:
        if value < _STEP:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= _STEP
    return f"{value:.1f} {_UNITS[-1]}"


def _section(title: str, findings: Sequence[dict[str, Any]], table: Table) -> Iterator[str]:
    if not findings:
        return
    yield f"{title}: {len(findings)}"
    rows = [("vm", "snapshots", "kind", "size", "repair", "what"), *map(_row, findings)]
    yield from (f"  {line}" for line in table(rows))
    told: set[str] = set()
    for finding in findings:
        yield from _details(finding)
        if finding["kind"] not in told:
            told.add(finding["kind"])
            yield f"      {finding['message']}; {finding['remedy']}"
            yield f"      {finding['message_cn']}；{finding['remedy_cn']}"
    yield ""


def _row(finding: dict[str, Any]) -> tuple[str, ...]:
    return (
        finding["compute_name"] or finding["compute_uuid"] or "-",
        ",".join(finding["snapshots"]) or "-",
        finding["kind"],
        size(finding["size_bytes"]),
        "yes" if finding["repairable"] else "no",
        finding["path"] or finding["uuid"] or "-",
    )


def _details(finding: dict[str, Any]) -> Iterator[str]:
    what = finding["path"] or finding["uuid"]
    words = "; ".join(part for part in (finding["desc"], finding.get("why", "")) if part)
    yield f"  {finding['kind']} {what}" + (f": {words}" if words else "")
