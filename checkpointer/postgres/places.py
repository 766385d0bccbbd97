"""The identity that an encrypted value is bound to, from its row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from checkpointer.postgres.chunks import chunk_place

__all__ = ["blob_place", "chunk_row_place", "write_place"]


def blob_place(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Of a row of `checkpoint_blobs`."""
    return ("blob", row["thread_id"], row["checkpoint_ns"], row["channel"], row["version"])


def write_place(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Of a row of `checkpoint_writes`."""
    ids = (row["thread_id"], row["checkpoint_ns"], row["checkpoint_id"], row["task_id"])
    return ("write", *ids, str(row["idx"]))


def chunk_row_place(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Of a row of `checkpoint_chunks`."""
    return chunk_place(row["thread_id"], row["hash"].bytes)
