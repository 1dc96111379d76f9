"""What every metadata adapter promises about transactions, threads, versions and broken databases."""

from __future__ import annotations

import stat
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import event

from contract.metadata_rows import SECRET, VM, a_snapshot, an_operation
from stillframe.adapters.metadata import SqlMetadata, open_metadata, schema
from stillframe.adapters.metadata.database import SqlTransaction
from stillframe.adapters.metadata.log import SqlLog
from stillframe.domain.errors import ErrorCase, Failed, Refused, StillframeError, Unknown
from support.postgres import PostgresCluster

if TYPE_CHECKING:
    from pathlib import Path

THREADS = 20


def names(metadata: SqlMetadata) -> list[str]:
    with metadata.read() as tx:
        return [snapshot.name for snapshot in tx.snapshots.of_vm(VM)]


def types_differ(context: MigrationContext, *columns_and_types: Any) -> bool:
    _inspected_column, _column, inspected_type, known_type = columns_and_types
    return str(inspected_type.compile(context.dialect)) != str(known_type.compile(context.dialect))


def everything_said(error: StillframeError) -> str:
    return "".join(traceback.format_exception(error)) + repr(error.__cause__)


def fail_so_that_the_transaction_is_gone(tx: SqlTransaction) -> None:
    """What SQLITE_FULL does on SQLite, and every error on PostgreSQL."""
    assert isinstance(tx.log, SqlLog)
    connection = tx.log._connection
    if connection.dialect.name == "sqlite":
        row = "INSERT OR ROLLBACK INTO service_facts (name, value) VALUES ('cluster_uuid', 'another')"
    else:
        row = "INSERT INTO service_facts (name, value) VALUES ('cluster_uuid', 'another')"
    connection.exec_driver_sql(row)


class TestOpening:
    def test_the_cluster_uuid_is_drawn_once_even_by_a_race(self, empty_url: str) -> None:
        def opened_once(_number: int) -> str:
            with closing(open_metadata(empty_url)) as opened:
                return opened.cluster_uuid()

        with ThreadPoolExecutor(4) as pool:
            drawn = set(pool.map(opened_once, range(4)))
        assert drawn == {opened_once(0)}

    def test_the_migrations_make_the_tables_that_the_code_knows(self, metadata: SqlMetadata) -> None:
        with metadata._engines.writer.connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": types_differ})
            assert compare_metadata(context, schema.metadata) == []
            inspector = sa.inspect(connection)
            for table in schema.metadata.tables.values():
                made = {check["name"] for check in inspector.get_check_constraints(table.name)}
                known = {c.name for c in table.constraints if isinstance(c, sa.CheckConstraint) and c.name}
                assert made == known

    def test_a_database_of_a_newer_version_is_refused_and_left_alone(self, url: str) -> None:
        with closing(open_metadata(url)) as opened, opened._engines.writer.begin() as connection:
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
        with pytest.raises(Refused, match=r"newer version.*9999.*0009") as refused:
            open_metadata(url)
        assert refused.value.case is ErrorCase.STORAGE_FAILED
        engine = sa.create_engine(url)
        with engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one() == "9999"
        engine.dispose()

    @pytest.mark.parametrize("bad", ["nonsense", "sqlite://", "sqlite:///:memory:", "mysql://u:p4ss@h/d"])
    def test_another_kind_of_url_is_refused(self, bad: str) -> None:
        with pytest.raises(Refused, match="STORAGE_FAILED") as refused:
            open_metadata(bad)
        assert "p4ss" not in everything_said(refused.value)

    def test_closing_is_repeatable(self, metadata: SqlMetadata) -> None:
        metadata.close()
        metadata.close()


