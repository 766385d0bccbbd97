"""The storage bench saves a conversation call by call: its rows are those that a graph's run leaves."""

from __future__ import annotations

import re
from typing import Any, Literal

import psycopg
import pytest

from tests.bench.contenders import open_ours
from tests.bench.conversation import Conversation, run_graph

_TURNS = 10
_ROWS = """
    SELECT 'checkpoint', checkpoint::text, metadata::text, parent_checkpoint_id IS NULL, checkpoint_ns
      FROM checkpoints WHERE thread_id = %(thread)s
    UNION ALL
    SELECT 'blob', channel || ' ' || split_part(version, '.', 1), type, blob IS NULL, coalesce(length(blob)::text, '')
      FROM checkpoint_blobs WHERE thread_id = %(thread)s
    UNION ALL
    SELECT 'write', channel || ' ' || idx, type, false, task_path || length(blob)
      FROM checkpoint_writes WHERE thread_id = %(thread)s
    UNION ALL
    SELECT 'chunk', hash::text, type, false, length(blob)::text FROM checkpoint_chunks WHERE thread_id = %(thread)s
"""
_CHANGING = re.compile(
    r'[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}"|\d{4}-\d\d-\d\dT[\d:.+]+'  # ids and times of checkpoints
    r"|(?<=\d{32})\.[\d.e-]+"  # the random part of versions
)


@pytest.mark.parametrize("storage", ["whole", "shared"])
async def test_a_conversation_leaves_the_rows_of_a_graph(
    postgres_dsn: str, storage: Literal["whole", "shared"]
) -> None:
    async with open_ours(postgres_dsn, storage=storage) as saver:
        await run_graph(saver, "graph", _TURNS)
        conversation = Conversation(saver, "calls")
        for _ in range(_TURNS):
            await conversation.turn()
    assert await _rows(postgres_dsn, "calls") == await _rows(postgres_dsn, "graph")


async def _rows(dsn: str, thread: str) -> list[tuple[Any, ...]]:
    options = "-c search_path=workflow_checkpoints"
    async with await psycopg.AsyncConnection.connect(dsn, options=options) as conn:
        rows = await (await conn.execute(_ROWS, {"thread": thread})).fetchall()
    return sorted((row[0], _CHANGING.sub("", row[1]), *row[2:]) for row in rows)
