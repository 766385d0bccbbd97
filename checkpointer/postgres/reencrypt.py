"""Changing how stored values are encrypted: rotate keys, switch encryption on over old rows, or off again.

The saver reads any mixture (each value says which key sealed it), so this may run beside live load, be stopped, and
be run again. It goes through the tables by primary key in pages of their own transaction; rows of a page are locked
for that moment. Order of a rotation: give every process the new key first in CHECKPOINT_ENCRYPTION_KEYS with the old
one behind it, then re-encrypt, then drop the old key.

Switching on also takes the primitives that stand in clear text in the checkpoints' JSON and seals them as values.
Chunks of shared lists keep their hashes: elements that were stored before encryption was switched on keep an unkeyed
one, by which equal content shows across threads, until nothing refers to them any more; and after a rotation the
hashes of the old key stay for the old elements.

Switching off leaves the primitives as values, unsealed: LangGraph's own saver reads them there as well.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from langgraph.checkpoint.serde.base import SerializerProtocol
from psycopg.rows import DictRow

from checkpointer.errors import UnreadableError
from checkpointer.postgres.codec import Codec
from checkpointer.postgres.places import blob_place, chunk_row_place, write_place
from checkpointer.postgres.pool import Connection, Pool
from checkpointer.postgres.queries import load_queries
from checkpointer.serde import Cipher

__all__ = ["Changed", "reencrypt"]

_PAGE = 200


@dataclass(frozen=True, slots=True)
class Changed:
    """How many rows were changed so far."""

    values: int = 0
    writes: int = 0
    checkpoints: int = 0
    chunks: int = 0

    def __add__(self, other: Changed) -> Changed:
        return Changed(
            self.values + other.values,
            self.writes + other.writes,
            self.checkpoints + other.checkpoints,
            self.chunks + other.chunks,
        )


@dataclass(frozen=True, slots=True)
class _Table:
    """How to page through one table: its query, the primary key, and where a row's value belongs."""

    page: str
    put: str
    key: tuple[str, ...]
    first: tuple[str | int | UUID, ...]
    place: Callable[[Mapping[str, Any]], Sequence[str]]
    one: Changed


_BLOBS = _Table(
    "blobs_sealed_otherwise",
    "put_blob",
    ("thread_id", "checkpoint_ns", "channel", "version"),
    ("", "", "", ""),
    blob_place,
    Changed(values=1),
)
_WRITES = _Table(
    "writes_sealed_otherwise",
    "put_write",
    ("thread_id", "checkpoint_ns", "checkpoint_id", "task_id", "idx"),
    ("", "", "", "", -(2**31)),
    write_place,
    Changed(writes=1),
)
_CHUNKS = _Table(
    "chunks_sealed_otherwise",
    "put_chunk",
    ("thread_id", "hash"),
    ("", UUID(int=0)),
    chunk_row_place,
    Changed(chunks=1),
)


async def reencrypt(
    pool: Pool, schema: str, serde: SerializerProtocol, cipher: Cipher | None, *, seal: bool = True
) -> AsyncIterator[Changed]:
    """Seal every value under the cipher's first key, or unseal every one; yields the count after each page.

    `seal=False` needs the cipher too, to read what is sealed. Raises `UnreadableError` for a value whose key is not
    among the cipher's: nothing of its page is changed then, and what was changed before stays so.
    """
    if cipher is None:
        raise UnreadableError("re-encrypting needs the keys: set CHECKPOINT_ENCRYPTION_KEYS")
    changed = Changed()
    tables: list[AsyncIterator[Changed]] = []
    if seal:
        tables.append(_take_out_clear_text(pool, schema, Codec(serde, cipher)))
    tables += [_reseal(pool, schema, cipher, table, seal=seal) for table in (_BLOBS, _WRITES, _CHUNKS)]
    for table in tables:
        async for page in table:
            changed += page
            yield changed


async def _reseal(pool: Pool, schema: str, cipher: Cipher, table: _Table, *, seal: bool) -> AsyncIterator[Changed]:
    queries = load_queries("checkpointer.postgres", schema)
    wanted = cipher.current if seal else ""
    after: Sequence[str | int | UUID] = table.first
    while True:
        async with pool.connection() as conn, conn.transaction():
            params = dict(zip("abcde", after, strict=False)) | {"key": wanted, "limit": _PAGE}
            rows = await _rows(conn, queries[table.page], params)
            for row in rows:
                kind, plain = cipher.open(row["type"], row["blob"] or b"", table.place(row))
                if seal:
                    kind, plain = cipher.seal(kind, plain, table.place(row))
                await conn.execute(queries[table.put].encode(), {**row, "type": kind, "blob": plain})
        if not rows:
            return
        after = [rows[-1][column] for column in table.key]
        yield _times(table.one, len(rows))


async def _take_out_clear_text(pool: Pool, schema: str, codec: Codec) -> AsyncIterator[Changed]:
    queries = load_queries("checkpointer.postgres", schema)
    after: Sequence[str] = ("", "", "")
    while True:
        async with pool.connection() as conn, conn.transaction():
            params = dict(zip("abc", after, strict=True)) | {"limit": _PAGE}
            rows = await _rows(conn, queries["checkpoints_in_clear"], params)
            for row in rows:
                await _seal_inline(conn, queries, codec, row)
        if not rows:
            return
        after = [rows[-1][column] for column in ("thread_id", "checkpoint_ns", "checkpoint_id")]
        yield Changed(checkpoints=len([row for row in rows if row["channels"]]))


async def _seal_inline(conn: Connection, queries: Mapping[str, str], codec: Codec, row: DictRow) -> None:
    """Move a checkpoint's clear-text primitives to sealed values."""
    checkpoint, moved = row["checkpoint"], []
    for channel in row["channels"]:
        version = checkpoint["channel_versions"].get(channel)
        if version is not None:
            value = {**row, "channel": channel, "version": str(version)}
            kind, data = codec.seal(checkpoint["channel_values"][channel], blob_place(value))
            await conn.execute(queries["put_blob"].encode(), {**value, "type": kind, "blob": data})
            moved.append(channel)
    if moved:
        await conn.execute(queries["take_out_values"].encode(), {**row, "channels": moved})


async def _rows(conn: Connection, query: str, params: Mapping[str, Any]) -> list[DictRow]:
    return await (await conn.execute(query.encode(), params, prepare=False)).fetchall()


def _times(one: Changed, count: int) -> Changed:
    return Changed(one.values * count, one.writes * count, one.checkpoints * count, one.chunks * count)
