"""`holdfast setup --storage whole`, as a person runs it on the way back to LangGraph's own saver."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import psycopg
from langchain_core.messages import AIMessage
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from psycopg.rows import dict_row

from checkpointer import CompressedSerializer, open_postgres_saver
from tests.checkpoints import SCHEMA, at, put, values_of
from tests.forking import run_holdfast
from tests.servers import ROOT

MESSAGES = [AIMessage("x" * 400 + str(number)) for number in range(40)]


def holdfast(dsn: str, *arguments: str, storage: str = "whole") -> subprocess.CompletedProcess[str]:
    """Run the command against a database."""
    settings = {"POSTGRES_CONNECTION_STRING": dsn, "CHECKPOINT_STORAGE": storage, "PYTHONPATH": str(ROOT)}
    environment = {**os.environ, **settings}
    return run_holdfast(arguments, cwd=Path.cwd(), env=environment)


def chunks(conn: psycopg.Connection) -> int:
    """How many elements are stored on their own."""
    row = conn.execute(f"SELECT count(*) FROM {SCHEMA}.checkpoint_chunks").fetchone()
    return row[0] if row else 0


async def save_shared(dsn: str) -> None:
    """Two threads with a long list each."""
    async with open_postgres_saver(dsn, storage="shared") as saver:
        for thread in ("one", "two"):
            config = await put(saver, at(thread), {"messages": MESSAGES[:20]})
            await put(saver, config, {"messages": MESSAGES})


async def read_by_stock(dsn: str) -> object:
    """What LangGraph's own saver finds."""
    options = f"-c search_path={SCHEMA}"
    async with await psycopg.AsyncConnection.connect(
        dsn, autocommit=True, row_factory=dict_row, options=options
    ) as stock:
        return await values_of(AsyncPostgresSaver(stock, serde=CompressedSerializer()), at("two"))


def test_the_stock_saver_reads_everything_afterwards(postgres_dsn: str, conn: psycopg.Connection) -> None:
    asyncio.run(save_shared(postgres_dsn))
    assert chunks(conn) >= 40
    for found in ("4", "0"):
        result = holdfast(postgres_dsn, "setup", "--storage", "whole")
        assert result.returncode == 0, result.stderr
        assert result.stdout == f"{found} shared values are stored whole now\n"
        assert chunks(conn) == 0
    assert asyncio.run(read_by_stock(postgres_dsn)) == {"messages": MESSAGES}


def test_it_wants_the_setting_changed_first(postgres_dsn: str) -> None:
    result = holdfast(postgres_dsn, "setup", "--storage", "whole", storage="shared")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "CHECKPOINT_STORAGE" in result.stderr
