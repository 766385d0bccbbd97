"""The extraction as a LangGraph workflow: one node per stage, so that a run resumes after the last finished stage.

State, as it is checkpointed:

    text, path, title, throttleSeconds   the input; read by `chunk` and gone after it, so that the next
                                         document of a thread is never mixed with this one
    document, throttle_s, run_id         what `chunk` read: from here on a change of the file changes nothing
    chunks, mentions, groups, links      what the stages found
    title, entities, relations, counts   the result
    trace                                one entry per execution of a stage

With `whole` the five are one node, for documents that are read by the thousand: where a run of one is cut off, it reads
its document anew, which takes milliseconds. What takes long is never one node: a document that a model reads, or that
has a throttle.
"""

from __future__ import annotations

import asyncio
import os
from asyncio import sleep as pause
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.channels import EphemeralValue
from langgraph.graph import END, START, StateGraph
from langgraph.types import Overwrite
from typing_extensions import TypedDict

from orchestrator.workflows.extraction.document import Document, load_document, throttle_seconds
from orchestrator.workflows.extraction.pipeline import ExtractionPipeline
from orchestrator.workflows.extraction.records import (
    Chunk,
    Counts,
    Entity,
    EntityGroup,
    Mention,
    Relation,
    StageRun,
)

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

__all__ = [
    "STAGES",
    "ExtractionInput",
    "ExtractionOutput",
    "ExtractionState",
    "append_runs",
    "build_extraction",
]

STAGES = ("chunk", "mentions", "entities", "relations", "assemble")
_WHOLE = "whole"

# From this length on a stage takes long enough to be worth a thread of its own.
_LONG_TEXT = 20_000

ResultT = TypeVar("ResultT")


def append_runs(earlier: list[StageRun], later: list[StageRun]) -> list[StageRun]:
    """Add executions of stages to those before them."""
    return [*earlier, *later]


class ExtractionInput(TypedDict, total=False):
    """Exactly one of `text` and `path`; `throttleSeconds` is a pause at the end of every stage, 0 to 60.

    `whole` asks for all stages in one node.
    """

    text: Annotated[str, EphemeralValue(str)]
    path: Annotated[str, EphemeralValue(str)]
    title: Annotated[str, EphemeralValue(str)]
    throttleSeconds: Annotated[float, EphemeralValue(float)]
    whole: Annotated[bool, EphemeralValue(bool)]


class ExtractionOutput(TypedDict, total=False):
    """What a finished run gives."""

    title: Annotated[str, EphemeralValue(str)]
    entities: list[Entity]
    relations: list[Relation]
    counts: Counts
    trace: Annotated[list[StageRun], append_runs]


class ExtractionState(ExtractionInput, total=False):
    """Everything that is checkpointed."""

    document: Document
    throttle_s: float
    run_id: str
    chunks: list[Chunk]
    mentions: list[Mention]
    groups: list[EntityGroup]
    links: list[Relation]
    entities: list[Entity]
    relations: list[Relation]
    counts: Counts
    trace: Annotated[list[StageRun], append_runs]


Update = dict[str, Any]


class _StageNode(Protocol):
    def __call__(self, state: ExtractionState, config: RunnableConfig) -> Awaitable[Update]: ...


def build_extraction(
    model: str | BaseChatModel | None = None, documents: Path | None = None
) -> StateGraph[ExtractionState, None, ExtractionInput, ExtractionOutput]:
    """Return the workflow, not compiled.

    `model` is as in ExtractionPipeline; where `documents` is given, a `path` is read only from below it.
    """
    stages = _Stages(ExtractionPipeline(model), documents, asks_a_model=model is not None)
    builder = StateGraph(ExtractionState, input_schema=ExtractionInput, output_schema=ExtractionOutput)
    for stage in (*STAGES, _WHOLE):
        builder.add_node(stage, _traced(stage, getattr(stages, stage)))
    builder.add_conditional_edges(START, stages.first, [STAGES[0], _WHOLE])
    for stage, following in pairwise((*STAGES, END)):
        builder.add_edge(stage, following)
    builder.add_edge(_WHOLE, END)
    return builder


class _Stages:
    """The pipeline's stages, reading the state and returning what to change in it."""

    def __init__(self, pipeline: ExtractionPipeline, documents: Path | None, *, asks_a_model: bool) -> None:
        self._pipeline = pipeline
        self._documents = documents
        self._asks_a_model = asks_a_model

    def first(self, state: ExtractionState) -> str:
        """The node to begin with."""
        is_quick = not self._asks_a_model and not state.get("throttleSeconds")
        return _WHOLE if is_quick and state.get("whole") is True else STAGES[0]

    async def whole(self, state: ExtractionState) -> Update:
        document = await asyncio.to_thread(load_document, state, self._documents)
        result = await self._run(document, lambda: self._pipeline.run(document["text"], document["title"]))
        return {**result}

    async def chunk(self, state: ExtractionState) -> Update:
        throttle_s = throttle_seconds(state.get("throttleSeconds"))
        document = await asyncio.to_thread(load_document, state, self._documents)
        chunks = await self._run(document, lambda: self._pipeline.chunk(document["text"]))
        return {"document": document, "throttle_s": throttle_s, "chunks": chunks}

    async def mentions(self, state: ExtractionState) -> Update:
        document, chunks = state["document"], state["chunks"]
        mentions = await self._run(document, lambda: self._pipeline.mentions(document["text"], chunks))
        return {"mentions": mentions}

    async def entities(self, state: ExtractionState) -> Update:
        mentions = state["mentions"]
        groups = await self._run(state["document"], lambda: self._pipeline.entities(mentions))
        return {"groups": groups}

    async def relations(self, state: ExtractionState) -> Update:
        text, chunks = state["document"]["text"], state["chunks"]
        mentions, groups = state["mentions"], state["groups"]
        links = await self._run(state["document"], lambda: self._pipeline.relations(text, chunks, mentions, groups))
        return {"links": links}

    async def assemble(self, state: ExtractionState) -> Update:
        result = self._pipeline.assemble(
            state["document"]["title"],
            state["document"]["text"],
            state["chunks"],
            state["mentions"],
            state["groups"],
            state["links"],
        )
        return {**result}

    async def _run(self, document: Document, work: Callable[[], ResultT]) -> ResultT:
        """Do the work of a stage without holding up the event loop, where it takes long enough to matter."""
        if self._asks_a_model or len(document["text"]) > _LONG_TEXT:
            return await asyncio.to_thread(work)
        return work()


def _traced(stage: str, run: Callable[[ExtractionState], Awaitable[Update]]) -> _StageNode:
    """Turn a stage into a node that pauses as asked for and leaves its entry in the trace."""

    async def node(state: ExtractionState, config: RunnableConfig) -> Update:
        started_at = _now()
        update = await run(state)
        await pause(update.get("throttle_s", state.get("throttle_s", 0.0)))
        entry = StageRun(stage=stage, pid=os.getpid(), startedAt=started_at, finishedAt=_now())
        if stage not in (STAGES[0], _WHOLE):
            return {**update, "trace": [entry]}
        run_id = str(config.get("metadata", {}).get("run_id", ""))
        # A thread's next document begins a new trace. Only another run id, or none at all, says that it is the
        # next: a first stage that was executed twice by one run must show.
        same_run = run_id != "" and run_id == state.get("run_id")
        return {**update, "run_id": run_id, "trace": [entry] if same_run else Overwrite([entry])}

    return node


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
