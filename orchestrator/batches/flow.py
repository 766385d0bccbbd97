"""The batch as a LangGraph workflow: one node per state, so that a batch goes on in the state it was in.

Its state holds counts only. Documents are rows (`rows/`), each moved on when its work is done, so a state that is
begun again after a crash goes on with the document it was at; texts and results are those of the runs that `extract`
starts, one for each document. While these are under way the batch waits, and holds no worker.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeAlias

import psycopg
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt
from typing_extensions import TypedDict

from orchestrator.batches.corpus import Corpus, failure
from orchestrator.batches.desk import Desk
from orchestrator.batches.model import BatchState, DocumentRow, DocumentState
from orchestrator.batches.rows.store import BatchRow
from orchestrator.batches.validation import as_extraction, check_extraction
from orchestrator.errors import InvalidRequestError, NoAttemptError
from orchestrator.runs.model import CHILDREN_SIGNAL, Json, Run
from orchestrator.workflows.extraction.errors import DocumentError
from orchestrator.workflows.extraction.records import Extraction

__all__ = ["BATCH", "BatchOutput", "build_batch"]

BATCH = "batch"
EXTRACTION = "extraction"

_READ_AT_ONCE = 4
# Runs that are started together share a statement; their texts are held as long.
_STARTED_AT_ONCE = 8
# Each holds a connection of the pool.
_DONE_AT_ONCE = 4
# What a document can be at fault for; anything else is the batch's trouble, and has it tried again.
_FAULTS = (ValueError, KeyError, TypeError, InvalidRequestError, psycopg.DataError)

Counts: TypeAlias = dict[str, int]
Work: TypeAlias = Callable[[Desk, DocumentRow, Extraction, str], Awaitable[None]]


class BatchOutput(TypedDict, total=False):
    """The counts of each state that was gone through, and of what the documents brought."""

    preprocessing: Counts
    extracting: Counts
    resolving: Counts
    validating: Counts
    ingesting: Counts
    knowledge: Counts


class _Node(Protocol):
    def __call__(self, state: BatchOutput) -> Awaitable[BatchOutput]: ...


def build_batch(
    model: str | None = None, documents: Path | None = None
) -> StateGraph[BatchOutput, None, BatchOutput, BatchOutput]:
    """The workflow, not compiled; files are read only from below `documents`, where that is given.

    `model` is the extraction's, whose runs are started by its name.
    """
    builder = StateGraph(BatchOutput)
    nodes: dict[str, _Node] = {
        "preprocess": _Preprocess(documents),
        "extract": _Extract(documents),
        "resolve": _resolve,
        "validate": _validate,
        "ingest": _ingest,
    }
    previous = START
    for name, node in nodes.items():
        builder.add_node(name, node)
        builder.add_edge(previous, name)
        previous = name
    builder.add_edge(previous, END)
    return builder


class _Preprocess:
    """Lists the documents and reads each, to find what is wrong with it before anything is made of it."""

    def __init__(self, root: Path | None) -> None:
        self._root = root

    async def __call__(self, state: BatchOutput) -> BatchOutput:
        desk = Desk.of(BatchState.PREPROCESSING)
        run, given = desk.attempt.run, desk.given
        await desk.stores.batches.begin(BatchRow(run.run_id, run.organization_id, given.title, given.policy))
        await desk.enter()
        known = await desk.stores.batches.keys(desk.batch_id)
        position = len(known)
        corpus = Corpus(given, self._root)
        listed = corpus.rows()
        while rows := await asyncio.to_thread(lambda: list(islice(listed, _READ_AT_ONCE))):
            fresh = {row.key: row for row in rows if row.key not in known}
            read = await asyncio.gather(*(asyncio.to_thread(_checked, corpus, row) for row in fresh.values()))
            placed = [replace(row, position=place) for place, row in enumerate(read, position)]
            await desk.stores.batches.add_documents(desk.batch_id, placed)
            known |= fresh.keys()
            position += len(placed)
            desk.passed()
            await desk.show_now_and_then()
        return {"preprocessing": await desk.leave()}


def _checked(corpus: Corpus, row: DocumentRow) -> DocumentRow:
    return row if row.state is DocumentState.FAILED else corpus.checked(row)


class _Extract:
    """Starts a run for each document, waits until all are over, and writes down how they ended."""

    def __init__(self, root: Path | None) -> None:
        self._root = root

    async def __call__(self, state: BatchOutput) -> BatchOutput:
        desk = Desk.of(BatchState.EXTRACTING)
        await desk.enter()
        corpus = Corpus(desk.given, self._root)

        async def start(rows: Sequence[DocumentRow]) -> list[DocumentRow]:
            return await asyncio.gather(*(self._start(desk, corpus, row) for row in rows))

        await desk.advance(DocumentState.PENDING, start, at_once=_STARTED_AT_ONCE)
        while await desk.stores.runs.await_children(desk.batch_id):
            # Also where someone answers too early: then some are left, and it waits again.
            interrupt({"signal": CHILDREN_SIGNAL})
        await desk.stores.batches.settle(desk.batch_id)
        return {"extracting": await desk.leave()}

    @staticmethod
    async def _start(desk: Desk, corpus: Corpus, row: DocumentRow) -> DocumentRow:
        """The document once its run was started. Those of a group are started in one statement."""
        client = desk.attempt.client
        if client is None or row.run_id is None:
            raise NoAttemptError("extract")
        try:
            # Read again, so that no more than a few texts are held: what is there now counts.
            read = await asyncio.to_thread(corpus.read, row)
        except DocumentError as exc:
            return replace(row, state=DocumentState.FAILED, error=failure(exc, desk.state))
        payload: dict[str, Json] = {"text": read.text, "title": read.title, "whole": True}
        if desk.given.throttle_s:
            payload |= {"throttleSeconds": desk.given.throttle_s}
        name = hashlib.sha256(row.key.encode()).hexdigest()[:32]
        key = f"batch {desk.batch_id} {name} {read.content_hash[:32]}"
        await client.start_child(desk.attempt.run, EXTRACTION, payload, run_id=row.run_id, idempotency_key=key)
        return replace(row, state=DocumentState.EXTRACTING, content_hash=read.content_hash, title=read.title)


async def _resolve(state: BatchOutput) -> BatchOutput:
    """Find the entities of every document among those that are known."""

    async def resolve(desk: Desk, row: DocumentRow, extraction: Extraction, text: str) -> None:
        organization = desk.attempt.run.organization_id
        await desk.stores.knowledge.resolve_document(organization, desk.batch_id, row.key, extraction)

    return {"resolving": await _go_through(BatchState.RESOLVING, _EXTRACTED, DocumentState.RESOLVED, resolve)}


async def _validate(state: BatchOutput) -> BatchOutput:
    """Keep out what does not fit its document."""

    async def validate(desk: Desk, row: DocumentRow, extraction: Extraction, text: str) -> None:
        check_extraction(extraction, text)

    return {"validating": await _go_through(BatchState.VALIDATING, _RESOLVED, DocumentState.VALIDATED, validate)}


async def _ingest(state: BatchOutput) -> BatchOutput:
    """Write the mentions and relations of every document."""

    async def ingest(desk: Desk, row: DocumentRow, extraction: Extraction, text: str) -> None:
        organization = desk.attempt.run.organization_id
        await desk.stores.knowledge.ingest_document(organization, desk.batch_id, row.key, extraction, text)

    counts = await _go_through(BatchState.INGESTING, _VALIDATED, DocumentState.INGESTED, ingest)
    desk = Desk.of(BatchState.INGESTING)
    found = await desk.stores.knowledge.batch_counts(desk.batch_id)
    problems = len(await desk.stores.knowledge.validate(desk.batch_id))
    knowledge = {
        "documents": found.documents,
        "entities": found.entities,
        "mentions": found.mentions,
        "relations": found.relations,
        "evidence": found.evidence,
        "merges": found.merges,
        "problems": problems,
    }
    return {"ingesting": counts, "knowledge": knowledge}


_EXTRACTED, _RESOLVED, _VALIDATED = DocumentState.EXTRACTED, DocumentState.RESOLVED, DocumentState.VALIDATED


async def _go_through(state: BatchState, begin: DocumentState, end: DocumentState, work: Work) -> Counts:
    """Do `work` with each document in one state of its own, which brings it into the next; the counts."""
    desk = Desk.of(state)
    await desk.enter()

    async def done(row: DocumentRow, child: Run) -> DocumentRow:
        try:
            await work(desk, row, as_extraction(child.output), child.input["text"])
        except _FAULTS as exc:
            return replace(row, state=DocumentState.FAILED, error=failure(exc, state))
        return replace(row, state=end)

    async def all_done(rows: Sequence[DocumentRow]) -> list[DocumentRow]:
        children = await desk.stores.runs.get_many([str(row.run_id) for row in rows])
        by_id = {child.run_id: child for child in children}
        return await asyncio.gather(*(done(row, by_id[str(row.run_id)]) for row in rows))

    await desk.advance(begin, all_done, at_once=_DONE_AT_ONCE)
    return await desk.leave()
