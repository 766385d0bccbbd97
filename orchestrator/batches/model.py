"""What a batch is: its states, its documents and how far they have come. Pure; no I/O.

    pending ─► preprocessing ─► extracting ─► resolving ─► validating ─► ingesting ─► complete
                     └───────────────┴────────────┴────────────┴────────────┴──────► failed

A batch is a run of the workflow `batch`, and has its id. What each state does with a document moves the document on:

    preprocessing   it is read                                  pending
    extracting      a run of its own finds what it says         extracting, extracted
    resolving       its entities are found among those known    resolved
    validating      what was found fits the text                validated
    ingesting       its mentions and relations are written      ingested

A document that fails is left out of what follows. With the policy `all` the batch fails with it at the end of the
state; with `some`, only where no document is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal, TypeAlias

from orchestrator.runs.model import Json

__all__ = [
    "STAGES",
    "Batch",
    "BatchFailedError",
    "BatchState",
    "DocumentRow",
    "DocumentState",
    "Policy",
    "Progress",
    "Tally",
    "progress_of",
    "require_policy",
]

Policy: TypeAlias = Literal["all", "some"]
_ERRORS_SHOWN = 5


class BatchState(StrEnum):
    """How far a batch has come."""

    PENDING = "pending"
    PREPROCESSING = "preprocessing"
    EXTRACTING = "extracting"
    RESOLVING = "resolving"
    VALIDATING = "validating"
    INGESTING = "ingesting"
    COMPLETE = "complete"
    FAILED = "failed"


class DocumentState(StrEnum):
    """How far a document has come."""

    PENDING = "pending"
    EXTRACTING = "extracting"
    EXTRACTED = "extracted"
    RESOLVED = "resolved"
    VALIDATED = "validated"
    INGESTED = "ingested"
    FAILED = "failed"


_D = DocumentState
# The states of a batch that do work, and the documents that each is done with, but for those that failed.
_BEHIND: Mapping[BatchState, frozenset[DocumentState]] = {
    BatchState.PREPROCESSING: frozenset(_D) - {_D.FAILED},
    BatchState.EXTRACTING: frozenset({_D.EXTRACTED, _D.RESOLVED, _D.VALIDATED, _D.INGESTED}),
    BatchState.RESOLVING: frozenset({_D.RESOLVED, _D.VALIDATED, _D.INGESTED}),
    BatchState.VALIDATING: frozenset({_D.VALIDATED, _D.INGESTED}),
    BatchState.INGESTING: frozenset({_D.INGESTED}),
}
STAGES = tuple(_BEHIND)


class BatchFailedError(ValueError):
    """Too many documents of a batch failed for its policy. A ValueError, for a repetition would end in the same way."""


@dataclass(frozen=True, slots=True)
class Tally:
    """So many documents are in a state; `failed_in` says where those that failed did."""

    state: DocumentState
    failed_in: BatchState | None
    count: int


@dataclass(frozen=True, slots=True)
class Progress:
    """Of `total` documents that came as far as a state, `done` are past it, and `failed` in it."""

    done: int = 0
    total: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """A document of a batch. `source` says where it is read: `{"inline": n}`, or `{"path", "line"}` of a file.

    `error` is `{"type", "message", "state"}`. `run_id` is that of the run that extracts it, given out before it starts.
    `content_hash` is the SHA-256 of the text.
    """

    key: str
    name: str
    position: int
    source: dict[str, Json] = field(default_factory=dict)
    title: str | None = None
    content_hash: str | None = None
    state: DocumentState = DocumentState.PENDING
    error: dict[str, Json] | None = None
    run_id: str | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as it stands; `progress` has every state that does work."""

    batch_id: str
    organization_id: str
    state: BatchState
    policy: Policy
    title: str | None
    progress: Mapping[BatchState, Progress]
    created_at: datetime
    updated_at: datetime


def progress_of(tallies: Iterable[Tally]) -> dict[BatchState, Progress]:
    """Progress in every state that does work."""
    tallies = list(tallies)
    left = sum(tally.count for tally in tallies)
    found: dict[BatchState, Progress] = {}
    for stage, behind in _BEHIND.items():
        failed = sum(tally.count for tally in tallies if tally.failed_in is stage)
        passed = sum(tally.count for tally in tallies if tally.state in behind)
        later = sum(
            tally.count for tally in tallies if tally.failed_in is not None and _is_after(tally.failed_in, stage)
        )
        found[stage] = Progress(passed + later, left, failed)
        left -= failed
    return found


def require_policy(policy: Policy, tallies: Iterable[Tally], errors: Iterable[str]) -> None:
    """Raise `BatchFailedError`, with the first of `errors`, where too many documents failed for the batch to go on."""
    tallies = list(tallies)
    total = sum(tally.count for tally in tallies)
    failed = {
        each: sum(tally.count for tally in tallies if tally.failed_in is each)
        for each in STAGES
        if any(tally.failed_in is each for tally in tallies)
    }
    if total == 0:
        raise BatchFailedError("the batch has no documents: its paths hold none of a kind that is read")
    if not failed or (policy == "some" and sum(failed.values()) < total):
        return
    counts = ", ".join(f"{count} in {state}" for state, count in failed.items())
    asked = "all must succeed (policy all)" if policy == "all" else "none is left"
    shown = list(errors)[:_ERRORS_SHOWN]
    more = sum(failed.values()) - len(shown)
    listed = "; ".join(shown) + (f"; and {more} more" if more > 0 else "")
    raise BatchFailedError(f"{sum(failed.values())} of {total} documents failed ({counts}), and {asked}: {listed}")


def _is_after(state: BatchState, stage: BatchState) -> bool:
    return STAGES.index(state) > STAGES.index(stage)
