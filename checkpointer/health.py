"""The answer of `GET /api/health/checkpointer`, from the saver that is really in use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from langgraph.checkpoint.base import BaseCheckpointSaver

from checkpointer.postgres.retry import summary
from checkpointer.rollout import RolloutSaver, postgres_of
from checkpointer.settings import CheckpointerSettings

__all__ = ["HealthReport", "Rollout", "check_health"]


@dataclass(frozen=True, slots=True)
class Rollout:
    """How threads are shared out between PostgreSQL and memory.

    `percent` of new threads go to PostgreSQL. `memory_threads` are in this process's memory, None where it is another
    process that has them; in a clean stop they survive with `memory_snapshot`.
    """

    percent: int
    memory_threads: int | None
    memory_snapshot: bool

    @property
    def is_over(self) -> bool:
        """Whether every thread is in PostgreSQL, and every new one will be."""
        return self.percent == 100 and self.memory_threads == 0

    def as_json(self) -> dict[str, Any]:
        """In the shape of the HTTP answer."""
        return {
            "percent": self.percent,
            "memoryThreads": self.memory_threads,
            "memorySnapshot": self.memory_snapshot,
        }


@dataclass(frozen=True, slots=True)
class HealthReport:
    """Whether checkpoints can be saved now. `error` never holds a secret.

    With a `rollout` that is not over, `durable` is false: of some threads the checkpoints are, or will be, in memory.
    """

    status: Literal["healthy", "unhealthy"]
    checkpointer: str
    durable: bool
    connected: bool
    configured: bool
    connection_string: str | None = None
    schema: str | None = None
    server_version: str | None = None
    error: str | None = None
    rollout: Rollout | None = None

    def as_json(self) -> dict[str, Any]:
        """The report in the shape of the HTTP answer."""
        postgres: dict[str, Any] = {"connected": self.connected}
        if self.connection_string is not None:
            postgres |= {
                "connectionString": self.connection_string,
                "schema": self.schema,
                "serverVersion": self.server_version,
            }
        else:
            postgres["configured"] = self.configured
        if self.error is not None:
            postgres["error"] = self.error
        answer: dict[str, Any] = {"status": self.status, "checkpointer": self.checkpointer}
        answer |= {"durable": self.durable, "postgres": postgres}
        if self.rollout is not None:
            answer["rollout"] = self.rollout.as_json()
        if self.error is not None:
            answer["error"] = self.error
        return answer


async def check_health(
    saver: BaseCheckpointSaver[Any],
    settings: CheckpointerSettings | None = None,
    *,
    timeout_s: float = 1.5,
) -> HealthReport:
    """Probe the saver; answers within about `timeout_s` seconds whatever the server does."""
    postgres = postgres_of(saver)
    if postgres is None:
        configured = settings is not None and settings.has_connection
        return HealthReport("healthy", "MemorySaver", durable=False, connected=False, configured=configured)
    error = None
    try:
        await postgres.probe.ask(timeout_s=timeout_s)
    except TimeoutError:
        error = f"no answer from PostgreSQL within {timeout_s:g} s"
    except (psycopg.Error, OSError) as exc:
        error = summary(exc)
    rollout = _rollout(saver, settings)
    return HealthReport(
        "unhealthy" if error else "healthy",
        "PostgresSaver",
        durable=rollout is None or rollout.is_over,
        connected=error is None,
        configured=True,
        connection_string=postgres.shown,
        schema=postgres.schema,
        server_version=postgres.server_version,
        error=error,
        rollout=rollout,
    )


def _rollout(saver: BaseCheckpointSaver[Any], settings: CheckpointerSettings | None) -> Rollout | None:
    is_snapshotted = settings is not None and settings.memory_snapshot is not None
    if isinstance(saver, RolloutSaver):
        return Rollout(saver.percent, saver.memory_threads, is_snapshotted)
    if settings is not None and settings.postgres_saver_rollout_percent < 100:
        return Rollout(settings.postgres_saver_rollout_percent, None, is_snapshotted)
    return None
