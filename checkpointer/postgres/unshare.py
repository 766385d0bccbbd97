"""Back to whole values: every shared list becomes a row that LangGraph's own saver reads.

Runs beside live load once no process writes shared lists any more (CHECKPOINT_STORAGE=whole everywhere); it may be
stopped and run again. Values are joined as they are stored, without being rebuilt, so no type has to be allowed for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any

from psycopg.rows import DictRow, TupleRow, tuple_row

from checkpointer.postgres.arrays import register_arrays
from checkpointer.postgres.chunks import ChunkReader, SharedList, chunk_place, opened_typed
from checkpointer.postgres.places import blob_place
from checkpointer.postgres.pool import Connection, Pool
from checkpointer.postgres.queries import load_queries
from checkpointer.postgres.retention import sweep
from checkpointer.serde import Cipher, CompressedSerializer, join_list

__all__ = ["unshare"]

_PAGE = 20


async def unshare(pool: Pool, schema: str, serde: object, cipher: Cipher | None) -> AsyncIterator[int]:
    """Turn every shared list back; yields how many so far, after each page. Raises `UnreadableError`."""
    queries = load_queries("checkpointer.postgres", schema)
    changed = 0
    after = ""
    while True:
        async with pool.connection() as conn:
            threads = await _rows(conn, queries["sharing_threads"], after=after, limit=_PAGE)
        if not threads:
            return
        for row in threads:
            after = row["thread_id"]
            while count := await _page(pool, queries, serde, cipher, after):
                changed += count
                yield changed
            async with pool.connection() as conn, conn.transaction():
                await sweep(conn, schema, cipher, after)


async def _page(pool: Pool, queries: Mapping[str, str], serde: object, cipher: Cipher | None, thread_id: str) -> int:
    """Turn some of a thread's lists back, in a transaction that keeps its chunks where they are."""
    reader = ChunkReader(queries["load_chunks"], cipher)
    async with pool.connection() as conn, conn.transaction():
        await conn.execute(queries["hold_fence"].encode(), {"thread": thread_id})
        rows = await _rows(conn, queries["shared_page"], thread=thread_id, limit=_PAGE)
        roots = [(thread_id, opened_typed(cipher, row["type"], row["blob"], blob_place(row))[1]) for row in rows]
        for row, elements in zip(rows, await reader.lists(partial(_run, conn), roots), strict=True):
            kind, data = _joined(serde, cipher, thread_id, elements)
            if cipher is not None:
                kind, data = cipher.seal(kind, data, blob_place(row))
            await conn.execute(queries["put_blob"].encode(), {**row, "type": kind, "blob": data})
    return len(rows)


def _joined(serde: object, cipher: Cipher | None, thread_id: str, elements: SharedList) -> tuple[str, bytes]:
    compressed = serde if isinstance(serde, CompressedSerializer) else None
    parts = []
    for digest, kind, data in elements.elements:
        plain = opened_typed(cipher, kind, data, chunk_place(thread_id, digest))
        parts.append(CompressedSerializer.unpack(*plain))
    whole = join_list(parts)
    return compressed.pack(*whole) if compressed is not None else whole


async def _run(conn: Connection, statement: str, params: Mapping[str, Any]) -> list[TupleRow]:
    async with conn.cursor(row_factory=tuple_row, binary=True) as cursor:
        register_arrays(cursor.adapters)
        await cursor.execute(statement.encode(), params, prepare=False)
        return await cursor.fetchall()


async def _rows(conn: Connection, query: str, **params: object) -> list[DictRow]:
    return await (await conn.execute(query.encode(), params, prepare=False)).fetchall()
