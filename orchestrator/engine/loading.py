"""Where an attempt begins: from the input, from the last checkpoint, with answers, from a fork, or not at all.

A run's first attempt begins with its input, and nothing is read. For any other the thread's head is read:

    it is not of this run                    → the input (the attempt before died before its first save)
    it is to go on at a node we do not have  → suspended, naming it; another worker may have it, so nothing is changed
    it is of an older version                → upgraded first, as a checkpoint of its own
    nodes wait, and signals answer them      → the answers
    all that is left waits for others        → waiting again, nothing is run
    anything else                            → goes on from there; LangGraph sees that the run is the same
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.pregel import Pregel
from langgraph.types import Command, StateSnapshot

from checkpointer.postgres.fence import FENCE_KEY
from orchestrator.engine.forking import fork_thread, is_untouched
from orchestrator.engine.graphs import CompiledGraph, CompiledWorkflow
from orchestrator.engine.upgrades import upgrade_state
from orchestrator.errors import MissingNodeError
from orchestrator.runs.jsonable import to_json
from orchestrator.runs.model import Json, Run
from orchestrator.runs.signals import ANY_SIGNAL, RESUME_SIGNAL, Signal, awaited_signal, match_signals
from orchestrator.runs.store import RunStore

__all__ = ["Begin", "LostRunError", "Rest", "config_of", "describe_wait", "load"]

# LangGraph's names, from langgraph.graph.state and langgraph._internal._constants.
_BRANCH_TO = "branch:to:"
_SENDS = "__pregel_tasks"
_INTERRUPT = "__interrupt__"


class LostRunError(Exception):
    """The run is somebody else's by now."""


@dataclass(frozen=True, slots=True)
class Begin:
    """What to give the graph. `resumed` says that it goes on from a checkpoint."""

    input: Any
    resumed: bool


@dataclass(frozen=True, slots=True)
class Rest:
    """There is nothing to run: the run waits, as `awaiting` says."""

    awaiting: list[dict[str, Json]]
    output: Json
    checkpoint_id: str


def config_of(run: Run, workflow: CompiledWorkflow) -> RunnableConfig:
    """The config of the run's attempts: its thread, its fence, and what its checkpoints are stamped with."""
    return {
        "configurable": {"thread_id": run.checkpoint_thread_id, FENCE_KEY: run.epoch},
        "metadata": {"run_id": run.run_id, "workflow_version": workflow.version},
    }


async def load(
    run: Run, workflow: CompiledWorkflow, saver: BaseCheckpointSaver[Any], store: RunStore, config: RunnableConfig
) -> Begin | Rest:
    """Find out where the attempt begins.

    Raises `MissingNodeError`, `CheckpointNotFoundError` for a fork's, `LostRunError`, and the saver's errors.
    """
    if run.attempt == 1 and run.fork_checkpoint_id is None and not _has_history(run, workflow):
        return Begin(_own(run.input), resumed=False)
    head = await saver.aget_tuple(config)
    is_ours = head is not None and head.metadata.get("run_id") == run.run_id
    if not is_ours and run.fork_checkpoint_id is not None:
        parent = await store.get(str(run.parent_run_id))
        head = await fork_thread(parent.checkpoint_thread_id, run.fork_checkpoint_id, workflow.graph, saver, config)
        is_ours = True
    if head is None:
        return Begin(_own(run.input), resumed=False)
    # Before the upgrade: a worker of the older version, which has the node, is to find its own state.
    if is_ours and (missing := await _missing_nodes(workflow.graph, head, saver)):
        raise MissingNodeError(workflow.name, missing)
    if workflow.upgrades:
        head = await upgrade_state(workflow, saver, config, head)
    if not is_ours:
        return Begin(_own(run.input), resumed=False)
    if run.input is not None and is_untouched(head, run.fork_checkpoint_id):
        return Begin(Command(update=_own(run.input)), resumed=True)
    return await _resume(run, workflow, store, config, head)


def _own(value: Json) -> Json:
    """A copy of a run's input: a state that is one value is changed in place, by LangGraph itself at an interrupt()."""
    return orjson.loads(orjson.dumps(value))


def _has_history(run: Run, workflow: CompiledWorkflow) -> bool:
    """Whether a first attempt may meet a state of an older version: on a thread that others have used."""
    return bool(workflow.upgrades) and run.thread_id != run.run_id


