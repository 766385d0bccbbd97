"""Durable runs of LangGraph graphs: start them, watch them, and have them survive the process.

async with open_orchestrator({"agent": builder}) as orchestrator:
    run = await orchestrator.start_and_wait("agent", {"task": "…"})
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.engine.attempt import create_hook, create_hook_sync, idempotency_key
    from orchestrator.engine.graphs import Graph, Upgrade, Workflow
    from orchestrator.engine.history import CheckpointSummary
    from orchestrator.engine.schedules import Schedule
    from orchestrator.engine.service import Orchestrator
    from orchestrator.engine.steps import step
    from orchestrator.errors import (
        CheckpointNotFoundError,
        ClosingError,
        DatabaseUnavailableError,
        GraphError,
        GraphFileError,
        HookNotFoundError,
        IdempotencyConflictError,
        IllegalTransitionError,
        InvalidPayloadError,
        InvalidRequestError,
        NoAttemptError,
        OrchestratorError,
        QueueError,
        RunNotFoundError,
        StepFailedError,
        ThreadBusyError,
        ThreadNotFoundError,
        UnknownWorkflowError,
    )
    from orchestrator.opening import Role, open_orchestrator
    from orchestrator.queues.driver import MessageData, QueueDriver
    from orchestrator.runs.activity import Activity, ActivityStatus
    from orchestrator.runs.model import Run, RunStatus
    from orchestrator.runs.signals import Hook, Signal
    from orchestrator.serverless import handle_queue_message
    from orchestrator.settings import OrchestratorSettings

__all__ = [
    "Activity",
    "ActivityStatus",
    "CheckpointNotFoundError",
    "CheckpointSummary",
    "ClosingError",
    "DatabaseUnavailableError",
    "Graph",
    "GraphError",
    "GraphFileError",
    "Hook",
    "HookNotFoundError",
    "IdempotencyConflictError",
    "IllegalTransitionError",
    "InvalidPayloadError",
    "InvalidRequestError",
    "MessageData",
    "NoAttemptError",
    "Orchestrator",
    "OrchestratorError",
    "OrchestratorSettings",
    "QueueDriver",
    "QueueError",
    "Role",
    "Run",
    "RunNotFoundError",
    "RunStatus",
    "Schedule",
    "Signal",
    "StepFailedError",
    "ThreadBusyError",
    "ThreadNotFoundError",
    "UnknownWorkflowError",
    "Upgrade",
    "Workflow",
    "create_hook",
    "create_hook_sync",
    "handle_queue_message",
    "idempotency_key",
    "open_orchestrator",
    "step",
]

# A name is imported when it is first asked for: `holdfast --help` needs none of LangGraph.
_NAMES_OF = {
    "engine.attempt": (
        "create_hook",
        "create_hook_sync",
        "idempotency_key",
    ),
    "engine.graphs": (
        "Graph",
        "Upgrade",
        "Workflow",
    ),
    "engine.history": ("CheckpointSummary",),
    "engine.schedules": ("Schedule",),
    "engine.service": ("Orchestrator",),
    "engine.steps": ("step",),
    "errors": (
        "CheckpointNotFoundError",
        "ClosingError",
        "DatabaseUnavailableError",
        "GraphError",
        "GraphFileError",
        "HookNotFoundError",
        "IdempotencyConflictError",
        "IllegalTransitionError",
        "InvalidPayloadError",
        "InvalidRequestError",
        "NoAttemptError",
        "OrchestratorError",
        "QueueError",
        "RunNotFoundError",
        "StepFailedError",
        "ThreadBusyError",
        "ThreadNotFoundError",
        "UnknownWorkflowError",
    ),
    "opening": (
        "Role",
        "open_orchestrator",
    ),
    "queues.driver": (
        "MessageData",
        "QueueDriver",
    ),
    "runs.activity": (
        "Activity",
        "ActivityStatus",
    ),
    "runs.model": (
        "Run",
        "RunStatus",
    ),
    "runs.signals": (
        "Hook",
        "Signal",
    ),
    "serverless": ("handle_queue_message",),
    "settings": ("OrchestratorSettings",),
}
_MODULE_OF = {name: module for module, names in _NAMES_OF.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
