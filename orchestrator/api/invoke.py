"""Start a run, and look at a thread's latest: /api/invoke, /api/invoke/async, /api/invoke-status."""

from __future__ import annotations

from datetime import MAXYEAR, UTC, datetime
from typing import Annotated, Any, Self, TypeAlias

from fastapi import APIRouter, Request
from langgraph.types import RetryPolicy
from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError
from starlette.responses import Response

from orchestrator.api.auth import Organization
from orchestrator.api.body import WHOLE, Identifier, JsonBody, documented, read_body
from orchestrator.api.parameters import ThreadId
from orchestrator.api.views import AsciiJsonResponse, accepted, run_detail, run_status, signals_view
from orchestrator.engine.service import Orchestrator
from orchestrator.errors import InvalidRequestError, ThreadNotFoundError
from orchestrator.runs.model import check_identifier
from orchestrator.runs.store import Created, IfBusy

__all__ = ["InvokeBody", "router"]

router = APIRouter()

AGENT = "agent"


# As `check_queue` has it, with the JOB_PREFIX that is the default.
_QUEUE = {"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,31}$"}


class AgentTask(JsonBody):
    """The short form: what the `agent` workflow is to do, and as whom."""

    role: str
    """Whom the agent is to be, such as `researcher`."""
    task: str
    """What it is to do."""


def _form(workflow: object) -> str | None:
    """Which of the two forms it is, so that what is wrong is said of that one alone."""
    if isinstance(workflow, str):
        return "name"
    return AGENT if isinstance(workflow, dict | AgentTask) else None


Workflow: TypeAlias = Annotated[
    Annotated[str, Field(min_length=1, max_length=100), Tag("name")] | Annotated[AgentTask, Tag(AGENT)],
    Discriminator(
        _form,
        custom_error_type="workflow",
        custom_error_message='takes the name of a workflow, or {"role": "…", "task": "…"} for the agent',
    ),
]


def _parse_time(value: object) -> datetime:
    """A time of ISO 8601 with its zone, in UTC. Nothing but texts is read, and years that any zone can show."""
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else None
        if time is not None and time.tzinfo is not None and 1 < time.year < MAXYEAR:
            return time.astimezone(UTC)
    except ValueError:
        pass
    raise PydanticCustomError("time", "takes a time with its zone, such as 2026-11-20T10:00:00Z")


Time: TypeAlias = Annotated[datetime, BeforeValidator(_parse_time)]


class Retry(JsonBody):
    """When a run that fails is tried again. What is absent is as the workflow has it."""

    max_attempts: Annotated[int, Field(ge=1, le=1000), WHOLE] | None = None
    """How many attempts may raise an error, the first one included; workflows have 6 unless they say otherwise."""
    initial_interval: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)] | None = None
    """Seconds before the second attempt; workflows have 1."""
    backoff_factor: Annotated[float, Field(ge=1, le=100, allow_inf_nan=False)] | None = None
    """What each pause is longer by than the one before, as a factor; workflows have 2."""
    max_interval: Annotated[float, Field(ge=0, le=604_800, allow_inf_nan=False)] | None = None
    """Seconds that no pause is longer than; workflows have 60."""
    jitter: bool | None = None
    """Whether each pause is shortened at random by up to a half; workflows have true."""

    def over(self, policy: RetryPolicy) -> RetryPolicy:
        """The policy with the numbers that were given."""
        return policy._replace(**self.model_dump(exclude_none=True))


