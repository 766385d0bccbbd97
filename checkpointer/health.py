"""The answer of `GET /api/health/checkpointer`, from the saver that is really in use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from langgraph.checkpoint.base import BaseCheckpointSaver

from checkpointer.postgres.retry import summary
from checkpointer.postgres.saver import PooledPostgresSaver
from checkpointer.settings import CheckpointerSettings

__all__ = ["HealthReport", "check_health"]


@dataclass(frozen=True, slots=True)
class HealthReport:
    """Whether checkpoints can be saved now. `error` never holds a secret."""

    status: Literal["healthy", "unhealthy"]
    checkpointer: str
    durable: bool
    connected: bool
    configured: bool
    connection_string: str | None = None
    schema: str | None = None
    server_version: str | None = None
    error: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The report in the shape of the HTTP answer."""
        postgres: dict[str, Any] = {"connected": self.connected}
        if self.durable:
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
    if not isinstance(saver, PooledPostgresSaver):
        configured = settings is not None and settings.has_connection
        return HealthReport("healthy", "MemorySaver", durable=False, connected=False, configured=configured)
    error = None
    try:
        await saver.probe.ask(timeout_s=timeout_s)
    except TimeoutError:
        error = f"no answer from PostgreSQL within {timeout_s:g} s"
    except (psycopg.Error, OSError) as exc:
        error = summary(exc)
    return HealthReport(
        "unhealthy" if error else "healthy",
        "PostgresSaver",
        durable=True,
        connected=error is None,
        configured=True,
        connection_string=saver.shown,
        schema=saver.schema,
        server_version=saver.server_version,
        error=error,
    )
