"""Lets a run go on from a checkpoint of another run, on a thread of its own: the other run is left as it is.

The checkpoint is written again under the new thread with the id that it had, as the new run's, and with the version
that it was of. What was pending on it is not taken along: its nodes run anew. The values of DeltaChannels, which are
read from the checkpoints before, are written out.
"""

from __future__ import annotations

from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, Checkpoint, CheckpointMetadata, CheckpointTuple

from orchestrator.engine.channels import COUNTERS, as_stored, counters, replayed_values
from orchestrator.engine.graphs import CompiledGraph
from orchestrator.errors import CheckpointNotFoundError

__all__ = ["find_checkpoint", "fork_thread", "is_untouched"]

# langgraph._internal._constants.NULL_TASK_ID: the writes of a Command's update.
_NULL_TASK = "00000000-0000-0000-0000-000000000000"


async def find_checkpoint(
    saver: BaseCheckpointSaver[Any], thread_id: str, checkpoint_id: str
) -> CheckpointTuple | None:
    """A thread's checkpoint of the outermost graph by its id."""
    ids = {"thread_id": thread_id, "checkpoint_ns": "", "checkpoint_id": checkpoint_id}
    return await saver.aget_tuple({"configurable": ids})


async def fork_thread(
    source_thread_id: str,
    checkpoint_id: str,
    graph: CompiledGraph,
    saver: BaseCheckpointSaver[Any],
    config: RunnableConfig,
) -> CheckpointTuple:
    """Make the checkpoint the head of `config`'s thread, stamped as its run's. Safe to repeat.

    Raises `CheckpointNotFoundError`.
    """
    run_id = (config.get("metadata") or {}).get("run_id")
    found = await find_checkpoint(saver, source_thread_id, checkpoint_id)
    if found is None:
        raise CheckpointNotFoundError(str(run_id), checkpoint_id)
    written_out = await replayed_values(found, graph, saver)
    values = {name: as_stored(graph, name, value) for name, value in written_out.items()}
    checkpoint = {**found.checkpoint, "channel_values": {**found.checkpoint["channel_values"], **values}}
    counted = {name: count for name, count in counters(found).items() if name not in values}
    metadata = {**found.metadata, "source": "fork", "run_id": run_id, COUNTERS: counted}
    parent_id = found.parent_config["configurable"]["checkpoint_id"] if found.parent_config else None
    # Without the run's metadata: the checkpoint keeps the version that it is stamped with.
    at: RunnableConfig = {"configurable": {**config["configurable"], "checkpoint_ns": "", "checkpoint_id": parent_id}}
    versions = dict(found.checkpoint["channel_versions"])
    await saver.aput(at, cast("Checkpoint", checkpoint), cast("CheckpointMetadata", metadata), versions)
    head = await saver.aget_tuple(config)
    if head is None:
        raise CheckpointNotFoundError(str(run_id), checkpoint_id)
    return head


def is_untouched(head: CheckpointTuple, checkpoint_id: str | None) -> bool:
    """Whether the head is still the forked checkpoint, without the update that its run begins with."""
    is_fork = head.config["configurable"]["checkpoint_id"] == checkpoint_id
    return is_fork and not any(write[0] == _NULL_TASK for write in head.pending_writes or ())
