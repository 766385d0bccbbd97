"""`holdfast setup`, as an operator and a DBA run it, against a real server."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from checkpointer.migrations import MIGRATIONS
from checkpointer.postgres.schema import revert, setup
from checkpointer.settings import is_schema_name
from orchestrator.cli.inventory import expected_objects, present_objects
from orchestrator.migrations import ALL_MIGRATIONS
from tests.forking import run_holdfast
from tests.postgres import free_port, fresh_database
from tests.servers import ROOT

SCHEMA = "workflow_checkpoints"
SETS = (MIGRATIONS, *ALL_MIGRATIONS)
SOME = ("checkpoints", "checkpoint_fences", "workflow_metadata", "workflow_step", "procrastinate_jobs")
Catalog: TypeAlias = dict[str, list[tuple[Any, ...]]]
_OF_SCHEMA = "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %(schema)s"
CATALOG = {
    "columns": f"""SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attgenerated,
                          a.attidentity, pg_get_expr(d.adbin, d.adrelid)
                     FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid AND c.relkind = 'r'
                     LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
                          {_OF_SCHEMA} AND a.attnum > 0 AND NOT a.attisdropped ORDER BY 1, 2""",
    "indexes": "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = %(schema)s ORDER BY 1, 2",
    "constraints": f"""SELECT c.relname, k.conname, pg_get_constraintdef(k.oid)
                         FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid {_OF_SCHEMA} ORDER BY 1, 2""",
    "triggers": f"""SELECT c.relname, t.tgname, pg_get_triggerdef(t.oid)
                      FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
                           {_OF_SCHEMA} AND NOT t.tgisinternal ORDER BY 1, 2""",
    "functions": """SELECT p.oid::regprocedure::text, pg_get_functiondef(p.oid)
                      FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
                     WHERE n.nspname = %(schema)s ORDER BY 1""",
    "types": """SELECT t.typname, t.typtype, array(SELECT enumlabel::text FROM pg_enum e WHERE e.enumtypid = t.oid
                                                    ORDER BY enumsortorder)
                  FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
                 WHERE n.nspname = %(schema)s ORDER BY 1""",
}


def catalog(dsn: str, schema: str = SCHEMA) -> Catalog:
    """Everything in the schema, whatever order its columns were added in."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        return {what: conn.execute(query.encode(), {"schema": schema}).fetchall() for what, query in CATALOG.items()}