class InvokeBody(JsonBody):
    """What to start: `{"workflow": {"role", "task"}}`, or `{"workflow": name, "input": …}`."""

    # For the document: what `_one_input` checks.
    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"properties": {"workflow": {"type": "string"}}, "required": ["workflow", "input"]},
                {"properties": {"workflow": {"type": "object"}}, "not": {"required": ["input"]}},
            ],
            "examples": [
                {
                    "workflow": "extraction",
                    "input": {"text": "Ada Lovelace worked in London."},
                    "idempotencyKey": "note-1",
                },
                {"workflow": {"role": "researcher", "task": "Who was Ada Lovelace?"}, "ifBusy": "reject"},
            ],
        }
    )

    workflow: Workflow
    """A name of the graph file's, or what the agent is to do. One that the server does not have gets 404
    `unknown_workflow`."""
    input: Any = None
    """What the graph starts from; needed with a name, and none with a role and a task. What can't be stored (null,
    nested over 100 deep, an integer past 64 bits) gets 422 `invalid_payload`."""
    thread_id: Identifier | None = None
    """The thread to go on with, or to begin. Absent, the run gets one of its own, with the run's id."""
    idempotency_key: Identifier | None = None
    """What is sent again under the same key gives the run that the first made; with another input or thread it gets 409
    `idempotency_conflict`. Absent, every request starts a run."""
    if_busy: IfBusy = "enqueue"
    """Where the thread has an unfinished run: wait for its end, refuse (409 `thread_busy`), or cancel it at its next
    checkpoint."""
    retry: Retry | None = None
    """When it is tried again should it fail. Absent, as the workflow has it."""
    queue: Annotated[str, WithJsonSchema(_QUEUE)] = "flow"
    """The queue whose workers take it: letters, digits, dots, dashes and underscores."""
    priority: Annotated[int, Field(ge=-(2**31), lt=2**31), WHOLE] = 0
    """Of the runs that wait in a queue, the one with the highest goes first."""
    start_at: Time | None = None
    """Not to be begun before this time, with its zone, such as `2026-11-20T10:00:00Z`. Absent or past: at once."""
    timeout_seconds: float = Field(default=30.0, ge=0, le=3600, allow_inf_nan=False)
    """Seconds to wait for the run to settle; the run goes on after that. `/api/invoke/async` does not wait."""

    @model_validator(mode="after")
    def _one_input(self) -> Self:
        if isinstance(self.workflow, AgentTask) and "input" in self.model_fields_set:
            raise PydanticCustomError("input", "input is given by workflow.role and workflow.task already")
        if isinstance(self.workflow, str) and "input" not in self.model_fields_set:
            raise PydanticCustomError("input", "input is missing; it is what the workflow starts from")
        return self

    @property
    def target(self) -> tuple[str, Any]:
        """The workflow's name and its input."""
        if isinstance(self.workflow, AgentTask):
            return AGENT, self.workflow.model_dump()
        return self.workflow, self.input


_DOCUMENTED = documented(InvokeBody)


async def _start(request: Request, body: InvokeBody, organization: str) -> Created:
    orchestrator: Orchestrator = request.app.state.orchestrator
    workflow, payload = body.target
    return await orchestrator.start_or_find(
        workflow,
        payload,
        thread_id=body.thread_id,
        idempotency_key=body.idempotency_key,
        organization_id=organization,
        if_busy=body.if_busy,
        retry=None if body.retry is None else body.retry.over(orchestrator.graphs[workflow].retry),
        queue=body.queue,
        priority=body.priority,
        start_at=body.start_at,
    )


@router.post("/api/invoke/async", status_code=202, openapi_extra=_DOCUMENTED)
async def invoke_async(request: Request, organization: Organization) -> Response:
    """Start a run and answer at once; 200 with the run where the idempotency key has made one before."""
    created = await _start(request, await read_body(request, InvokeBody), organization)
    if created.is_new:
        return AsciiJsonResponse(accepted(created.run), 202)
    return AsciiJsonResponse(run_status(created.run) | accepted(created.run), 200)


@router.post("/api/invoke", openapi_extra=_DOCUMENTED)
async def invoke(request: Request, organization: Organization) -> Response:
    """Start a run and wait: 200 with the run once it is settled, 202 where that takes over `timeoutSeconds`."""
    body = await read_body(request, InvokeBody)
    orchestrator: Orchestrator = request.app.state.orchestrator
    created = await _start(request, body, organization)
    run = await orchestrator.wait_for(created.run, timeout=body.timeout_seconds)
    if run.is_settled or not created.is_new:
        return AsciiJsonResponse(run_detail(run) | accepted(run), 200)
    return AsciiJsonResponse(accepted(run), 202)


@router.get("/api/invoke-status/status/{thread_id:path}")
async def thread_status(request: Request, thread_id: ThreadId, organization: Organization) -> Response:
    """The thread's newest run, with the signals that were sent to it."""
    try:
        check_identifier("thread id", thread_id)
    except InvalidRequestError:
        # No run can have been started on such a thread.
        raise ThreadNotFoundError(thread_id[:255]) from None
    orchestrator: Orchestrator = request.app.state.orchestrator
    run = await orchestrator.latest_of_thread(thread_id, organization_id=organization)
    signals = await orchestrator.signals(run.run_id) if run.signal_count else []
    return AsciiJsonResponse(run_status(run) | signals_view(signals))
