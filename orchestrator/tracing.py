"""Spans of OpenTelemetry around runs and their activities, in the trace of whoever started the run.

    caller's span, or start W ── kept with the run (`trace_context`)
                                                          └─► run W          one per attempt, in whatever process
                                                              ├─ activity N  current in the node: what it calls joins
                                                              │   └─ checkpoint save, load    (`checkpointer.tracing`)
                                                              └─ checkpoint save, load

A run that a node starts is a child of its activity. The span of an attempt whose process is killed is never exported;
the next attempt is another child of the same caller. Off, nothing of OpenTelemetry is imported.

Names are bounded: a workflow's name, and those of nodes up to a number. What an error says goes through `black_out`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphBubbleUp

from checkpointer.tracing import inside, record_error, tracer
from orchestrator.runs.failure import describe_failure
from orchestrator.runs.model import Run, RunStatus

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer
    from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["AttemptSpan", "JoinCaller", "attempting", "caller", "with_activities"]

_KEPT = ("traceparent", "tracestate")
_MAX_NAMES = 200
_STEP = "graph:step:"  # how LangGraph tags what it calls as a task, and not what that calls


def caller(workflow: str) -> dict[str, str] | None:
    """The trace that a new run is to be part of, as headers; None where spans are off.

    It is that of the code which asks. Where that is in none, a span `start W` begins one, so that the attempts of the
    run have something in common.
    """
    if (makes := tracer()) is None:
        return None
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    around = trace.get_current_span()
    if not around.get_span_context().is_valid:
        around = makes.start_span(f"start {workflow}", kind=trace.SpanKind.PRODUCER)
        around.set_attribute("holdfast.workflow.name", workflow)
        around.end()
    headers: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(headers, trace.set_span_in_context(around))
    return headers or None


def _context_of(headers: Mapping[str, str] | None) -> Context:
    """The trace that `caller` gave, apart from whatever is current; an empty one where it is not to be read."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract(headers or {}, Context())


class AttemptSpan:
    """The span of an attempt under way."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def ended(self, run: Run | None) -> None:
        """Say how the attempt ended: with the row it left, or None where the run was lost to another worker."""
        self._span.set_attribute("holdfast.run.status", "lost" if run is None else str(run.status))
        if run is None or not run.error or run.status not in (RunStatus.FAILED, RunStatus.SUSPENDED):
            return
        # The row's error, in which secrets are blacked out, and not the exception.
        kind, message = str(run.error["type"]), str(run.error["message"])
        record_error(self._span, kind, message)
        told = {"exception.type": kind, "exception.message": message}
        if trace := run.error.get("traceback"):
            told["exception.stacktrace"] = str(trace)
        self._span.add_event("exception", told)


def attempting(run: Run) -> AbstractContextManager[AttemptSpan | None]:
    """The span of a claimed attempt, current inside; None where spans are off."""
    return nullcontext() if (makes := tracer()) is None else _attempting(makes, run)


@contextmanager
def _attempting(makes: Tracer, run: Run) -> Iterator[AttemptSpan]:
    from opentelemetry.trace import SpanKind

    attributes: dict[str, str | int] = {
        "holdfast.run.id": run.run_id,
        "holdfast.thread.id": run.thread_id,
        "holdfast.organization.id": run.organization_id,
        "holdfast.workflow.name": run.workflow_type,
        "holdfast.run.attempt": run.attempt,
    }
    if run.workflow_version is not None:
        attributes["holdfast.workflow.version"] = run.workflow_version
    # Never what is current: the task of an attempt may have been made by any other's.
    parent = _context_of(run.trace_context)
    span = makes.start_span(f"run {run.workflow_type}", parent, SpanKind.CONSUMER, attributes)
    with _current(span, parent):
        try:
            yield AttemptSpan(span)
        except BaseException as exc:
            # Cut off, for the process stops or the lease is lost; or the end of the run could not be written.
            span.set_attribute("holdfast.run.status", "cut off")
            if isinstance(exc, Exception):
                record_error(span, type(exc).__name__, "")
            raise
        finally:
            span.end()


@contextmanager
def _current(span: Span, parent: Context) -> Iterator[None]:
    from opentelemetry import context, trace

    token = context.attach(trace.set_span_in_context(span, parent))
    try:
        yield
    finally:
        context.detach(token)


def with_activities(config: RunnableConfig, secrets: Sequence[str]) -> RunnableConfig:
    """The config with which a graph's tasks are spans; as it is where spans are off."""
    if (makes := tracer()) is None:
        return config
    handlers: Any = config.get("callbacks") or []
    return {**config, "callbacks": [*handlers, _Activities(makes, secrets)]}


