"""Copying a thread with its whole history, in the caller's transaction, which sees one snapshot.

What is not encrypted is copied by the server. Encrypted values are bound to their row, so they are opened and sealed
anew for their new place, a few at a time. Chunks keep their hashes: with encryption a thread's own saves hash under a
key of their own, so the copy's next save stores its elements once more.
"""

from __future__ import annotations

from checkpointer.errors import UnreadableError
from checkpointer.postgres.places import blob_place, chunk_row_place, write_place
from checkpointer.postgres.pool import Connection
from checkpointer.postgres.queries import load_queries
from checkpointer.serde import Cipher

__all__ = ["copy_thread"]

_SEALED = (
    ("sealed_blobs", "put_blob", blob_place),
    ("sealed_writes", "put_write", write_place),
    ("sealed_chunks", "put_chunk", chunk_row_place),
)


async def copy_thread(conn: Connection, schema: str, cipher: Cipher | None, source: str, target: str) -> None:
    """Copy all of a thread; what the target has under the same ids is replaced.

    Raises `UnreadableError` for an encrypted thread without its keys.
    """
    queries = load_queries("checkpointer.postgres", schema)
    for name in ("ensure_fence", "hold_fence"):
        # Whoever prunes the target meanwhile waits, and sees the copy's references then.
        await conn.execute(queries[name].encode(), {"thread": target})
    await conn.execute(queries["copy_rows"].encode(), {"source": source, "target": target}, prepare=False)
    for rows, put, place in _SEALED:
        async with conn.cursor("sealed") as reader:
            await reader.execute(queries[rows].encode(), {"thread": source})
            async for row in reader:
                if cipher is None:
                    raise UnreadableError(
                        f"thread {source!r} is encrypted and can only be copied with its keys: "
                        "set CHECKPOINT_ENCRYPTION_KEYS"
                    )
                moved = {**row, "thread_id": target}
                plain = cipher.open(row["type"], row["blob"], place(row))
                moved["type"], moved["blob"] = cipher.seal(*plain, place(moved))
                await conn.execute(queries[put].encode(), moved)
