"""A run's checkpoints, to be looked at and forked from."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.types import StateSnapshot

from orchestrator.engine.graphs import CompiledGraph
from orchestrator.runs.jsonable import to_json
from orchestrator.runs.model import Json, Run

__all__ = ["MAX_HISTORY", "CheckpointSummary", "history_of"]

MAX_HISTORY = 1000


@dataclass(frozen=True, slots=True)
class CheckpointSummary:
    """One checkpoint of a run.

    `step` counts from -1, the input's; `source` is LangGraph's: input, loop, update or fork. `next` are the nodes that
    run after it, and `values` the state as it stood, as JSON.
    """

    checkpoint_id: str
    parent_checkpoint_id: str | None
    created_at: datetime
    step: int
    source: str
    next: tuple[str, ...]
    values: Json
    workflow_version: str | None


async def history_of(
    run: Run, graph: CompiledGraph, saver: BaseCheckpointSaver[Any], *, limit: int = MAX_HISTORY
) -> list[CheckpointSummary]:
    """The run's checkpoints of the outermost graph, newest first, at most `limit`."""
    config: RunnableConfig = {"configurable": {"thread_id": run.checkpoint_thread_id}}
    history: AsyncIterator[StateSnapshot] = graph.aget_state_history(config, filter={"run_id": run.run_id}, limit=limit)
    return [_summary(snapshot) async for snapshot in history]


def _summary(snapshot: StateSnapshot) -> CheckpointSummary:
    metadata: dict[str, Any] = dict(snapshot.metadata or {})
    parent = snapshot.parent_config
    return CheckpointSummary(
        checkpoint_id=str(snapshot.config["configurable"]["checkpoint_id"]),
        parent_checkpoint_id=parent["configurable"]["checkpoint_id"] if parent else None,
        created_at=datetime.fromisoformat(str(snapshot.created_at)),
        step=int(metadata.get("step", -1)),
        source=str(metadata.get("source", "")),
        next=tuple(snapshot.next),
        values=to_json(snapshot.values),
        workflow_version=metadata.get("workflow_version"),
    )
