"""Durable runs of LangGraph graphs: start them, watch them, and have them survive the process.

async with open_orchestrator({"agent": builder}) as orchestrator:
    run = await orchestrator.start_and_wait("agent", {"task": "…"})
"""

from orchestrator.engine.graphs import Graph
from orchestrator.engine.service import Orchestrator, open_orchestrator
from orchestrator.errors import (
    ClosingError,
    DatabaseUnavailableError,
    GraphError,
    GraphFileError,
    IdempotencyConflictError,
    IllegalTransitionError,
    InvalidPayloadError,
    InvalidRequestError,
    OrchestratorError,
    RunNotFoundError,
    ThreadBusyError,
    ThreadNotFoundError,
    UnknownWorkflowError,
)
from orchestrator.runs.model import Run, RunStatus
from orchestrator.settings import OrchestratorSettings

__all__ = [
    "ClosingError",
    "DatabaseUnavailableError",
    "Graph",
    "GraphError",
    "GraphFileError",
    "IdempotencyConflictError",
    "IllegalTransitionError",
    "InvalidPayloadError",
    "InvalidRequestError",
    "Orchestrator",
    "OrchestratorError",
    "OrchestratorSettings",
    "Run",
    "RunNotFoundError",
    "RunStatus",
    "ThreadBusyError",
    "ThreadNotFoundError",
    "UnknownWorkflowError",
    "open_orchestrator",
]
