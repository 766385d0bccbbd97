"""Entities and relations of one document, in five stages: chunk → mentions → entities → relations → assemble.

`ExtractionPipeline` runs the stages in a row; `build_extraction` makes a durable workflow of the same five.
"""

from orchestrator.workflows.extraction.errors import (
    BinaryDocumentError,
    DocumentError,
    DocumentSourceError,
    EmptyDocumentError,
    ModelSupportError,
    ThrottleError,
    UnreadableDocumentError,
    WorkflowInputError,
)
from orchestrator.workflows.extraction.graph import (
    STAGES,
    ExtractionInput,
    ExtractionOutput,
    ExtractionState,
    build_extraction,
)
from orchestrator.workflows.extraction.pipeline import ExtractionPipeline
from orchestrator.workflows.extraction.records import Entity, Extraction, Relation, StageRun

__all__ = [
    "STAGES",
    "BinaryDocumentError",
    "DocumentError",
    "DocumentSourceError",
    "EmptyDocumentError",
    "Entity",
    "Extraction",
    "ExtractionInput",
    "ExtractionOutput",
    "ExtractionPipeline",
    "ExtractionState",
    "ModelSupportError",
    "Relation",
    "StageRun",
    "ThrottleError",
    "UnreadableDocumentError",
    "WorkflowInputError",
    "build_extraction",
]