async def _resume(
    run: Run, workflow: CompiledWorkflow, store: RunStore, config: RunnableConfig, head: CheckpointTuple
) -> Begin | Rest:
    breakpoints = workflow.graph.interrupt_before_nodes
    if not breakpoints and not any(channel == _INTERRUPT for _, channel, _ in head.pending_writes or ()):
        return Begin(_own(run.input), resumed=True)
    snapshot = await workflow.graph.aget_state(config, subgraphs=True)
    signals = await store.signals(run.run_id) if run.signal_count else []
    waits = _pending(snapshot)
    checkpoint_id = str(head.config["configurable"]["checkpoint_id"])
    rest = Rest([describe_wait(*wait) for wait in waits.items()], to_json(snapshot.values), checkpoint_id)
    if not waits:
        stops = set(snapshot.next) if breakpoints == "*" else set(snapshot.next) & set(breakpoints)
        return rest if stops and not _let_past(signals, checkpoint_id) else Begin(_own(run.input), resumed=True)
    matched = match_signals({key: awaited_signal(value) for key, value in waits.items()}, signals)
    if matched:
        await _hand_over(run, store, matched)
        return Begin(Command(resume={key: signal.payload for key, signal in matched.items()}), resumed=True)
    # What neither ran nor waits is still to be run.
    idle = [task for task in snapshot.tasks if not task.interrupts and task.result is None]
    return Begin(_own(run.input), resumed=True) if idle else rest


async def _hand_over(run: Run, store: RunStore, matched: Mapping[str, Signal]) -> None:
    """Note which signal answers which wait before it does: after a crash the same one is handed over again."""
    fresh = {signal.signal_id: key for key, signal in matched.items() if signal.interrupt_id is None}
    if fresh and not await store.deliver(run, fresh):
        raise LostRunError


def _let_past(signals: list[Signal], checkpoint_id: str) -> bool:
    """Whether someone resumed the run where it stood at a breakpoint."""
    return any(signal.name == RESUME_SIGNAL and signal.interrupt_id == checkpoint_id for signal in signals)


def describe_wait(interrupt_id: str, value: object) -> dict[str, Json]:
    """A wait as a run's row shows it: `{"interruptId", "signal", "value"}`; the signal is null where any will do."""
    signal = awaited_signal(value)
    return {"interruptId": interrupt_id, "signal": None if signal == ANY_SIGNAL else signal, "value": to_json(value)}


def _pending(snapshot: StateSnapshot) -> dict[str, Any]:
    """The values that unfinished tasks wait with, by interrupt id, those of subgraphs among them."""
    found: dict[str, Any] = {}
    for task in snapshot.tasks:
        if task.result is None:
            found |= {interrupt.id: interrupt.value for interrupt in task.interrupts}
        if isinstance(task.state, StateSnapshot):
            found |= _pending(task.state)
    return found


async def _missing_nodes(graph: CompiledGraph, head: CheckpointTuple, saver: BaseCheckpointSaver[Any]) -> list[str]:
    """Nodes that the run is to go on at and the graph does not have; LangGraph would pass them over.

    One of a subgraph is named `node:its node`.
    """
    missing = _wanted_nodes(head) - graph.nodes.keys()
    if next(iter(graph.get_subgraphs()), None) is not None:
        snapshot = await graph.aget_state(head.config, subgraphs=True)
        missing |= await _missing_below(graph, snapshot, saver)
    return sorted(missing)


async def _missing_below(graph: CompiledGraph, snapshot: StateSnapshot, saver: BaseCheckpointSaver[Any]) -> set[str]:
    subgraphs = dict(graph.get_subgraphs())
    missing: set[str] = set()
    for task in snapshot.tasks:
        below, state = subgraphs.get(task.name), task.state
        if task.result is not None or not isinstance(below, Pregel) or not isinstance(state, StateSnapshot):
            continue
        ids = state.config["configurable"]
        at = {name: ids.get(name) for name in ("thread_id", "checkpoint_ns", "checkpoint_id")}
        if at["checkpoint_id"] and (found := await saver.aget_tuple({"configurable": at})) is not None:
            gone = (_wanted_nodes(found) - below.nodes.keys()) | await _missing_below(below, state, saver)
            missing |= {f"{task.name}:{node}" for node in gone}
    return missing


def _wanted_nodes(head: CheckpointTuple) -> set[str]:
    """The nodes that the checkpoint, and the results of those of its tasks that are finished, lead to."""
    checkpoint = head.checkpoint
    values, seen = checkpoint["channel_values"], checkpoint["versions_seen"]
    sends = [*(values.get(_SENDS) or ())]
    wanted = set()
    for _, channel, value in head.pending_writes or ():
        if channel == _SENDS:
            sends.append(value)
        elif channel.startswith(_BRANCH_TO):
            wanted.add(channel.removeprefix(_BRANCH_TO))
    for channel, version in checkpoint["channel_versions"].items():
        node = channel.removeprefix(_BRANCH_TO)
        if channel.startswith(_BRANCH_TO) and channel in values and seen.get(node, {}).get(channel) != version:
            wanted.add(node)
    return wanted | {send.node for send in sends if hasattr(send, "node")}
