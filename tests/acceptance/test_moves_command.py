"""`holdfast runs export`, `import`, `reclaim` and `verify` as a person runs them, and killed at any moment."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from checkpointer import CheckpointerSettings
from tests.forking import fork_holdfast, run_holdfast
from tests.moves import Cast, Places, column, opened
from tests.servers import ROOT
from tests.waiting import until

UNFINISHED = {"pending": 2, "waiting": 2, "paused": 1, "suspended": 1}


@pytest.fixture
def places(checkpointer_settings: CheckpointerSettings, tmp_path: Path) -> Places:
    return Places(checkpointer_settings, tmp_path / "runs.jsonl")


def environment(places: Places) -> dict[str, str]:
    """Of a command against the database."""
    dsn = places.postgres.conninfo()
    return {**os.environ, "POSTGRES_CONNECTION_STRING": dsn, "PYTHONPATH": str(ROOT)}


async def runs(places: Places, *arguments: str, code: int = 0) -> tuple[str, str]:
    """What the command prints."""
    command = ["runs", *arguments]
    ended = await asyncio.to_thread(run_holdfast, command, cwd=Path.cwd(), env=environment(places))
    assert ended.returncode == code, ended.stderr + ended.stdout
    return ended.stdout, ended.stderr


async def as_json(places: Places, *arguments: str) -> Any:
    """What the command prints with --json."""
    return json.loads((await runs(places, *arguments, "--json"))[0])


async def test_out_and_in_again(places: Places) -> None:
    cast, file = Cast(), str(places.file)
    async with opened(places.postgres, cast) as o:
        await cast.appear(o)
    assert (await as_json(places, "export", "--active", file))["left"] is False
    left = await as_json(places, "export", "--active", "--leave", file)
    assert (left["runs"], left["newlyLeft"]) == (UNFINISHED, UNFINISHED)
    assert oct(places.file.stat().st_mode & 0o777) == "0o600"
    out, _ = await runs(places, "verify", file)
    assert "is sound; written by an export from PostgreSQL\n6 runs (1 paused, 2 pending" in out
    out, _ = await runs(places, "reclaim", "--dry-run")
    assert out.startswith("6 runs (1 paused, 2 pending, 1 suspended, 2 waiting) would go on")
    out, _ = await runs(places, "import", file)
    assert "back in PostgreSQL: 6 runs" in out
    assert (await as_json(places, "import", file))["here"] == 6
    async with opened(places.postgres, cast) as o:
        cast.check(await cast.end(o))


async def test_what_is_wrong_is_one_line(places: Places) -> None:
    _, err = await runs(places, "export", str(places.file), code=2)
    assert "--active" in err
    _, err = await runs(places, "import", str(places.file), code=1)
    assert (err.count("\n"), "can't be read" in err) == (1, True)
    places.file.write_text("{}\n")
    _, err = await runs(places, "verify", str(places.file), code=1)
    assert (err.count("\n"), "not a file of threads" in err) == (1, True)


@pytest.mark.chaos
async def test_killed_at_any_moment_and_run_again(places: Places) -> None:
    cast, file = Cast(), str(places.file)
    async with opened(places.postgres, cast) as o:
        await cast.appear(o)
    async with places.connected() as conn:
        # In the statement that marks: it can't go on while a row is held.
        async with conn.transaction():
            await conn.execute("SELECT FROM workflow_checkpoints.workflow_metadata FOR UPDATE")
            await _kill(places, "export", "--active", "--leave", file)
        assert set(await column(conn, "left_at")) == {None}
        # All is marked, and the file is begun: what belongs to the runs can't be read, then the threads can't.
        for table in ("workflow_event", "checkpoint_writes"):
            await _stopped_at(conn, places, table, "export", "--active", "--leave", file)
            assert None not in await column(conn, "left_at")
    assert not places.file.exists()
    assert (await as_json(places, "export", "--active", "--leave", file))["runs"] == UNFINISHED
    async with places.connected() as conn:
        # Checkpoints are put, runs are not; then the runs are half written.
        for table in ("checkpoints", "workflow_event"):
            await _stopped_at(conn, places, table, "import", file)
            assert None not in await column(conn, "left_at")
    assert (await as_json(places, "import", file))["back"] == UNFINISHED
    async with opened(places.postgres, cast) as o:
        cast.check(await cast.end(o))


async def _stopped_at(conn: Any, places: Places, table: str, *arguments: str) -> None:
    """Kill the command where it first wants to touch the table."""
    async with conn.transaction():
        await conn.execute(f"LOCK workflow_checkpoints.{table} IN ACCESS EXCLUSIVE MODE".encode())
        await _kill(places, *arguments)


async def _kill(places: Places, *arguments: str) -> None:
    """Run the command until one of its statements waits for a lock, and kill it there; its transaction is undone."""
    waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"

    async def count(query: str) -> int:
        async with places.connected() as look:
            row = await (await look.execute(query.encode())).fetchone()
            return int(row[0]) if row else 0

    async def stopped() -> bool:
        assert process.poll() is None, said.read_text()
        return await count(waits) > 0

    said = places.file.with_name("said")
    with said.open("w") as out:
        given = environment(places)
        process = fork_holdfast(["runs", *arguments], cwd=Path.cwd(), env=given, stdout=out, stderr=out)
    try:
        await until(stopped, timeout_s=60, what="it waits for a lock")
        backends = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        process.kill()
        async with places.connected() as look:
            # A backend that waits for a lock does not notice that its client is gone.
            await look.execute(f"{backends} AND wait_event_type = 'Lock'".encode())
    finally:
        process.kill()
        await asyncio.to_thread(process.wait)
    await until(lambda: _gone(count, others), what="its connections are gone")


async def _gone(count: Any, others: str) -> bool:
    return bool(await count(others) <= 1)
