"""Runs as the API shows them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette.responses import JSONResponse

from orchestrator.batches.model import Batch, DocumentRow
from orchestrator.engine.history import CheckpointSummary
from orchestrator.runs.activity import Activity
from orchestrator.runs.events import Event, time_text
from orchestrator.runs.model import Run
from orchestrator.runs.signals import Signal

if TYPE_CHECKING:
    from orchestrator.batches.knowledge import Explanation, Merge

__all__ = [
    "AsciiJsonResponse",
    "accepted",
    "activity_view",
    "batch_view",
    "checkpoint_view",
    "document_view",
    "entity_view",
    "event_view",
    "merge_view",
    "run_detail",
    "run_status",
    "signals_view",
    "time_of",
]


class AsciiJsonResponse(JSONResponse):
    """JSON with everything beyond ASCII escaped: half a surrogate pair in a value must not fail the answer."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


def accepted(run: Run) -> dict[str, Any]:
    """What the one who started a run gets: its ids, and where to look."""
    thread = quote(run.thread_id, safe="")
    return {
        "threadId": run.thread_id,
        "runId": run.run_id,
        "status": run.status,
        "statusUrl": f"/api/invoke-status/status/{thread}",
        "streamUrl": f"/api/invoke-status/stream/{thread}",
    }


def run_status(run: Run) -> dict[str, Any]:
    """A run without its input."""
    return {
        "threadId": run.thread_id,
        "runId": run.run_id,
        "organizationId": run.organization_id,
        "workflow": run.workflow_type,
        "workflowVersion": run.workflow_version,
        "status": run.status,
        "currentActivity": run.current_activity,
        "attempt": run.attempt,
        "maxAttempts": run.max_attempts,
        "failures": run.failures,
        "losses": run.losses,
        "retryAt": time_of(run.retry_at),
        "queue": run.queue,
        "priority": run.priority,
        "startAt": time_of(run.start_at),
        "requested": run.requested,
        "waitingFor": run.awaiting,
        "output": run.output,
        "error": run.error,
        "checkpointer": run.saver,
        "lastCheckpointId": run.last_checkpoint_id,
        "idempotencyKey": run.idempotency_key,
        "parentRunId": run.parent_run_id,
        "batchId": run.batch_id,
        "forkCheckpointId": run.fork_checkpoint_id,
        "createdAt": time_of(run.created_at),
        "startedAt": time_of(run.started_at),
        "updatedAt": time_of(run.updated_at),
        "completedAt": time_of(run.completed_at),
        **({} if run.left_at is None else {"leftAt": time_of(run.left_at)}),
    }


def run_detail(run: Run) -> dict[str, Any]:
    """A run with its input."""
    return run_status(run) | {"input": run.input}


def signals_view(signals: Sequence[Signal]) -> dict[str, Any]:
    """What was sent to a run, to go along with it; nothing where nothing was."""
    return {"signals": [_signal(signal) for signal in signals]} if signals else {}


def _signal(signal: Signal) -> dict[str, Any]:
    return {
        "name": signal.name,
        "status": "kept" if signal.interrupt_id is None else "delivered",
        "interruptId": signal.interrupt_id,
        "key": signal.key,
        "payload": signal.payload,
        "createdAt": time_of(signal.created_at),
    }


def activity_view(activity: Activity) -> dict[str, Any]:
    """One execution of a node."""
    return {
        "activity": activity.activity,
        "attempt": activity.attempt,
        "status": activity.status,
        "taskId": activity.task_id,
        "error": activity.error,
        "startedAt": time_of(activity.started_at),
        "endedAt": time_of(activity.ended_at),
    }


def checkpoint_view(checkpoint: CheckpointSummary) -> dict[str, Any]:
    """One checkpoint of a run."""
    return {
        "checkpointId": checkpoint.checkpoint_id,
        "parentCheckpointId": checkpoint.parent_checkpoint_id,
        "createdAt": time_of(checkpoint.created_at),
        "step": checkpoint.step,
        "source": checkpoint.source,
        "next": checkpoint.next,
        "values": checkpoint.values,
        "workflowVersion": checkpoint.workflow_version,
    }


def event_view(event: Event) -> dict[str, Any]:
    """An event of a run."""
    return {
        "runId": event.run_id,
        "number": event.number,
        "kind": event.kind,
        "at": time_of(event.at),
        **event.data,
    }


def batch_view(batch: Batch, run: Run, failed: Sequence[DocumentRow]) -> dict[str, Any]:
    """A batch and its run, and documents of it that failed."""
    counts = {
        str(state): {"done": each.done, "total": each.total, "failed": each.failed}
        for state, each in batch.progress.items()
    }
    return {
        "batchId": batch.batch_id,
        "organizationId": batch.organization_id,
        "title": batch.title,
        "policy": batch.policy,
        "state": batch.state,
        "status": run.status,
        "counts": counts,
        "failedDocuments": [document_view(row) for row in failed],
        "knowledge": run.output.get("knowledge") if isinstance(run.output, dict) else None,
        "error": run.error,
        "retryOf": run.parent_run_id,
        "statusUrl": f"/api/batches/{batch.batch_id}",
        "streamUrl": f"/api/batches/{batch.batch_id}/events",
        "documentsUrl": f"/api/batches/{batch.batch_id}/documents",
        "createdAt": time_of(batch.created_at),
        "startedAt": time_of(run.started_at),
        "updatedAt": time_of(batch.updated_at),
        "completedAt": time_of(run.completed_at),
    }


def document_view(row: DocumentRow) -> dict[str, Any]:
    """One document of a batch."""
    return {
        "key": row.key,
        "name": row.name,
        "title": row.title,
        "contentHash": row.content_hash,
        "state": row.state,
        "error": row.error,
        "runId": row.run_id if row.state != "pending" else None,
    }


def merge_view(merge: Merge) -> dict[str, Any]:
    """Why two spellings are one entity, or were."""
    return {
        "mergeId": merge.merge_id,
        "left": merge.left,
        "right": merge.right,
        "rule": merge.rule,
        "score": merge.score,
        "reason": merge.reason,
        "survivorId": merge.survivor_id,
        "absorbedId": merge.absorbed_id,
        "batchId": merge.batch_id,
        "createdAt": time_of(merge.at),
        "undoneAt": time_of(merge.undone_at),
        "undoneWhy": merge.undone_why,
    }


def entity_view(explained: Explanation) -> dict[str, Any]:
    """An entity, and what made it."""
    entity = explained.entity
    return {
        "entityId": entity.entity_id,
        "organizationId": entity.organization_id,
        "name": entity.name,
        "type": entity.type,
        "mentions": entity.mentions,
        "documents": entity.documents,
        "spellings": [
            {"text": alias.surface, "documents": alias.documents, "spelledOut": alias.spelled_out}
            for alias in explained.aliases
        ],
        "merges": [merge_view(merge) for merge in explained.merges],
    }


def time_of(value: datetime | None) -> str | None:
    """A time as clients see it: ISO 8601 in UTC, to the millisecond."""
    return None if value is None else time_text(value)