class TestTransactions:
    def test_an_exception_rolls_everything_back(self, metadata: SqlMetadata) -> None:
        def write_and_break() -> None:
            with metadata.write() as tx:
                tx.snapshots.insert(a_snapshot("lost"))
                tx.journal.open(an_operation("lost"))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            write_and_break()
        assert names(metadata) == []
        with metadata.write() as tx:
            assert tx.journal.active() == []
            tx.snapshots.insert(a_snapshot("kept"))
        assert names(metadata) == ["kept"]

    def test_readers_see_one_state_and_never_wait_for_the_writer(self, metadata: SqlMetadata) -> None:
        with metadata.write() as writing:
            writing.snapshots.insert(a_snapshot("first"))
        with metadata.read() as reading:
            assert len(reading.snapshots.of_vm(VM)) == 1
            with metadata.write() as writing:
                writing.snapshots.insert(a_snapshot("second"))
                began = time.monotonic()
                with ThreadPoolExecutor(4) as pool:
                    seen = [future.result() for future in [pool.submit(names, metadata) for _ in range(4)]]
                assert seen == [["first"]] * 4
                assert time.monotonic() - began < 5
            assert len(reading.snapshots.of_vm(VM)) == 1
        assert names(metadata) == ["first", "second"]

    def test_a_read_transaction_cannot_write(self, metadata: SqlMetadata) -> None:
        with pytest.raises(Failed, match="STORAGE_FAILED"), metadata.read() as tx:
            tx.snapshots.insert(a_snapshot("never"))
        assert names(metadata) == []

    def test_of_many_threads_one_gets_the_slot_and_the_others_hear_at_once_who_has_it(
        self, metadata: SqlMetadata
    ) -> None:
        line_up = threading.Barrier(THREADS)

        def race(number: int) -> str:
            line_up.wait()
            try:
                with metadata.write() as tx:
                    tx.journal.open(an_operation(f"operation-{number}"))
            except Refused as refused:
                return str(refused)
            return ""

        with ThreadPoolExecutor(THREADS) as pool:
            outcomes = list(pool.map(race, range(THREADS)))
        assert outcomes.count("") == 1
        winner = f"operation-{outcomes.index('')}"
        assert all("VM_BUSY" in said and winner in said for said in outcomes if said)
        with metadata.read() as tx:
            assert [operation.uuid for operation in tx.journal.active()] == [winner]

    def test_the_slot_is_held_by_the_database_and_not_by_this_code(self, metadata: SqlMetadata) -> None:
        with metadata.write() as tx:
            tx.journal.open(an_operation("active"))
        columns = "vm_uuid, slot, kind, state, plan, started_at, error, lock_key"
        for attempt in (
            "UPDATE operations SET lock_key = NULL",
            f"INSERT INTO operations (uuid, {columns}) SELECT 'second', {columns} FROM operations",  # noqa: S608 — fixed text
        ):
            with pytest.raises(sa.exc.IntegrityError), metadata._engines.writer.begin() as connection:
                connection.exec_driver_sql(attempt)

    def test_writers_are_serialised_across_openings(self, url: str) -> None:
        def publish(number: int) -> int:
            with (first if number % 2 else second).write() as tx:
                return tx.snapshots.insert(a_snapshot(f"s{number}")).seq

        with closing(open_metadata(url)) as first, closing(open_metadata(url)) as second:
            with ThreadPoolExecutor(8) as pool:
                seqs = list(pool.map(publish, range(40)))
            assert sorted(seqs) == list(range(1, 41))
            assert len(names(first)) == 40


class TestFailures:
    def test_a_database_that_stays_locked_is_said_in_time(self, url: str) -> None:
        with (
            closing(open_metadata(url)) as holder,
            closing(open_metadata(url, lock_timeout_s=0.2)) as waiter,
        ):
            with holder.write() as tx:
                tx.snapshots.insert(a_snapshot("first"))
                with pytest.raises(Failed, match="stayed locked") as failed, waiter.write():
                    pytest.fail("two writers at once")
                assert failed.value.case is ErrorCase.STORAGE_FAILED
            with waiter.write() as tx:
                tx.snapshots.insert(a_snapshot("second"))
            assert names(holder) == ["first", "second"]

    def test_threads_that_queue_too_long_are_told(self, url: str) -> None:
        with (
            closing(open_metadata(url, lock_timeout_s=0.2)) as opened,
            opened.write(),
            pytest.raises(Failed, match="became free in time"),
            opened.write(),
        ):
            pytest.fail("two writers at once")

    @pytest.mark.parametrize("broken", [{"uuid": "first"}, {"description": None}, {"parent_uuid": "nobody"}], ids=str)
    def test_no_error_repeats_the_secrets_of_a_row(self, metadata: SqlMetadata, broken: dict[str, str | None]) -> None:
        with metadata.write() as tx:
            tx.snapshots.insert(a_snapshot("first"))
        with pytest.raises(Failed) as failed, metadata.write() as tx:
            tx.snapshots.insert(replace(a_snapshot("second"), **broken))  # type: ignore[arg-type]
        assert failed.value.case is ErrorCase.STORAGE_FAILED
        assert SECRET not in everything_said(failed.value)
        assert "INSERT" not in failed.value.desc
        assert names(metadata) == ["first"]

    def test_after_a_commit_that_failed_the_next_transaction_is_as_good_as_any(self, metadata: SqlMetadata) -> None:
        """References are checked at the commit; it is what fails here."""
        for _ in range(2):
            with pytest.raises(Failed, match=r"(?i)foreign key"), metadata.write() as tx:
                tx.snapshots.insert(replace(a_snapshot("lost"), parent_uuid="nobody"))
        with metadata.write() as tx:
            tx.snapshots.insert(a_snapshot("first"))
        assert names(metadata) == ["first"]

    @pytest.mark.parametrize("then", ["end", "go on"])
    def test_a_swallowed_error_is_not_taken_for_a_commit(self, metadata: SqlMetadata, then: str) -> None:
        def write_and_swallow() -> None:
            with metadata.write() as tx:
                tx.snapshots.insert(a_snapshot("before"))
                with suppress(sa.exc.SQLAlchemyError):
                    fail_so_that_the_transaction_is_gone(tx)
                if then == "go on":
                    tx.snapshots.insert(a_snapshot("after"))

        with pytest.raises(Failed, match="STORAGE_FAILED"):
            write_and_swallow()
        assert names(metadata) == []
        with metadata.write() as tx:
            tx.snapshots.insert(a_snapshot("later"))
        assert names(metadata) == ["later"]