_names: set[str] = set()


def _bounded(name: str) -> str:
    """The name of a node. Tasks may be named at run time: past a number of names, new ones are `other`."""
    if name not in _names and len(_names) >= _MAX_NAMES:
        return "other"
    _names.add(name)
    return name


class _Activities(BaseCallbackHandler):
    """Spans around what LangGraph calls as tasks: nodes, nodes of subgraphs, `@task`s and steps.

    LangGraph calls `on_chain_start` where it then calls the node, so the span is current there, also in a node that is
    a plain function and runs in a thread. The end is told from a task of its own, in which nothing can be put back:
    hence `inside`, and what is around a span goes by who called whom and not by what is current.
    """

    run_inline = True

    def __init__(self, makes: Tracer, secrets: Sequence[str]) -> None:
        self._tracer = makes
        self._secrets = secrets
        self._open: dict[UUID, Span] = {}
        self._attempt = _current_context()
        self._contexts: dict[UUID, Context] = {}

    @property
    def ignore_llm(self) -> bool:
        return True

    @property
    def ignore_chat_model(self) -> bool:
        return True

    @property
    def ignore_retriever(self) -> bool:
        return True

    @property
    def ignore_agent(self) -> bool:
        return True

    @property
    def ignore_custom_event(self) -> bool:
        return True

    def on_chain_start(
        self,
        serialized: dict[str, Any],
        inputs: dict[str, Any],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        around = self._contexts.get(parent_run_id, self._attempt) if parent_run_id else self._attempt
        if any(tag.startswith(_STEP) for tag in tags or ()):
            around = self._begin(run_id, around, metadata or {})
        self._contexts[run_id] = around

    def _begin(self, run_id: UUID, around: Context, known: Mapping[str, Any]) -> Context:
        from opentelemetry import context

        name = str(known.get("langgraph_node", ""))
        attributes: dict[str, str | int] = {"holdfast.activity.name": name}
        if "run_id" in known:
            attributes["holdfast.run.id"] = str(known["run_id"])
        if isinstance(step := known.get("langgraph_step"), int):
            attributes["holdfast.activity.step"] = step
        span = self._tracer.start_span(f"activity {_bounded(name)}", around, attributes=attributes)
        self._open[run_id] = span
        context.attach(within := inside(span, around))
        return within

    def on_chain_end(self, outputs: dict[str, Any], *, run_id: UUID, **kwargs: Any) -> None:
        self._end(run_id, "completed")

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        if isinstance(error, GraphBubbleUp):
            self._end(run_id, "interrupted")
        elif not isinstance(error, Exception):
            self._end(run_id, "cut off")
        else:
            self._end(run_id, "failed", error)

    def _end(self, run_id: UUID, status: str, error: Exception | None = None) -> None:
        self._contexts.pop(run_id, None)
        if (span := self._open.pop(run_id, None)) is None:
            return
        span.set_attribute("holdfast.activity.status", status)
        if error is not None:
            told = describe_failure(error, self._secrets)
            record_error(span, told["type"], told["message"])
        span.end()


def _current_context() -> Context:
    from opentelemetry.context import get_current

    return get_current()


class JoinCaller:
    """ASGI middleware: what a request starts is in the trace that its headers name (W3C Trace Context).

    Where a span is current already, such as one that FastAPI or an instrumentation made of the same headers, it is
    left in place.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = _named(scope) if scope["type"] == "http" else {}
        if not headers:
            await self._app(scope, receive, send)
            return
        from opentelemetry import context, trace

        if trace.get_current_span().get_span_context().is_valid:
            await self._app(scope, receive, send)
            return
        token = context.attach(_context_of(headers))
        try:
            await self._app(scope, receive, send)
        finally:
            context.detach(token)


def _named(scope: Scope) -> dict[str, str]:
    """Those of a request's headers that name its trace."""
    return {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in scope["headers"]
        if name.decode("latin-1") in _KEPT
    }
