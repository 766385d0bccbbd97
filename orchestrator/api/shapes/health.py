"""The server's health as answers show it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from orchestrator.api.shapes.base import Shape
from orchestrator.health.finding import State

__all__ = [
    "Checkpointer",
    "DeepHealthReport",
    "HealthCheck",
    "Live",
    "PostgresHealth",
    "Ready",
    "ServerHealth",
    "Shares",
]


class Live(Shape):
    """The process answers."""

    status: Literal["alive"]
    """Always this."""


class Ready(Shape):
    """Whether runs can be started here now."""

    status: Literal["ready", "not ready"]
    """`not ready` comes with 503."""
    reason: str | None = None
    """Why not: `closing`, or what is wrong with PostgreSQL; missing where it is ready."""


class PostgresHealth(Shape):
    """The connection to PostgreSQL."""

    connected: bool
    """Whether it answered just now; false with the memory saver."""
    connection_string: str | None = None
    """Where it is, without the password; missing with the memory saver."""
    schema_: Annotated[str | None, Field(alias="schema")] = None
    """The schema that holds the tables; missing with the memory saver."""
    server_version: str | None = None
    """The server's version; null before it answered once, missing with the memory saver."""
    configured: bool | None = None
    """With the memory saver: whether the settings name a PostgreSQL all the same."""
    error: str | None = None
    """Why it does not answer; missing where it does."""


class Shares(Shape):
    """How threads are shared out between PostgreSQL and memory."""

    percent: int
    """How many of 100 new threads go to PostgreSQL."""
    memory_threads: int | None
    """How many threads are in this process's memory; null where another process has them."""
    memory_snapshot: bool
    """Whether those in memory are written to a file at a clean stop (`MEMORY_SNAPSHOT`)."""


class Checkpointer(Shape):
    """Which saver is in use, and whether it can save."""

    status: Literal["healthy", "unhealthy"]
    """`unhealthy` comes with 503."""
    checkpointer: str
    """`PostgresSaver` or `MemorySaver`."""
    durable: bool
    """Whether every thread outlives this process."""
    postgres: PostgresHealth
    """Where the saver is connected to, if anywhere."""
    rollout: Shares | None = None
    """How threads are shared out; missing where no rollout is under way."""
    error: str | None = None
    """Why checkpoints can't be saved; missing where they can."""


class ServerHealth(Shape):
    """The server and its saver in short."""

    status: Literal["healthy", "unhealthy"]
    """`unhealthy` comes with 503."""
    version: str
    """Holdfast's version."""
    checkpointer: str
    """`PostgresSaver` or `MemorySaver`."""
    durable: bool
    """Whether every thread outlives this process."""
    workflows: list[str]
    """The names that a run can be started by."""


class HealthCheck(Shape):
    """One check."""

    name: str
    """Which check it is."""
    state: State
    """`unknown`: what it looks at can't be reached; the check that says why fails."""
    message: str
    """What it found, for people."""
    figure: float | str | None
    """What it measured; null where there is nothing to measure."""
    unit: str | None
    """Of the figure and the limit: `s`, `bytes`; null where they have none."""
    limit: float | None
    """What the figure should not pass; null where it has no limit."""
    remedy: str | None
    """What to do; null where the state is `ok` or `unknown`."""


class DeepHealthReport(Shape):
    """All checks, and what they say together."""

    status: Literal["healthy", "degraded", "unhealthy"]
    """`degraded`: a check warns or is unknown; `unhealthy`: one fails, and the answer is a 503."""
    checkpointer: str
    """`PostgresSaver` or `MemorySaver`."""
    seconds: float
    """How long looking took."""
    checks: list[HealthCheck]
    """One entry for each check."""
