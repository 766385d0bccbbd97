"""`holdfast reencrypt`, as a person runs it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path

import psycopg

from checkpointer import open_postgres_saver
from tests.checkpoints import SCHEMA, at, put, values_of
from tests.forking import run_holdfast
from tests.servers import ROOT

KEY = "one:" + "A" * 43 + "="


def holdfast(dsn: str, *arguments: str, key: str | None = KEY) -> subprocess.CompletedProcess[str]:
    """Run the command against a database."""
    environment = {**os.environ, "POSTGRES_CONNECTION_STRING": dsn, "PYTHONPATH": str(ROOT)}
    if key is not None:
        environment["CHECKPOINT_ENCRYPTION_KEYS"] = key
    return run_holdfast(arguments, cwd=Path.cwd(), env=environment)


def sealed(conn: psycopg.Connection) -> int:
    """How many values are encrypted."""
    row = conn.execute(f"SELECT count(*) FROM {SCHEMA}.checkpoint_blobs WHERE type LIKE '%+gcm.one'").fetchone()
    return row[0] if row else 0


def test_on_and_off_again(postgres_dsn: str, conn: psycopg.Connection) -> None:
    async def fill() -> None:
        async with open_postgres_saver(postgres_dsn) as saver:
            for number in range(5):
                await put(saver, at(f"thread {number}"), {"list": [number], "text": "clear"})

    async def read() -> object:
        async with open_postgres_saver(postgres_dsn) as saver:
            return await values_of(saver, at("thread 3"))

    asyncio.run(fill())
    on = holdfast(postgres_dsn, "reencrypt", "--json")
    assert on.returncode == 0, on.stderr
    assert json.loads(on.stdout) == {"values": 5, "writes": 0, "checkpoints": 5, "chunks": 0}
    assert sealed(conn) == 10
    off = holdfast(postgres_dsn, "reencrypt", "--off")
    assert off.returncode == 0, off.stderr
    assert "10 values, 0 writes and 0 chunks" in off.stdout
    assert sealed(conn) == 0
    assert asyncio.run(read()) == {"list": [3], "text": "clear"}


def test_without_keys_it_says_what_to_set(postgres_dsn: str, tmp_path: Path) -> None:
    result = holdfast(postgres_dsn, "reencrypt", key=None)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "CHECKPOINT_ENCRYPTION_KEYS" in result.stderr


def test_a_key_is_never_shown(postgres_dsn: str) -> None:
    result = holdfast(postgres_dsn, "reencrypt", key="one:c2VjcmV0")
    assert result.returncode == 2
    assert "c2VjcmV0" not in result.stderr + result.stdout
