"""The checks of the saver and its database. Each has its figure and its limit, and says what to do where it is not ok.

They raise `DatabaseUnavailableError` where PostgreSQL does not answer: whoever runs them makes that a finding.
"""

from __future__ import annotations

from time import perf_counter, time
from typing import Any
from uuid import uuid4

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointMetadata, empty_checkpoint

from checkpointer.errors import CheckpointerError
from checkpointer.health import check_health
from checkpointer.migrations import MIGRATIONS
from checkpointer.postgres.schema import missing
from checkpointer.rollout import postgres_of
from orchestrator.health.finding import Finding, within
from orchestrator.health.subject import Subject
from orchestrator.migrations import ALL_MIGRATIONS

__all__ = ["check_clock", "check_connections", "check_engine", "check_pool", "check_round_trip", "check_schema"]

_ROUND_TRIP_S = 1.0
_CLOCK_S = 5.0
_SHARE_OF_CONNECTIONS = 0.8


async def check_engine(subject: Subject) -> Finding:
    """Which saver is in use, and whether its server answers."""
    report = await check_health(subject.saver, subject.settings)
    if report.connection_string is None:
        message = "checkpoints are kept in memory: runs do not survive a restart"
        remedy = "set USE_POSTGRES_SAVER=true and restart"
        return Finding("engine", "warn", message, report.checkpointer, remedy=remedy)
    if not report.connected:
        message = f"{report.connection_string} does not answer: {report.error}"
        remedy = "start PostgreSQL, or correct POSTGRES_CONNECTION_STRING; `holdfast health` says more"
        return Finding("engine", "fail", message, report.checkpointer, remedy=remedy)
    message = f"PostgreSQL {report.server_version} at {report.connection_string}, schema {report.schema}"
    if report.rollout is not None:
        message += f"; {report.rollout.percent} % of new threads go there, the others are kept in memory"
        remedy = "when you trust it, set POSTGRES_SAVER_ROLLOUT_PERCENT=100 and restart"
        return Finding("engine", "warn", message, report.checkpointer, remedy=remedy)
    return Finding("engine", "ok", message, report.checkpointer)


async def check_round_trip(subject: Subject) -> Finding:
    """Write a checkpoint on a thread of its own, read it back, and delete it."""
    started = perf_counter()
    try:
        # Of a rollout's two halves the one that has a server.
        fault = await _round_trip(postgres_of(subject.saver) or subject.saver, subject.probe_thread)
    except CheckpointerError as exc:
        fault = str(exc)
    seconds = perf_counter() - started
    remedy = "look for errors of [Checkpointer] and [POSTGRES] in the log; `holdfast doctor` tries it from here"
    if fault is not None:
        return Finding("checkpoint", "fail", fault, seconds, "s", _ROUND_TRIP_S, remedy)
    return within(
        "checkpoint",
        seconds,
        "s",
        warn=_ROUND_TRIP_S,
        message="a checkpoint was written, read back and deleted",
        remedy="see slow saves in docs/runbook.md: is the server's disk or the network slow?",
    )


async def _round_trip(saver: BaseCheckpointSaver[Any], thread_id: str) -> str | None:
    """What went wrong; None where what was read is what was written, and nothing of it is left."""
    thread: RunnableConfig = {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}
    version = saver.get_next_version(None, None)
    nonce = uuid4().hex
    checkpoint = empty_checkpoint() | {"channel_values": {"probe": [nonce]}, "channel_versions": {"probe": version}}
    metadata: CheckpointMetadata = {"source": "input", "step": -1, "parents": {}}
    try:
        await saver.aput(thread, checkpoint, metadata, {"probe": version})
        found = await saver.aget_tuple(thread)
        if found is None or found.checkpoint["channel_values"].get("probe") != [nonce]:
            return "the checkpoint that was read is not the one that was written"
    finally:
        await saver.adelete_thread(thread_id)
    return "the checkpoint is still there after it was deleted" if await saver.aget_tuple(thread) else None


async def check_schema(subject: Subject) -> Finding:
    """Whether every migration that this code needs is applied. Needs no right to create anything."""
    if subject.database is None:
        return Finding("schema", "ok", "runs and checkpoints are in memory")
    name = subject.database.schema
    sets = (MIGRATIONS, *ALL_MIGRATIONS)
    lacking = await subject.database.transaction("looking at the migrations", lambda conn: missing(conn, name, sets))
    remedy = "run `holdfast setup` as a role that may create tables, or give `holdfast setup --sql` to a DBA"
    if lacking:
        what = ", ".join(lacking.names()) if not lacking.schema else "everything"
        return Finding("schema", "fail", f"schema {name} lacks {what}", len(lacking.names()), "missing", 0, remedy)
    return Finding("schema", "ok", f"schema {name} has all migrations", 0, "missing", 0)


async def check_pool(subject: Subject) -> Finding:
    """How much of the pool is in use, and who waits for it."""
    if subject.database is None:
        return Finding("pool", "ok", "there is no pool: runs and checkpoints are in memory")
    stats = subject.database.pool.get_stats()
    most, waiting = stats.get("pool_max", 0), stats.get("requests_waiting", 0)
    in_use = stats.get("pool_size", 0) - stats.get("pool_available", 0)
    return Finding(
        "pool",
        "warn" if waiting else "ok",
        f"{in_use} of {most} connections in use, {waiting} statements wait for one",
        in_use,
        "connections",
        most,
        "raise POSTGRES_POOL_MAX_SIZE, as far as max_connections of the server allows, and restart",
    )


async def check_connections(subject: Subject) -> Finding:
    """How many connections the server has left, for everyone."""
    if subject.database is None:
        return Finding("connections", "ok", "there is no server: runs and checkpoints are in memory")
    [row] = await subject.database.ask("server_load", for_s=2.0)
    return within(
        "connections",
        row["used"],
        "connections",
        warn=int(row["most"] * _SHARE_OF_CONNECTIONS),
        fail=row["most"] - 1,
        message=f"{row['used']} of the server's {row['most']} connections are in use",
        remedy="lower POSTGRES_POOL_MAX_SIZE, put a pooler in front (POSTGRES_POOLER), or raise max_connections",
    )


async def check_clock(subject: Subject) -> Finding:
    """How far this machine's clock is from the server's. Leases go by the server's alone."""
    if subject.database is None:
        return Finding("clock", "ok", "there is no other clock: runs and checkpoints are in memory")
    before = time()
    [row] = await subject.database.ask("server_load", for_s=2.0)
    # It was read at some time in between.
    difference = max(before - row["clock"], row["clock"] - time(), 0.0)
    return within(
        "clock",
        difference,
        "s",
        warn=_CLOCK_S,
        message=f"this clock and the server's differ by {difference:.1f} s",
        remedy="set both clocks by NTP: times in logs and `start_at` go by this one, leases by the server's",
    )
