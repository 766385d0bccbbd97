"""Rotating keys, switching encryption on over old rows and off again, beside live load."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import psycopg
import pytest
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import END, START, MessagesState, StateGraph
from psycopg.rows import dict_row

from checkpointer import PooledPostgresSaver, UnreadableError, open_postgres_saver
from checkpointer.postgres.reencrypt import Changed, reencrypt
from checkpointer.serde import Cipher, CompressedSerializer

_OLD = ("old", bytes(range(32)))
_NEW = ("new", bytes(range(32, 64)))
_SECRET = "the marker that must not be found"
_SCHEMA = "workflow_checkpoints"


class State(MessagesState):
    """A string, a number and nothing, beside messages."""

    note: str
    count: int
    nothing: str | None


def graph(saver: BaseCheckpointSaver[Any]) -> Any:
    """Two nodes that change every kind of value."""

    async def work(state: State) -> dict[str, Any]:
        return {
            "messages": [AIMessage(_SECRET)],
            "note": f"{_SECRET} {state.get('count', 0)}",
            "count": state.get("count", 0) + 1,
            "nothing": None,
        }

    builder = StateGraph(State)
    builder.add_node("one", work)
    builder.add_node("two", work)
    builder.add_edge(START, "one")
    builder.add_edge("one", "two")
    builder.add_edge("two", END)
    return builder.compile(checkpointer=saver)


def config(thread: str) -> RunnableConfig:
    """A thread's config."""
    return {"configurable": {"thread_id": thread}}


async def run_threads(saver: BaseCheckpointSaver[Any], names: Sequence[str]) -> None:
    """One run on each thread."""
    await asyncio.gather(*(graph(saver).ainvoke({"note": _SECRET}, config(name)) for name in names))


async def histories(saver: BaseCheckpointSaver[Any], names: Sequence[str]) -> list[list[CheckpointTuple]]:
    """Everything that is stored of the threads."""
    return [[found async for found in saver.alist(config(name))] for name in names]


async def change(saver: PooledPostgresSaver, cipher: Cipher, *, seal: bool) -> Changed:
    """Re-encrypt all; gives the final counts."""
    pages = reencrypt(saver.pool, _SCHEMA, CompressedSerializer(), cipher, seal=seal)
    return [Changed(), *[changed async for changed in pages]][-1]


def clear_text(conn: psycopg.Connection) -> int:
    """How many rows of any table hold the marker in clear text."""
    total = 0
    for table in ("checkpoints", "checkpoint_blobs", "checkpoint_writes"):
        found = conn.execute(
            f"SELECT count(*) FROM {_SCHEMA}.{table} t WHERE strpos(t::text, %(text)s) > 0"
            f" OR strpos(t::text, encode(convert_to(%(text)s, 'UTF8'), 'hex')) > 0",
            {"text": _SECRET},
        ).fetchone()
        total += found[0] if found else 0
    return total


async def test_switch_on_rotate_and_switch_off(postgres_dsn: str, conn: psycopg.Connection) -> None:
    names = [f"thread {number}" for number in range(20)]
    plain = CompressedSerializer(threshold=10**9)  # uncompressed, so that the marker would show
    async with open_postgres_saver(postgres_dsn, serde=plain) as saver:
        await run_threads(saver, names)
        before = await histories(saver, names)
        assert clear_text(conn) > 0
    old, both, new = Cipher([_OLD]), Cipher([_NEW, _OLD]), Cipher([_NEW])

    async with open_postgres_saver(postgres_dsn, serde=plain, cipher=old) as saver:
        assert await histories(saver, names) == before
        changed = await change(saver, old, seal=True)
        assert min(changed.values, changed.writes, changed.checkpoints) > 0
        assert clear_text(conn) == 0
        assert await histories(saver, names) == before
        assert await change(saver, old, seal=True) == Changed()

    async with open_postgres_saver(postgres_dsn, serde=plain, cipher=both) as saver:
        await change(saver, both, seal=True)
    async with open_postgres_saver(postgres_dsn, serde=plain, cipher=new) as saver:
        assert await histories(saver, names) == before
        await change(saver, new, seal=False)

    async with await psycopg.AsyncConnection.connect(
        postgres_dsn, autocommit=True, row_factory=dict_row, options=f"-c search_path={_SCHEMA}"
    ) as stock_conn:
        stock = AsyncPostgresSaver(stock_conn, serde=plain)
        assert await histories(stock, names) == before
        await graph(stock).ainvoke({"note": "on it goes"}, config(names[0]))


async def test_beside_live_load(postgres_dsn: str) -> None:
    both = Cipher([_NEW, _OLD])
    async with open_postgres_saver(postgres_dsn, cipher=Cipher([_OLD])) as saver:
        await run_threads(saver, [f"before {number}" for number in range(30)])
    async with open_postgres_saver(postgres_dsn, cipher=both) as saver:
        live = [f"live {number}" for number in range(60)]
        await asyncio.gather(run_threads(saver, live), change(saver, both, seal=True))
    async with open_postgres_saver(postgres_dsn, cipher=Cipher([_NEW])) as saver:
        for history in await histories(saver, [*live, *(f"before {number}" for number in range(30))]):
            assert history[0].checkpoint["channel_values"]["count"] == 2


async def test_a_missing_key_changes_nothing(postgres_dsn: str, conn: psycopg.Connection) -> None:
    async with open_postgres_saver(postgres_dsn, cipher=Cipher([_OLD])) as saver:
        await run_threads(saver, ["one"])
        before = conn.execute(f"SELECT md5(string_agg(b::text, '' ORDER BY b::text)) FROM {_SCHEMA}.checkpoint_blobs b")
        with pytest.raises(UnreadableError, match="'old'"):
            await change(saver, Cipher([_NEW]), seal=True)
        after = conn.execute(f"SELECT md5(string_agg(b::text, '' ORDER BY b::text)) FROM {_SCHEMA}.checkpoint_blobs b")
        assert before.fetchone() == after.fetchone()