class TestSqlite:
    def test_its_files_are_for_the_owner_alone(self, sqlite_url: str, tmp_path: Path) -> None:
        (tmp_path / "stillframe.db").touch(mode=0o644)
        with closing(open_metadata(sqlite_url)):
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
        assert modes.keys() >= {"stillframe.db", "stillframe.db-wal"}
        assert set(modes.values()) == {0o600}

    def test_every_commit_is_durable_and_references_are_checked(self, on_sqlite: SqlMetadata) -> None:
        expected = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30_000}
        with on_sqlite._engines.writer.connect() as connection:
            found = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in expected}
        assert found == expected

    def test_a_full_disk_is_space_exhausted_and_nothing_is_committed(self, on_sqlite: SqlMetadata) -> None:
        def stop_growing(connection: sa.Connection) -> None:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

        event.listen(on_sqlite._engines.writer, "begin", stop_growing)
        with pytest.raises(Failed, match="full") as failed, on_sqlite.write() as tx:
            tx.snapshots.insert(replace(a_snapshot("big"), vm_detail="x" * 1_000_000))
        assert failed.value.case is ErrorCase.SPACE_EXHAUSTED
        assert names(on_sqlite) == []

    def test_what_is_no_database_is_said(self, sqlite_url: str, tmp_path: Path) -> None:
        (tmp_path / "stillframe.db").write_bytes(b"a letter to the editor" * 100)
        with pytest.raises(Failed, match="not a database"):
            open_metadata(sqlite_url)

    def test_a_missing_directory_is_said_without_its_path(self, tmp_path: Path) -> None:
        with pytest.raises(Failed, match="No such file") as failed:
            open_metadata(f"sqlite:///{tmp_path}/nowhere/stillframe.db")
        assert str(tmp_path) not in failed.value.desc


class TestPostgres:
    def test_a_connection_that_breaks_in_the_commit_leaves_the_outcome_unknown(
        self, on_postgres: SqlMetadata, cluster: PostgresCluster
    ) -> None:
        def write_and_lose_the_connection() -> None:
            with on_postgres.write() as tx:
                tx.snapshots.insert(a_snapshot("perhaps"))
                self.break_writers(cluster)

        with pytest.raises(Unknown) as unknown:
            write_and_lose_the_connection()
        assert unknown.value.case is ErrorCase.STORAGE_FAILED
        with on_postgres.write() as tx:  # the pool met the broken connection first
            tx.snapshots.insert(a_snapshot("later"))
        assert "later" in names(on_postgres)

    def test_a_connection_that_breaks_before_the_commit_is_a_failure(
        self, on_postgres: SqlMetadata, cluster: PostgresCluster
    ) -> None:
        def lose_the_connection_and_go_on() -> None:
            with on_postgres.write() as tx:
                tx.snapshots.insert(a_snapshot("never"))
                self.break_writers(cluster)
                tx.snapshots.of_vm(VM)

        with pytest.raises(Failed, match="STORAGE_FAILED"):
            lose_the_connection_and_go_on()
        assert names(on_postgres) == []

    def test_a_full_disk_is_space_exhausted(self, on_postgres: SqlMetadata) -> None:
        def fill_up(connection: sa.Connection) -> None:
            connection.exec_driver_sql("DO $$ BEGIN RAISE EXCEPTION 'no space left' USING ERRCODE = '53100'; END $$")

        event.listen(on_postgres._engines.writer, "begin", fill_up)
        with pytest.raises(Failed, match="no space left") as failed, on_postgres.write():
            pytest.fail("began on a full disk")
        assert failed.value.case is ErrorCase.SPACE_EXHAUSTED

    def test_a_server_that_cannot_be_reached_is_said_without_its_address(self, tmp_path: Path) -> None:
        password = tmp_path.name
        with pytest.raises(Failed, match="cannot be reached") as failed:
            open_metadata(f"postgresql+psycopg://u:{password}@/d?host={tmp_path.parent}")
        assert failed.value.case is ErrorCase.STORAGE_FAILED
        assert str(tmp_path.parent) not in failed.value.desc
        assert any(str(tmp_path.parent) in note for note in failed.value.__notes__)  # for the log
        assert password not in everything_said(failed.value)

    def test_another_encoding_is_refused(self, cluster: PostgresCluster) -> None:
        with cluster.database(encoding="LATIN1") as url, pytest.raises(Refused, match="LATIN1"):
            open_metadata(url)

    @staticmethod
    def break_writers(cluster: PostgresCluster) -> None:
        with cluster.connect() as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction'"
            )
