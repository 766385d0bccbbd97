"""Values that a checkpoint does not hold itself: LangGraph reads them from the writes of the checkpoints before it.

Whoever makes a checkpoint in another place, or another value, needs them written out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from langgraph.channels import BinaryOperatorAggregate, DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.pregel._checkpoint import achannels_from_checkpoint

from orchestrator.engine.graphs import CompiledGraph

__all__ = ["COUNTERS", "as_stored", "counters", "replayed_values"]

# LangGraph's, in a checkpoint's metadata: how many updates of which DeltaChannels are not in a snapshot yet.
COUNTERS = "counters_since_delta_snapshot"


async def replayed_values(
    found: CheckpointTuple, graph: CompiledGraph, saver: BaseCheckpointSaver[Any]
) -> dict[str, Any]:
    """The values of the graph's channels that are rebuilt from the checkpoints before `found`."""
    checkpoint = found.checkpoint
    specs = {
        name: spec
        for name, spec in graph.channels.items()
        # A list that is no DeltaChannel any more may still be stored as one.
        if isinstance(spec, (DeltaChannel, BinaryOperatorAggregate))
        and name in checkpoint["channel_versions"]
        and name not in checkpoint["channel_values"]
    }
    if not specs:
        return {}
    channels, _ = await achannels_from_checkpoint(specs, checkpoint, saver=saver, config=found.config)
    return {name: channel.get() for name, channel in channels.items() if channel.is_available()}


def as_stored(graph: CompiledGraph, name: str, value: Any) -> Any:
    """The whole value of a channel as a checkpoint holds it."""
    return _DeltaSnapshot(value) if isinstance(graph.channels.get(name), DeltaChannel) else value


def counters(found: CheckpointTuple) -> Mapping[str, Any]:
    """The DeltaChannels with updates that the checkpoint's last snapshot of them does not have."""
    return cast("Mapping[str, Any]", found.metadata.get(COUNTERS) or {})
