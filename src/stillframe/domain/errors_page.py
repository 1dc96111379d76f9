"""The page of error codes, made from the catalogue: ``python -m stillframe.domain.errors_page > docs/errors.md``."""

from __future__ import annotations

import sys

from stillframe.domain.errors import ErrorCase

_HEAD = """# Error codes

<!-- Generated from the catalogue: python -m stillframe.domain.errors_page > docs/errors.md -->

Every answer is the envelope `scode, desc, message, message_cn, stack, data`; `scode` 0 is success. `desc` adds which
virtual machine, snapshot or disk it is about, and the hypervisor's or storage's own words. Codes are stable for ever:
cases are added, never renumbered. The HTTP status is 200 unless the service is set to `http_errors = "semantic"`;
then it is the one given here (screenshots and 21009 always answer with it).

错误码一经发布永不改变。HTTP 状态码默认均为 200；仅当设置 `http_errors = "semantic"` 时使用下表中的值（截图与 21009 始终使用）。

| scode | case | HTTP | message | message_cn |
|---|---|---|---|---|
"""


def page() -> str:
    """The whole page as Markdown, in the order of the codes; the same catalogue gives the same bytes."""
    rows = sorted(ErrorCase, key=lambda case: case.code)
    return _HEAD + "".join(map(_row, rows))


def _row(case: ErrorCase) -> str:
    cells = (str(case.code), f"`{case.name}`", str(case.value.http_status), case.value.message, case.value.message_cn)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


if __name__ == "__main__":
    sys.stdout.write(page())
