"""What the API answers, as schemas for its OpenAPI document; a test holds them against `views.py`.

A client should pass over keys that it does not know: a later version may have more.
"""

from __future__ import annotations

from orchestrator.api.shapes.base import ErrorAnswer, Shape
from orchestrator.api.shapes.batches import (
    BatchDocuments,
    BatchState,
    DocumentEntry,
    EntityState,
    MergeEntry,
    Merges,
)
from orchestrator.api.shapes.health import Checkpointer, DeepHealthReport, HealthCheck, Live, Ready, ServerHealth
from orchestrator.api.shapes.runs import (
    AcceptedRun,
    Activities,
    ActivityEntry,
    CheckpointEntry,
    Checkpoints,
    Done,
    FoundRun,
    Hooked,
    RunDetail,
    Runs,
    RunState,
    SentSignal,
)

__all__ = [
    "SHAPES",
    "AcceptedRun",
    "Activities",
    "ActivityEntry",
    "BatchDocuments",
    "BatchState",
    "CheckpointEntry",
    "Checkpointer",
    "Checkpoints",
    "DeepHealthReport",
    "DocumentEntry",
    "Done",
    "EntityState",
    "ErrorAnswer",
    "FoundRun",
    "HealthCheck",
    "Hooked",
    "Live",
    "MergeEntry",
    "Merges",
    "Ready",
    "RunDetail",
    "RunState",
    "Runs",
    "SentSignal",
    "ServerHealth",
    "Shape",
]

# All that an answer is made of by itself; what they hold is found through them.
SHAPES: tuple[type[Shape], ...] = (
    AcceptedRun,
    Activities,
    BatchDocuments,
    BatchState,
    Checkpointer,
    Checkpoints,
    DeepHealthReport,
    Done,
    EntityState,
    ErrorAnswer,
    FoundRun,
    Hooked,
    Live,
    MergeEntry,
    Merges,
    Ready,
    RunDetail,
    RunState,
    Runs,
    ServerHealth,
)
