"""The workflows that ship with Holdfast.

Each builder takes the name of a chat model, or nothing to run offline, and returns a graph that is not
compiled yet: the caller gives it a checkpointer.
"""

from pathlib import Path
from typing import Any, Protocol

from langgraph.graph import StateGraph

from orchestrator.workflows.agent import build_agent
from orchestrator.workflows.extraction import (
    ExtractionPipeline,
    ModelSupportError,
    WorkflowInputError,
    build_extraction,
)

__all__ = [
    "SHIPPED",
    "ExtractionPipeline",
    "ModelSupportError",
    "WorkflowBuilder",
    "WorkflowInputError",
    "build_agent",
    "build_extraction",
]


class WorkflowBuilder(Protocol):
    """Makes a workflow; callable without arguments. `documents` confines the files that a payload may name."""

    def __call__(self, model: str | None = None, documents: Path | None = None) -> StateGraph[Any, Any, Any, Any]: ...


SHIPPED: dict[str, WorkflowBuilder] = {"agent": build_agent, "extraction": build_extraction}
