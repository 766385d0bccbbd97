"""Brings a state that an older version of a workflow wrote to the version at hand.

Each upgrade adds one checkpoint. The head keeps its id and gets the new state; the state as it was becomes a
checkpoint that sorts right before it, and is its parent:

    P ──► H, stamped 1      becomes      P ──► H′, stamped 1 ──► H, stamped 2

That is because of all that hangs on the head's id and is to go on as it was. LangGraph makes the ids of tasks from
it, and from those the ids of interrupts and the places of subgraphs' checkpoints. So results of finished tasks and of
`@task` calls stay theirs, a signal that was handed over before still answers, and so does one that comes later. To a
checkpoint with a new id not all of it could be carried: nothing tells which `@task` call a result belongs to.

Invariants:
1. H′ is written before H, and its id follows from H's, so an upgrade that was cut short is done again in the same
   places. The stamp on H says what is still to be done.
2. What runs next stays the same: whoever has seen a channel's last version has seen the new one, too.
3. An upgrade is applied only as part of a chain that ends at the version at hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

from langchain_core.runnables import RunnableConfig
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver, ChannelVersions, Checkpoint, CheckpointTuple
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from orchestrator.engine.channels import COUNTERS, as_stored, counters, replayed_values
from orchestrator.engine.graphs import CompiledGraph, CompiledWorkflow, Upgrade
from orchestrator.errors import GraphError

__all__ = ["upgrade_state"]

# LangGraph's channels beside the state: edges, joins, and its own, which are written `__…`.
_INTERNAL = ("branch:", "join:", "start:", "__")
_ROOT = "__root__"  # the one channel of a state that is no dict
_INTERRUPT = "__interrupt__"
# How many upgrades of one checkpoint have room between its id and the one before it, which is older by 100 ns at least.
_ROOM = 1 << 16


async def upgrade_state(
    workflow: CompiledWorkflow, saver: BaseCheckpointSaver[Any], config: RunnableConfig, head: CheckpointTuple
) -> CheckpointTuple:
    """Apply the workflow's upgrades from the version that the head is stamped with on; returns the head after that.

    A head that no chain of upgrades leads from to the workflow's version is returned as it is. Raises `GraphError`
    where the state can't be changed, and whatever `change` raises.
    """
    chain = _chain(workflow, head.metadata.get("workflow_version"))
    if chain and head.metadata.get("run_id") == (config.get("metadata") or {}).get("run_id"):
        _require_known_results(workflow, head)
    for upgrade in chain:
        head = await _apply(upgrade, workflow.graph, saver, config, head)
    return head


def _chain(workflow: CompiledWorkflow, version: object) -> list[Upgrade]:
    """The upgrades from `version` to the workflow's; none where they do not lead there."""
    by_old = {upgrade.old: upgrade for upgrade in workflow.upgrades}
    chain: list[Upgrade] = []
    while version != workflow.version:
        if not isinstance(version, str) or version not in by_old or len(chain) == len(by_old):
            return []
        chain.append(by_old[version])
        version = chain[-1].new
    return chain


async def _apply(
    upgrade: Upgrade,
    graph: CompiledGraph,
    saver: BaseCheckpointSaver[Any],
    config: RunnableConfig,
    head: CheckpointTuple,
) -> CheckpointTuple:
    values = await _state_of(upgrade, graph, saver, head)
    # By their bytes: `change` may alter a value in place, and not every type can be compared.
    before = {name: saver.serde.dumps_typed(value) for name, value in values.items()}
    changed = _checked(upgrade, upgrade.change(values))
    upgraded, metadata, versions = _rewritten(upgrade, graph, saver, head, before, changed)

    count = metadata["upgrade"]["count"]
    earlier_id = str(UUID(int=UUID(head.checkpoint["id"]).int - _ROOM + count))
    earlier = cast("Checkpoint", {**head.checkpoint, "id": earlier_id})
    parent_id = head.parent_config["configurable"]["checkpoint_id"] if head.parent_config else None
    await saver.aput(_child_of(config, parent_id), earlier, head.metadata, {})
    await saver.aput(_child_of(config, earlier_id), upgraded, cast("Any", metadata), versions)
    found = await saver.aget_tuple(config)
    if found is None:
        raise GraphError(f"{_name(upgrade)}: the checkpoint it wrote is gone")
    return found


def _child_of(config: RunnableConfig, parent_id: str | None) -> RunnableConfig:
    # Without the run's metadata: a checkpoint keeps the run and the version that it is stamped with.
    return {"configurable": {**config["configurable"], "checkpoint_ns": "", "checkpoint_id": parent_id}}


