"""What every metadata adapter promises about the operation log, on real SQLite and real PostgreSQL."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy import event

from stillframe.adapters.metadata import SqlMetadata, open_metadata
from stillframe.adapters.metadata.engines import make_engines
from stillframe.domain.errors import ErrorCase, Failed
from stillframe.ports.log import LogFilter, LogLine

if TYPE_CHECKING:
    from pathlib import Path

AT = 1_700_000_000
EXACT = ("tenant", "vm_uuid", "who", "call", "snapshot", "operation_uuid", "scode")


def a_line(at: int = AT, **changes: Any) -> LogLine:
    line = LogLine(
        uuid=str(uuid4()),
        at=at,
        who="key-1",
        address="::1",
        tenant="t1",
        call="create",
        vm_uuid="vm-1",
        vm_name="虚机",
        mark="GCD",
        snapshot="升级前",
        scode=0,
        desc="",
        duration_ms=12,
        operation_uuid="o-1",
    )
    return replace(line, **changes)


def another(line: LogLine, field: str) -> LogLine:
    """The line with another value in this field."""
    return replace(line, uuid=str(uuid4()), **{field: 21001 if field == "scode" else f"another {field}"})


def appended(metadata: SqlMetadata, *lines: LogLine) -> list[LogLine]:
    with metadata.write() as tx:
        for line in lines:
            tx.log.append(line)
    return list(lines)


def page(metadata: SqlMetadata, **wanted: Any) -> list[LogLine]:
    with metadata.read() as tx:
        return tx.log.page(LogFilter(**wanted))


def prune(metadata: SqlMetadata, young_from: int, young_until: int, *, keep: int = 0, batch: int = 100) -> int:
    """How many lines went."""
    with metadata.read() as tx:
        last = tx.log.last_old(young_from, young_until, keep=keep)
    if not last:
        return 0
    with metadata.write() as tx:
        return tx.log.remove_until(last, batch=batch)


class TestPages:
    def test_newest_first_and_within_a_second_the_last_appended(self, metadata: SqlMetadata) -> None:
        lines = appended(metadata, *map(a_line, (10, 20, 20, 30)))
        assert page(metadata) == lines[::-1]
        assert page(metadata, limit=1) == [lines[3]]

    def test_a_line_that_a_clock_set_back_wrote_stands_at_its_time(self, metadata: SqlMetadata) -> None:
        one, two, early = appended(metadata, a_line(10), a_line(20), a_line(15))
        assert page(metadata) == [two, early, one]
        with metadata.read() as tx:
            assert tx.log.newest() == early

    def test_pages_are_the_whole_list_cut_in_pieces_whatever_comes_meanwhile(self, metadata: SqlMetadata) -> None:
        lines = appended(metadata, *(a_line(AT + number // 3) for number in range(20)))
        seen: list[LogLine] = []
        after = ""
        while found := page(metadata, after=after, limit=7):
            seen += found
            after = found[-1].uuid
            appended(metadata, a_line(AT + 100))
        assert seen == lines[::-1]

    def test_nothing_comes_after_a_line_that_is_none(self, metadata: SqlMetadata) -> None:
        appended(metadata, a_line())
        assert page(metadata, after=str(uuid4())) == []

    def test_one_line_by_its_uuid(self, metadata: SqlMetadata) -> None:
        (line,) = appended(metadata, a_line())
        with metadata.read() as tx:
            assert tx.log.get(line.uuid) == line
            assert tx.log.get("") is None

    def test_no_uuid_comes_twice(self, metadata: SqlMetadata) -> None:
        (line,) = appended(metadata, a_line())
        with pytest.raises(Failed):
            appended(metadata, replace(line, at=AT + 1))

    def test_an_empty_log_has_no_newest(self, metadata: SqlMetadata) -> None:
        with metadata.read() as tx:
            assert tx.log.newest() is None


class TestBegun:
    def test_a_line_is_begun_until_it_is_appended(self, metadata: SqlMetadata) -> None:
        one, two = a_line(AT + 1, snapshot="a\0b"), a_line(AT)
        with metadata.write() as tx:
            tx.log.begin(one)
            tx.log.begin(two)
        with metadata.read() as tx:
            assert tx.log.begun() == [replace(line, scode=0, desc="", duration_ms=0) for line in (two, one)]
        assert page(metadata) == []
        (ended,) = appended(metadata, replace(one, at=AT + 9, scode=24007, desc="why", operation_uuid="o-2"))
        with metadata.read() as tx:
            assert [line.uuid for line in tx.log.begun()] == [two.uuid]
        assert page(metadata) == [ended]

    def test_a_line_of_the_same_operation_is_another(self, metadata: SqlMetadata) -> None:
        """As of the call that cancels it."""
        begun = a_line()
        with metadata.write() as tx:
            tx.log.begin(begun)
        appended(metadata, a_line(call="cancel"))
        with metadata.read() as tx:
            assert [line.uuid for line in tx.log.begun()] == [begun.uuid]


class TestFilters:
    def test_each_field_narrows_to_its_own_value_and_all_together(self, metadata: SqlMetadata) -> None:
        line, *rest = appended(metadata, a_line(), *(another(a_line(), field) for field in EXACT))
        others = dict(zip(EXACT, rest, strict=True))
        for field, other in others.items():
            assert page(metadata, **{field: getattr(other, field)}) == [other]
            assert page(metadata, **{field: 5 if field == "scode" else "none"}) == []
        for fields in combinations(EXACT, 2):
            expected = [line, *(other for field, other in others.items() if field not in fields)]
            assert page(metadata, **{field: getattr(line, field) for field in fields}) == expected[::-1]
        assert page(metadata, **{field: getattr(line, field) for field in EXACT}) == [line]

    def test_no_tenant_is_not_every_tenant(self, metadata: SqlMetadata) -> None:
        _theirs, nobodys = appended(metadata, a_line(), a_line(tenant=""))
        assert page(metadata, tenant="") == [nobodys]

    def test_failed_are_those_with_an_scode(self, metadata: SqlMetadata) -> None:
        _good, bad = appended(metadata, a_line(), a_line(scode=23002))
        assert page(metadata, failed=True) == [bad]
        assert page(metadata, failed=True, scode=0) == []

    def test_since_and_until_are_inclusive(self, metadata: SqlMetadata) -> None:
        lines = appended(metadata, *map(a_line, (10, 20, 30, 40)))
        assert page(metadata, since=20) == lines[:0:-1]
        assert page(metadata, until=30) == lines[2::-1]
        assert page(metadata, since=20, until=30) == [lines[2], lines[1]]
        assert page(metadata, since=20, until=30, after=lines[2].uuid) == [lines[1]]

    def test_any_text_comes_back_and_is_found(self, metadata: SqlMetadata) -> None:
        text = "a\0\n\ud800'; DROP TABLE operation_log; --%_"
        (line,) = appended(metadata, a_line(snapshot=text, vm_name=text))
        assert page(metadata, snapshot=text) == [line]

    def test_sqlite_finds_every_pair_of_filters_without_sorting(self, tmp_path: Path) -> None:
        """Its planner knows no statistics here: what it takes for the best must be good enough."""
        base: dict[str, Any] = {field: getattr(a_line(scode=21001), field) for field in EXACT}
        ranges: tuple[dict[str, Any], ...] = ({}, {"since": 1}, {"since": 1, "until": 2}, {"failed": True})
        with closing(open_metadata(f"sqlite:///{tmp_path}/plan.db")) as metadata:
            asked: list[tuple[str, Any]] = []
            reader = metadata._engines.reader
            event.listen(reader, "before_cursor_execute", lambda *call: asked.append(call[2:4]))
            for count in (0, 1, 2):
                for fields in combinations(EXACT, count):
                    for more in ranges:
                        page(metadata, **{field: base[field] for field in fields}, **more)
            queries = [(query, values) for query, values in asked if query.startswith("SELECT")]
            with reader.connect() as connection:
                plans = [
                    "; ".join(row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}", values))
                    for query, values in queries
                ]
        assert len(plans) == (1 + 7 + 21) * len(ranges)
        for (query, _values), plan in zip(queries, plans, strict=True):
            assert "TEMP B-TREE" not in plan, (query, plan)
            assert "USING INDEX ix_operation_log_" in plan, (query, plan)
            if "operation_uuid = " in query:
                assert "(operation_uuid=?" in plan, (query, plan)


class TestAppendOnly:
    """Not only does no code change a line: the database refuses it."""

    def test_a_line_cannot_be_changed(self, metadata: SqlMetadata) -> None:
        (line,) = appended(metadata, a_line(scode=25002))
        for change in ("scode = 0", "who = 'somebody else'", "at = at", "uuid = 'x'"):
            self.must_refuse(metadata, f"UPDATE operation_log SET {change}", "never changed")  # noqa: S608 -- our own
        assert page(metadata) == [line]

    def test_a_line_cannot_be_put_in_anothers_place(self, metadata: SqlMetadata) -> None:
        """Each database has its own words for it."""
        (line,) = appended(metadata, a_line(scode=25002))
        columns = 'id, at, who, address, tenant, call, vm_uuid, vm_name, mark, snapshot, scode, "desc", duration_ms, operation_uuid, uuid'
        rows = f"SELECT {columns.replace('scode', '0')} FROM operation_log"  # noqa: S608 -- our own
        moved = rows.replace("SELECT id", "SELECT id + 1000")
        if metadata._engines.writer.dialect.name == "sqlite":
            for source in (rows, moved):
                self.must_refuse(
                    metadata, f"INSERT OR REPLACE INTO operation_log ({columns}) {source}", "never changed"
                )
        for source, key in ((rows, "id"), (moved, "uuid")):
            upsert = f"{source} WHERE true ON CONFLICT ({key}) DO UPDATE SET scode = 0"
            self.must_refuse(metadata, f"INSERT INTO operation_log ({columns}) {upsert}", "never changed")
        assert page(metadata) == [line]

    def test_young_lines_cannot_be_removed_and_keep_the_old_ones_of_the_same_statement(
        self, metadata: SqlMetadata
    ) -> None:
        now = int(time.time())
        lines = appended(metadata, *map(a_line, (AT, now - 12 * 3600, now, now + 3600)))
        self.must_refuse(metadata, "DELETE FROM operation_log", "not removed")
        for line in lines[1:]:
            statement = f"DELETE FROM operation_log WHERE uuid = '{line.uuid}'"  # noqa: S608 -- our own
            self.must_refuse(metadata, statement, "not removed")
        assert page(metadata) == lines[::-1]

    def test_postgresql_cannot_empty_it_at_once(self, on_postgres: SqlMetadata) -> None:
        (line,) = appended(on_postgres, a_line())
        self.must_refuse(on_postgres, "TRUNCATE operation_log", "not removed")
        assert page(on_postgres) == [line]

    @staticmethod
    def must_refuse(metadata: SqlMetadata, statement: str, why: str) -> None:
        with pytest.raises(sa.exc.DBAPIError, match=why), metadata._engines.writer.begin() as connection:
            connection.exec_driver_sql(statement)


class TestPruning:
    def test_what_is_old_goes_and_what_is_young_stays(self, metadata: SqlMetadata) -> None:
        lines = appended(metadata, *map(a_line, (10, 20, 30, 40)))
        assert prune(metadata, 30, 100) == 2
        assert page(metadata) == [lines[3], lines[2]]
        assert prune(metadata, 30, 100) == 0

    def test_in_batches_from_the_oldest_on(self, metadata: SqlMetadata) -> None:
        lines = appended(metadata, *map(a_line, range(10)))
        assert [prune(metadata, 8, 100, batch=3) for _ in range(4)] == [3, 3, 2, 0]
        assert page(metadata) == [lines[9], lines[8]]

    def test_the_newest_stay_in_any_case(self, metadata: SqlMetadata) -> None:
        lines = appended(metadata, *map(a_line, range(10)))
        assert prune(metadata, 1000, 2000, keep=4) == 6
        assert page(metadata) == lines[:5:-1]
        assert prune(metadata, 1000, 2000, keep=10) == 0

    def test_what_a_clock_set_back_wrote_goes_only_with_what_stands_before_it(self, metadata: SqlMetadata) -> None:
        """A day is 100 here: the third line is as young as its neighbours, whatever it says."""
        appended(metadata, *map(a_line, (1000, 1010, 3, 1020)))
        assert prune(metadata, 900, 1100) == 0
        assert prune(metadata, 1005, 1100) == 1
        assert prune(metadata, 1015, 1100) == 2

    def test_what_a_clock_set_forward_wrote_does_not_stay_for_ever(self, metadata: SqlMetadata) -> None:
        *_old, young = appended(metadata, *map(a_line, (1000, 9_000_000, 1020, 1030)))
        assert prune(metadata, 1015, 1100) == 1
        assert prune(metadata, 1025, 1100) == 2
        assert page(metadata) == [young]

    def test_what_a_clock_set_forward_wrote_goes_only_with_what_is_old_behind_it(self, metadata: SqlMetadata) -> None:
        """As when the clock came up far behind: everything that stands there is from its future."""
        appended(metadata, *map(a_line, (9_000_000, 9_000_001, 9_000_002)))
        assert prune(metadata, 1000, 1100) == 0
        appended(metadata, *map(a_line, (1050, 1060)))
        assert prune(metadata, 1000, 1100) == 0
        assert prune(metadata, 1055, 1100) == 4

    def test_nothing_goes_up_to_a_line_that_is_none(self, metadata: SqlMetadata) -> None:
        appended(metadata, a_line(10))
        with metadata.write() as tx:
            assert tx.log.remove_until(str(uuid4()), batch=10) == 0

    def test_an_empty_log(self, metadata: SqlMetadata) -> None:
        assert prune(metadata, 10, 20) == 0


def test_lines_of_an_earlier_version_get_names_of_their_own(empty_url: str) -> None:
    engines = make_engines(empty_url, 30.0)
    columns = "at, who, address, tenant, call, vm_uuid, vm_name, mark, snapshot, scode, duration_ms, operation_uuid"
    with engines.writer.begin() as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", "stillframe.adapters.metadata:migrations")
        command.upgrade(config, "0004")
        for at in (AT, AT + 1):
            connection.exec_driver_sql(
                f'INSERT INTO operation_log ({columns}, "desc") '  # noqa: S608 -- our own
                f"VALUES ({at}, 'key-1', '::1', 't1', 'create', 'vm-1', '虚机', 'GCD', '升级前', 0, 12, 'o-1', '')"
            )
    engines.dispose()
    with closing(open_metadata(empty_url)) as metadata:
        second, first = page(metadata)
        assert (replace(first, uuid=""), replace(second, uuid="")) == (a_line(AT, uuid=""), a_line(AT + 1, uuid=""))
        assert first.uuid != second.uuid
        assert all(len(line.uuid) == 36 and line.uuid.count("-") == 4 for line in (first, second))
        assert page(metadata, after=second.uuid) == [first]


def test_what_the_triggers_refuse_is_a_failure_of_the_storage(metadata: SqlMetadata) -> None:
    """Whoever tries it through a transaction of ours gets an outcome of the catalogue, and nothing has gone."""
    lines = appended(metadata, *map(a_line, (AT, int(time.time()))))
    with pytest.raises(Failed, match="not removed") as failed, metadata.write() as tx:
        tx.log.remove_until(lines[1].uuid, batch=10)
    assert failed.value.case is ErrorCase.STORAGE_FAILED
    assert page(metadata) == lines[::-1]
