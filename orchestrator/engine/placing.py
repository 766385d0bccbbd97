"""Where a run's checkpoints are while POSTGRES_SAVER_ROLLOUT_PERCENT keeps some threads in memory.

The run's row is in PostgreSQL either way; its column `saver` says where the checkpoints of its thread are. Memory ends
with its process, so an attempt begins with a look:

    the thread is in memory here, with all that the rows know of  → goes on there
    it is in PostgreSQL                                           → goes on there
    it is nowhere, and no run of it was begun in memory           → begins where the percentage says
    anything else                                                 → ThreadLostError: the run fails

Other processes can't see what is in memory here. So beside one that keeps threads in memory there is no other; each
looks for the others when it opens, after it has made itself known: of two that open at once, one sees the other.
"""

from __future__ import annotations

from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver

from checkpointer.memory import head_of
from checkpointer.postgres.saver import PooledPostgresSaver
from checkpointer.rollout import RolloutSaver
from checkpointer.whereabouts import Engine, places_of
from orchestrator.errors import RivalError, ThreadLostError
from orchestrator.runs.model import Run
from orchestrator.runs.postgres import PostgresRunStore
from orchestrator.runs.store import RunStore

__all__ = ["KEEPS_MEMORY", "MEMORY", "place", "refuse_rivals"]

MEMORY, _POSTGRES = "MemorySaver", "PostgresSaver"
# What a process adds to its kind among the runners where it keeps threads in memory.
KEEPS_MEMORY = " + memory"


async def place(run: Run, saver: BaseCheckpointSaver[Any], store: RunStore) -> str:
    """Find out where a claimed run's thread is, note it in the row, and return it as the row says it.

    Raises `ThreadLostError`, and the saver's and the store's errors.
    """
    if not isinstance(store, PostgresRunStore) or (run.saver == _POSTGRES and not isinstance(saver, RolloutSaver)):
        return run.saver
    engine = await _find(saver, run.checkpoint_thread_id)
    if run.saver == MEMORY and engine != "postgres":
        await _check_whole(run, saver, store, engine)
    if engine is None and isinstance(saver, RolloutSaver):
        engine = await saver.engine_of(run.checkpoint_thread_id)
    name = MEMORY if engine == "memory" else _POSTGRES
    if name != run.saver:
        await store.sender.ask("note_saver", run_id=run.run_id, epoch=run.epoch, saver=name)
    return name


async def _find(saver: BaseCheckpointSaver[Any], thread_id: str) -> Engine | None:
    if isinstance(saver, RolloutSaver):
        return await saver.find(thread_id)
    if isinstance(saver, PooledPostgresSaver):
        return "postgres" if await places_of(saver, {thread_id: None}) else None
    return None


async def _check_whole(
    run: Run, saver: BaseCheckpointSaver[Any], store: PostgresRunStore, engine: Engine | None
) -> None:
    """Raise `ThreadLostError` where the rows tell of checkpoints in memory that are not in this one."""
    [known] = await store.sender.ask(
        "memory_of_thread", run_id=run.run_id, organization_id=run.organization_id, thread_id=run.thread_id
    )
    if engine is None:
        lost = bool(known["has_begun"])
    else:
        head = head_of(saver.memory, run.checkpoint_thread_id) if isinstance(saver, RolloutSaver) else None
        lost = (known["head"] or "") > (head or "")
    if lost:
        raise ThreadLostError(run.thread_id)


async def refuse_rivals(store: PostgresRunStore, owner: int, *, keeps_memory: bool) -> None:
    """Raise `RivalError` where this process, or another that is alive, keeps threads in memory."""
    rivals = await store.sender.ask("rivals", owner=owner)
    for rival in rivals:
        if keeps_memory or rival["kind"].endswith(KEEPS_MEMORY):
            raise RivalError(rival["kind"], rival["hostname"], rival["pid"], keeps_memory=keeps_memory)
