"""Checkpoints for tests: made without a graph, and looked at as rows."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, cast

import psycopg
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    empty_checkpoint,
)
from prometheus_client import REGISTRY
from psycopg import sql

__all__ = ["SCHEMA", "TABLES", "at", "checkpoint", "everything", "history", "put", "retries", "values_of"]

SCHEMA = "workflow_checkpoints"
TABLES = ("checkpoints", "checkpoint_blobs", "checkpoint_writes")
_versions = itertools.count(1)


def at(
    thread: str, checkpoint_id: str | None = None, *, ns: str = "", epoch: int | None = None, **more: Any
) -> RunnableConfig:
    """A config that names a thread, and a checkpoint of it and a fence's epoch where given."""
    ids: dict[str, Any] = {"thread_id": thread, "checkpoint_ns": ns, **more}
    if checkpoint_id is not None:
        ids["checkpoint_id"] = checkpoint_id
    if epoch is not None:
        ids["__fence_epoch"] = epoch
    return {"configurable": ids}


def checkpoint(values: Mapping[str, Any], *, checkpoint_id: str | None = None) -> Checkpoint:
    """A checkpoint with these values, all of a new version."""
    made = empty_checkpoint()
    made["id"] = checkpoint_id or made["id"]
    made["channel_values"] = dict(values)
    made["channel_versions"] = {name: f"{next(_versions):032}.0" for name in values}
    return made


async def put(
    saver: BaseCheckpointSaver[Any],
    config: RunnableConfig,
    values: Mapping[str, Any],
    metadata: Mapping[str, Any] | None = None,
) -> RunnableConfig:
    """Save a new checkpoint with these values; gives its config, as `aput` does."""
    made = checkpoint(values)
    about = cast("CheckpointMetadata", {"source": "loop", "step": 1, "parents": {}, **(metadata or {})})
    return await saver.aput(config, made, about, dict(made["channel_versions"]))


async def values_of(saver: BaseCheckpointSaver[Any], config: RunnableConfig) -> dict[str, Any] | None:
    """The values of a checkpoint, or None where there is none."""
    found = await saver.aget_tuple(config)
    return found.checkpoint["channel_values"] if found else None


async def history(saver: BaseCheckpointSaver[Any], thread: str, *, ns: str | None = None) -> list[CheckpointTuple]:
    """A thread's checkpoints, of all namespaces unless one is named, newest first."""
    ids = {"thread_id": thread} if ns is None else {"thread_id": thread, "checkpoint_ns": ns}
    return [found async for found in saver.alist({"configurable": ids})]


def everything(conn: psycopg.Connection, *, thread: str | None = None) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of LangGraph's tables, of one thread where given, in a fixed order."""
    found = {}
    for table in TABLES:
        name = sql.Identifier(SCHEMA, table)
        query = sql.SQL("SELECT * FROM {} t WHERE %s::text IS NULL OR thread_id = %s ORDER BY t::text").format(name)
        found[table] = conn.execute(query, (thread, thread)).fetchall()
    return found


def retries() -> float:
    """Statements of this process that were sent again, for any reason."""
    return sum(
        sample.value
        for metric in REGISTRY.collect()
        if metric.name == "checkpointer_retries"
        for sample in metric.samples
        if sample.name.endswith("_total")
    )
