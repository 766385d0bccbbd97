"""Runs as the API shows them."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any
from urllib.parse import quote

from starlette.responses import JSONResponse

from orchestrator.runs.model import Run

__all__ = ["AsciiJsonResponse", "accepted", "run_detail", "run_status"]


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
        "output": run.output,
        "error": run.error,
        "checkpointer": run.saver,
        "lastCheckpointId": run.last_checkpoint_id,
        "idempotencyKey": run.idempotency_key,
        "createdAt": _time(run.created_at),
        "startedAt": _time(run.started_at),
        "updatedAt": _time(run.updated_at),
        "completedAt": _time(run.completed_at),
    }


def run_detail(run: Run) -> dict[str, Any]:
    """A run with its input."""
    return run_status(run) | {"input": run.input}


def _time(value: datetime | None) -> str | None:
    return None if value is None else value.isoformat(timespec="milliseconds").replace("+00:00", "Z")