async def _state_of(
    upgrade: Upgrade, graph: CompiledGraph, saver: BaseCheckpointSaver[Any], head: CheckpointTuple
) -> dict[str, Any]:
    """What `change` takes: the whole values of the user's state by channel."""
    stored = head.checkpoint["channel_values"].items()
    values = {name: value for name, value in stored if not _is_internal(name)}
    values = {name: value.value if isinstance(value, _DeltaSnapshot) else value for name, value in values.items()}
    values |= await replayed_values(head, graph, saver)
    if unknown := sorted((counters(head).keys() & head.checkpoint["channel_versions"].keys()) - values.keys()):
        raise GraphError(
            f"{_name(upgrade)}: the value of {unknown[0]!r} can't be read. It was a DeltaChannel; leave it one in the "
            "new graph's state until no run of the old version is left"
        )
    return values


def _checked(upgrade: Upgrade, changed: object) -> dict[str, Any]:
    if not isinstance(changed, Mapping):
        raise GraphError(f"{_name(upgrade)}: change takes and returns a mapping, not {type(changed).__qualname__}")
    if wrong := [name for name in changed if not isinstance(name, str) or _is_internal(name)]:
        raise GraphError(f"{_name(upgrade)}: {wrong[0]!r} is no name of a state's channel")
    return dict(changed)


def _rewritten(
    upgrade: Upgrade,
    graph: CompiledGraph,
    saver: BaseCheckpointSaver[Any],
    head: CheckpointTuple,
    before: Mapping[str, tuple[str, bytes]],
    changed: Mapping[str, Any],
) -> tuple[Checkpoint, dict[str, Any], ChannelVersions]:
    """The head with the changed state, its metadata, and the versions that are new."""
    checkpoint = head.checkpoint
    fresh = {
        name: as_stored(graph, name, value)
        for name, value in changed.items()
        if before.get(name) != saver.serde.dumps_typed(value) or not _is_in_place(graph, name, checkpoint)
    }
    gone = before.keys() - changed.keys()
    for name in gone:
        spec = graph.channels.get(name)
        if isinstance(spec, DeltaChannel):
            # Else its next reader would go on to the writes from before.
            fresh[name] = _DeltaSnapshot(spec.ValueType())
    gone -= fresh.keys()
    versions = checkpoint["channel_versions"]
    new = dict.fromkeys(fresh, saver.get_next_version(max(versions.values()), None)) if fresh else {}
    upgraded = {
        **checkpoint,
        "ts": datetime.now(UTC).isoformat(),
        "channel_values": _without(checkpoint["channel_values"], gone) | fresh,
        "channel_versions": _without(versions, gone) | new,
        "versions_seen": _seen(graph, checkpoint, new, gone),
    }
    return cast("Checkpoint", upgraded), _stamped(upgrade, head, gone | fresh.keys()), new


def _stamped(upgrade: Upgrade, head: CheckpointTuple, rewritten: set[str]) -> dict[str, Any]:
    about = cast("dict[str, Any]", head.metadata)
    count = about.get("upgrade", {}).get("count", 0) + 1
    return {
        **about,
        "source": "update",
        "workflow_version": upgrade.new,
        "upgrade": {"from": upgrade.old, "to": upgrade.new, "count": count},
        COUNTERS: _without(counters(head), rewritten),
    }


def _is_in_place(graph: CompiledGraph, name: str, checkpoint: Checkpoint) -> bool:
    """Whether the channel of the new graph finds its value where the old one left it."""
    if isinstance(graph.channels.get(name), DeltaChannel):
        return True
    values = checkpoint["channel_values"]
    return name in values and not isinstance(values[name], _DeltaSnapshot)


def _seen(
    graph: CompiledGraph, checkpoint: Checkpoint, new: ChannelVersions, gone: set[str]
) -> dict[str, ChannelVersions]:
    """`versions_seen` such that the new versions start nothing that the old ones did not."""
    versions = checkpoint["channel_versions"]
    seen = {node: _without(known, gone) for node, known in checkpoint["versions_seen"].items()}
    for name, version in new.items():
        if name in versions:
            up_to_date = [node for node, known in seen.items() if known.get(name) == versions[name]]
        else:
            up_to_date = [*graph.trigger_to_nodes.get(name, ()), _INTERRUPT]
        for node in up_to_date:
            seen.setdefault(node, {})[name] = version
    return seen


def _require_known_results(workflow: CompiledWorkflow, head: CheckpointTuple) -> None:
    """Refuse a state on which a finished task has left results that LangGraph would drop."""
    written = {channel for _, channel, _ in head.pending_writes or () if not _is_internal(channel)}
    if unknown := sorted(written - workflow.graph.channels.keys()):
        raise GraphError(
            f"the run has finished nodes whose results are for {unknown[0]!r}, which version {workflow.version!r} of "
            f"{workflow.name!r} does not have; leave it in the graph's state until no run of the old version is left"
        )


def _is_internal(channel: str) -> bool:
    return channel.startswith(_INTERNAL) and channel != _ROOT


def _without(mapping: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in mapping.items() if name not in names}


def _name(upgrade: Upgrade) -> str:
    return f"the upgrade from version {upgrade.old!r} to {upgrade.new!r}"