def execute(dsn: str, statement: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(statement.encode())


def run(directory: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """`holdfast setup` in a directory."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", **settings}
    environment.pop("DATABASE_URL", None)
    environment |= {name: value for name, value in settings.items() if name == "DATABASE_URL"}
    return run_holdfast(["setup", *arguments], cwd=directory, env=environment)


def done(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def refused(result: subprocess.CompletedProcess[str], code: int) -> str:
    """The one line that says what was wrong."""
    assert result.returncode == code, (result.stdout, result.stderr)
    assert result.stderr.count("\n") == 1, result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr


@pytest.fixture(scope="module")
def fresh(admin_dsn: str) -> Catalog:
    """What the migrations make of an empty database."""
    with fresh_database(admin_dsn) as dsn:
        asyncio.run(setup(dsn, SCHEMA, SETS))
        return catalog(dsn)


@pytest.fixture
def role(empty_dsn: str) -> Iterator[str]:
    """The same database for a role that may do nothing but log in."""
    name, password = f"plain_{uuid4().hex[:8]}", uuid4().hex
    execute(empty_dsn, f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
    try:
        yield make_conninfo(empty_dsn, user=name, password=password)
    finally:
        execute(empty_dsn, f"DROP OWNED BY {name} CASCADE")
        execute(empty_dsn, f"DROP ROLE {name}")


class TestSetup:
    def test_makes_everything_and_is_safe_to_repeat(self, tmp_path: Path, empty_dsn: str, fresh: Catalog) -> None:
        first = done(run(tmp_path, "--database-url", empty_dsn))
        for name in (*SOME, "langgraph", "procrastinate"):
            assert name in first
        assert "migrations applied" in first
        assert catalog(empty_dsn) == fresh
        again = done(run(tmp_path, "--database-url", empty_dsn))
        assert "nothing to do" in again
        assert "procrastinate_jobs" in again
        assert catalog(empty_dsn) == fresh

    def test_as_json(self, tmp_path: Path, empty_dsn: str) -> None:
        first = json.loads(done(run(tmp_path, "--json", POSTGRES_CONNECTION_STRING=empty_dsn)))
        assert first["source"] == "POSTGRES_CONNECTION_STRING"
        assert first["schema"] == SCHEMA
        assert "langgraph 0" in first["applied"]
        assert "procrastinate 0001 jobs" in first["applied"]
        assert set(SOME) < set(first["tables"])
        again = json.loads(done(run(tmp_path, "--json", POSTGRES_CONNECTION_STRING=empty_dsn)))
        assert again == {**first, "applied": []}

    def test_in_a_schema_of_another_name(self, tmp_path: Path, empty_dsn: str, fresh: Catalog) -> None:
        for name in ("user", "_x9"):
            done(run(tmp_path, "--database-url", empty_dsn, POSTGRES_SCHEMA=name))
            done(run(tmp_path, "--check", "--database-url", empty_dsn, POSTGRES_SCHEMA=name))
            assert {what: len(rows) for what, rows in catalog(empty_dsn, name).items()} == {
                what: len(rows) for what, rows in fresh.items()
            }

    @pytest.mark.parametrize("name", ["Capitals", "two words", "pg_mine", 'quo"te', "a" * 64])
    def test_a_schema_name_that_needs_quotes_is_refused(self, tmp_path: Path, empty_dsn: str, name: str) -> None:
        assert not is_schema_name(name)
        assert "POSTGRES_SCHEMA" in refused(run(tmp_path, "--database-url", empty_dsn, POSTGRES_SCHEMA=name), 2)
        assert "POSTGRES_SCHEMA" in refused(run(tmp_path, "--sql", POSTGRES_SCHEMA=name), 2)

    def test_a_role_without_create(self, tmp_path: Path, role: str, empty_dsn: str) -> None:
        password = str(conninfo_to_dict(role)["password"])
        problem = refused(run(tmp_path, "--database-url", role), 1)
        assert "lacks the CREATE privilege" in problem
        assert "holdfast setup --sql" in problem
        assert password not in problem
        assert "the schema does not exist" in refused(run(tmp_path, "--check", "--database-url", role), 1)
        done(run(tmp_path, "--database-url", empty_dsn))
        assert "GRANT USAGE" in refused(run(tmp_path, "--check", "--database-url", role), 1)
        execute(empty_dsn, f"GRANT USAGE ON SCHEMA {SCHEMA} TO {conninfo_to_dict(role)['user']}")
        execute(empty_dsn, f"GRANT SELECT ON ALL TABLES IN SCHEMA {SCHEMA} TO {conninfo_to_dict(role)['user']}")
        assert "up to date" in done(run(tmp_path, "--check", "--database-url", role))
        assert "nothing to do" in done(run(tmp_path, "--database-url", role))


class TestWhichServer:
    def test_the_first_that_is_named(self, tmp_path: Path, postgres_dsn: str) -> None:
        """Those after the first lead nowhere, and are not looked at."""
        nowhere = f"postgresql://me:hush@127.0.0.1:{free_port()}/none"
        named = {
            "POSTGRES_MIGRATION_CONNECTION_STRING": nowhere,
            "POSTGRES_CONNECTION_STRING": nowhere,
            "POSTGRES_HOST": "nowhere.invalid",
            "DATABASE_URL": "mysql://nowhere",
            "USE_POSTGRES_SAVER": "true",
        }
        parts = conninfo_to_dict(postgres_dsn)
        right = dict.fromkeys(named, postgres_dsn) | {"POSTGRES_HOST": str(parts["host"])}
        more = {
            "POSTGRES_PORT": str(parts["port"]),
            "POSTGRES_USER": str(parts["user"]),
            "POSTGRES_DATABASE": str(parts["dbname"]),
        }
        assert "(--database-url)" in done(run(tmp_path, "--database-url", postgres_dsn, **named))
        for source in list(named)[:-1]:
            given = {**named, source: right[source], **(more if source == "POSTGRES_HOST" else {})}
            assert f"({source})" in done(run(tmp_path, **given))
            del named[source]

    def test_env_file(self, tmp_path: Path, postgres_dsn: str) -> None:
        (tmp_path / ".env").write_text(f'DATABASE_URL="{postgres_dsn}"\n')
        assert "(DATABASE_URL)" in done(run(tmp_path))
        (tmp_path / ".env").write_text(f'POSTGRES_CONNECTION_STRING="{postgres_dsn}"\n')
        assert "(POSTGRES_CONNECTION_STRING)" in done(run(tmp_path, DATABASE_URL="mysql://nowhere"))

    def test_none(self, tmp_path: Path) -> None:
        problem = refused(run(tmp_path), 2)
        assert "--database-url" in problem
        assert "USE_POSTGRES_SAVER=true" in problem

    @pytest.mark.parametrize(
        ("arguments", "settings", "named"),
        [
            (["--database-url", "mysql://me:hush@h/d"], {}, "--database-url"),
            (["--database-url", "postgresql://me:h@ush@h/d"], {}, "--database-url"),
            (["--database-url", ""], {}, "--database-url"),
            ([], {"DATABASE_URL": "mysql://me:hush@h/d"}, "DATABASE_URL"),
            ([], {"POSTGRES_CONNECTION_STRING": "mysql://me:hush@h/d"}, "POSTGRES_CONNECTION_STRING"),
        ],
    )
    def test_what_is_no_connection_string(
        self, tmp_path: Path, arguments: list[str], settings: dict[str, str], named: str
    ) -> None:
        problem = refused(run(tmp_path, *arguments, **settings), 2)
        assert named in problem
        assert "ush" not in problem

    def test_a_server_that_is_not_there(self, tmp_path: Path) -> None:
        url = f"postgresql://me:hush@127.0.0.1:{free_port()}/none"
        for check in ([], ["--check"]):
            problem = refused(run(tmp_path, *check, "--database-url", url, POSTGRES_CONNECT_ATTEMPTS="1"), 1)
            assert "me:***@127.0.0.1" in problem
            assert "hush" not in problem

    def test_a_missing_password_is_filled_in(self, tmp_path: Path, postgres_dsn: str) -> None:
        url = make_conninfo(postgres_dsn, password=None)
        answer = json.loads(done(run(tmp_path, "--json", "--database-url", url, POSTGRES_PASSWORD="hush")))
        assert ":***@" in answer["database"]
        assert "hush" not in json.dumps(answer)

    def test_the_order_is_in_the_help(self, tmp_path: Path) -> None:
        shown = " ".join(done(run(tmp_path, "--help", COLUMNS="200")).split())
        order = ["--database-url, POSTGRES_MIGRATION_CONNECTION_STRING", "POSTGRES_CONNECTION_STRING, POSTGRES_HOST"]
        assert [shown.index(part) for part in [*order, "DATABASE_URL;"]] == sorted(
            shown.index(part) for part in [*order, "DATABASE_URL;"]
        )


class TestCheck:
    def test_an_empty_database(self, tmp_path: Path, empty_dsn: str) -> None:
        assert "the schema does not exist" in refused(run(tmp_path, "--check", "--database-url", empty_dsn), 1)
        result = run(tmp_path, "--check", "--json", "--database-url", empty_dsn)
        assert result.returncode == 1
        answer = json.loads(result.stdout)
        assert answer["tables"] == []
        assert {"table workflow_step", "table checkpoints"} < set(answer["missing"])

    @pytest.mark.parametrize(
        ("change", "gone"),
        [
            ("DROP TABLE {schema}.workflow_step", "table workflow_step"),
            ("DROP TABLE {schema}.checkpoint_writes", "table checkpoint_writes"),
            ("DROP INDEX {schema}.workflow_metadata_turn_single", "index workflow_metadata_turn_single"),
            ("ALTER TABLE {schema}.workflow_metadata DROP COLUMN queue CASCADE", "column workflow_metadata.queue"),
            ("DROP TABLE {schema}.procrastinate_events", "table procrastinate_events"),
            (
                "DROP FUNCTION {schema}.procrastinate_prune_stalled_workers_v1",
                "function procrastinate_prune_stalled_workers_v1",
            ),
        ],
    )
    def test_what_is_gone_since(self, tmp_path: Path, postgres_dsn: str, change: str, gone: str) -> None:
        assert "up to date" in done(run(tmp_path, "--check", "--database-url", postgres_dsn))
        execute(postgres_dsn, change.replace("{schema}", SCHEMA))
        for command in (["--check"], []):
            problem = refused(run(tmp_path, *command, "--database-url", postgres_dsn), 1)
            assert gone in problem
            assert "holdfast setup --sql" in problem
            result = run(tmp_path, *command, "--json", "--database-url", postgres_dsn)
            assert result.returncode == 1
            assert gone in json.loads(result.stdout)["missing"]

    def test_the_script_makes_it_anew(self, tmp_path: Path, postgres_dsn: str, fresh: Catalog) -> None:
        execute(postgres_dsn, f"DROP TABLE {SCHEMA}.workflow_step; DROP TABLE {SCHEMA}.checkpoint_writes")
        execute(postgres_dsn, done(run(tmp_path, "--sql")))
        assert catalog(postgres_dsn) == fresh
        done(run(tmp_path, "--check", "--database-url", postgres_dsn))

    def test_what_is_expected_is_what_is_made(self, postgres_dsn: str) -> None:
        present = asyncio.run(present_objects(postgres_dsn, SCHEMA))
        expected = expected_objects(SETS)
        assert expected <= present
        for kind in ("table", "function", "trigger"):
            assert {each for each in present if each[0] == kind} == {each for each in expected if each[0] == kind}
        of_constraints = {("index", name) for _, name, _ in catalog(postgres_dsn)["constraints"]}
        indexes = {each for each in present if each[0] == "index"} - of_constraints
        assert indexes == {each for each in expected if each[0] == "index"}


class TestScript:
    def test_makes_what_setup_makes(self, tmp_path: Path, empty_dsn: str, fresh: Catalog) -> None:
        script = done(run(tmp_path, "--sql"))
        for _ in range(2):
            execute(empty_dsn, script)
            assert catalog(empty_dsn) == fresh
        done(run(tmp_path, "--check", "--database-url", empty_dsn))
        assert "nothing to do" in done(run(tmp_path, "--database-url", empty_dsn))

    def test_leaves_a_finished_database_as_it_is(self, tmp_path: Path, postgres_dsn: str, fresh: Catalog) -> None:
        execute(postgres_dsn, done(run(tmp_path, "--sql")))
        assert catalog(postgres_dsn) == fresh

    def test_in_another_schema(self, tmp_path: Path, empty_dsn: str) -> None:
        execute(empty_dsn, done(run(tmp_path, "--sql", POSTGRES_SCHEMA="user")))
        done(run(tmp_path, "--check", "--database-url", empty_dsn, POSTGRES_SCHEMA="user"))

    @pytest.mark.parametrize("more", [["--check"], ["--json"], ["--database-url", "postgresql:///x"]])
    def test_takes_no_other_option(self, tmp_path: Path, more: list[str]) -> None:
        result = run(tmp_path, "--sql", *more)
        assert result.returncode == 2
        assert result.stdout == ""


async def test_up_down_up_is_fresh(empty_dsn: str, fresh: Catalog) -> None:
    """Every set goes its way back, the queue's too, and comes up again as on an empty database."""
    applied = [name for name in await setup(empty_dsn, SCHEMA, SETS) if not name.startswith("langgraph")]
    assert await revert(empty_dsn, SCHEMA, SETS) == applied[::-1]
    left = {table for table, *_ in catalog(empty_dsn)["columns"]}
    theirs = {"checkpoint_migrations", "checkpoints", "checkpoint_blobs", "checkpoint_writes"}
    assert left == theirs | {"holdfast_migrations"}
    assert not [row for what in ("triggers", "functions") for row in catalog(empty_dsn)[what]]
    assert await setup(empty_dsn, SCHEMA, SETS) == applied
    assert catalog(empty_dsn) == fresh


@pytest.mark.parametrize("to", [1, 2])
async def test_a_part_of_the_way_back(empty_dsn: str, fresh: Catalog, to: int) -> None:
    await setup(empty_dsn, SCHEMA, SETS)
    assert await revert(empty_dsn, SCHEMA, SETS, to=to)
    await setup(empty_dsn, SCHEMA, SETS)
    assert catalog(empty_dsn) == fresh
