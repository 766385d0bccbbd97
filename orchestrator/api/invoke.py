"""Start a run, and look at a thread's latest: /api/invoke, /api/invoke/async, /api/invoke-status."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeAlias

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError
from starlette.responses import Response

from orchestrator.api.auth import Organization
from orchestrator.api.body import read_body
from orchestrator.api.views import AsciiJsonResponse, accepted, run_detail, run_status
from orchestrator.engine.service import Orchestrator
from orchestrator.errors import InvalidRequestError, ThreadNotFoundError
from orchestrator.runs.model import check_identifier
from orchestrator.runs.store import Created

__all__ = ["InvokeBody", "router"]

router = APIRouter()

AGENT = "agent"


class _Body(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", strict=True)


class AgentTask(_Body):
    """The short form: what the `agent` workflow is to do, and as whom."""

    role: str
    task: str


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


class InvokeBody(_Body):
    """What to start: `{"workflow": {"role", "task"}}`, or `{"workflow": name, "input": …}`."""

    workflow: Workflow
    input: Any = None
    thread_id: str | None = None
    idempotency_key: str | None = None
    if_busy: Literal["enqueue", "reject"] = "enqueue"
    timeout_seconds: float = Field(default=30.0, ge=0, le=3600, allow_inf_nan=False)

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


_DOCUMENTED: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": InvokeBody.model_json_schema(ref_template="{model}")}},
    }
}


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
async def thread_status(request: Request, thread_id: str, organization: Organization) -> Response:
    """The thread's newest run."""
    try:
        check_identifier("thread id", thread_id)
    except InvalidRequestError:
        # No run can have been started on such a thread.
        raise ThreadNotFoundError(thread_id[:255]) from None
    orchestrator: Orchestrator = request.app.state.orchestrator
    run = await orchestrator.latest_of_thread(thread_id, organization_id=organization)
    return AsciiJsonResponse(run_status(run))
