"""What is examined: a saver and, where there is one, its database; in a server, or from outside by the settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from langgraph.checkpoint.base import BaseCheckpointSaver

from orchestrator.health.snapshot import Snapshot
from orchestrator.runs.sender import Sender
from orchestrator.settings import OrchestratorSettings

__all__ = ["Subject"]


@dataclass(frozen=True, slots=True)
class Subject:
    """`first` is what the gauges said first in this process and `latest` what they say now; both None while PostgreSQL
    does not answer. Outside a server (`serves` is false) nothing was measured over time."""

    saver: BaseCheckpointSaver[Any]
    settings: OrchestratorSettings
    database: Sender | None
    latest: Snapshot | None
    first: Snapshot | None = None
    serves: bool = False
    # No organization has an empty name, so that no run's thread is called so (`Run.checkpoint_thread_id`). The same for
    # the life of a process: what a check that was cut off leaves behind is removed by the next.
    probe_thread: str = field(default_factory=lambda: f"@/health/{uuid4()}")
