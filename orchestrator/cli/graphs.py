"""The graphs that a process runs: those that ship with it, and those of a langgraph.json."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from orchestrator.batches.flow import BATCH, build_batch
from orchestrator.engine.graph_file import GraphFile
from orchestrator.engine.graphs import Graph
from orchestrator.errors import GraphError
from orchestrator.settings import OrchestratorSettings
from orchestrator.workflows import SHIPPED

__all__ = ["NODE_THREADS", "all_graphs"]

_log = logging.getLogger(__name__)
# Nodes that are plain functions run in this many threads. They wait for models and services more than they compute,
# and asyncio's own bound (four more than there are cores) would let a few slow ones hold up all the others.
NODE_THREADS = 64


def all_graphs(settings: OrchestratorSettings, file: GraphFile | None) -> dict[str, Graph]:
    """The graphs of `file` over the shipped ones. Raises `GraphError` and the errors of the file."""
    theirs: Mapping[str, Any] = file.load() if file else {}
    ours: dict[str, Graph] = {}
    for name, build in {**SHIPPED, BATCH: build_batch}.items():
        if name in theirs:
            _log.info("[WorkflowOrchestrator] workflow %s is the one of %s", name, file and file.path)
            continue
        try:
            ours[name] = build(settings.holdfast_model, settings.readable_documents)
        except (ImportError, ValueError, RuntimeError) as exc:
            raise GraphError(f"workflow {name} can't use HOLDFAST_MODEL={settings.holdfast_model}: {exc}") from exc
    return ours | dict(theirs)
