"""PostgreSQL's saver, handing values of unknown types through as stored (`checkpointer/threads/verbatim.py`)."""

from __future__ import annotations

from langgraph.checkpoint.serde.base import SerializerProtocol

from checkpointer.postgres.saver import PooledPostgresSaver
from checkpointer.serde import CompressedSerializer
from checkpointer.threads.verbatim import VerbatimSerializer

__all__ = ["verbatim_postgres"]


def verbatim_postgres(saver: PooledPostgresSaver) -> tuple[PooledPostgresSaver, SerializerProtocol]:
    """The same saver, on the same connections, that rebuilds only what it may; and what writes values to files."""
    stored = saver.serde
    if not isinstance(stored, CompressedSerializer):
        plain = VerbatimSerializer(stored)
        return saver.with_serde(plain), plain
    plain = VerbatimSerializer(stored.inner)
    return saver.with_serde(CompressedSerializer(plain, threshold=stored.threshold, level=stored.level)), plain
