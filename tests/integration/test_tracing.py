"""Spans of real runs: whose they are, what is in them, and that a kill does not end the trace."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph.types import RetryPolicy
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode, get_current_span

from checkpointer import CheckpointerSettings, tracing
from checkpointer.errors import StaleWriterError
from checkpointer.factory import open_saver
from checkpointer.postgres.fence import FENCE_KEY
from orchestrator import Orchestrator, OrchestratorSettings, Run, RunStatus, open_orchestrator
from orchestrator.api.app import create_app
from orchestrator.logs import setup_logging
from tests.checkpoints import at, checkpoint
from tests.graphs import Gates, State, asking, chain
from tests.servers import ROOT
from tests.waiting import until
from tests.worlds import World

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADERS = {"traceparent": f"00-{TRACE}-{CALLER}-01", "tracestate": "vendor=1"}


class Traced:
    """The spans that have ended, and a tracer for the test's own."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("test")

    def named(self, *names: str) -> list[ReadableSpan]:
        """Those with one of these names, as they ended."""
        return [span for span in self._exporter.get_finished_spans() if span.name in names]

    def one(self, name: str) -> ReadableSpan:
        """The only one with this name."""
        [span] = self.named(name)
        return span


@pytest.fixture
def traced() -> Iterator[Traced]:
    """Spans are made while the test runs."""
    traced = Traced()
    tracing.enable(traced.provider)
    yield traced
    tracing.disable()


def _id(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.span_id)


def _parent(span: ReadableSpan) -> int | None:
    return span.parent and span.parent.span_id


def _attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def _completed(orchestrator: Orchestrator, run: Run) -> Run:
    ended = await orchestrator.wait(run.run_id, timeout=20)
    assert ended.status is RunStatus.COMPLETED
    return ended


def _calling(traced: Traced) -> StateGraph[State, None, State, State]:
    """A coroutine and a plain function, side by side, that make a span of their own; then a node alone in its step."""

    async def awaits(state: State) -> dict[str, Any]:
        with traced.tracer.start_as_current_span("in awaits"):
            await asyncio.sleep(0)
        return {"trace": ["awaits"]}

    def blocks(state: State) -> dict[str, Any]:
        with traced.tracer.start_as_current_span("in blocks"):
            return {"trace": ["blocks"]}

    def last(state: State) -> dict[str, Any]:
        with traced.tracer.start_as_current_span("in last"):
            return {"trace": ["last"]}

    builder = StateGraph(State)
    for name, node in {"awaits": awaits, "blocks": blocks, "last": last}.items():
        builder.add_node(name, node)
    builder.add_edge(START, "awaits").add_edge(START, "blocks")
    return builder.add_edge(["awaits", "blocks"], "last")


async def test_a_run_its_activities_and_what_they_call_are_one_tree(traced: Traced, world: World) -> None:
    async with world.open(calling=_calling(traced)) as orchestrator:
        with traced.tracer.start_as_current_span("caller"):
            run = await orchestrator.start("calling", {}, thread_id="t", organization_id="acme")
        await _completed(orchestrator, run)
    caller, attempt = traced.one("caller"), traced.one("run calling")
    assert _parent(attempt) == _id(caller)
    about = {
        "holdfast.run.id": run.run_id,
        "holdfast.thread.id": "t",
        "holdfast.organization.id": "acme",
        "holdfast.workflow.name": "calling",
        "holdfast.run.attempt": 1,
        "holdfast.run.status": "completed",
    }
    assert _attributes(attempt).items() >= about.items()
    for name in ("awaits", "blocks", "last"):
        activity = traced.one(f"activity {name}")
        assert _parent(activity) == _id(attempt)
        assert _parent(traced.one(f"in {name}")) == _id(activity)
        shown = {"holdfast.activity.name": name, "holdfast.activity.status": "completed"}
        assert _attributes(activity).items() >= shown.items()
    assert get_current_span().get_span_context().is_valid is False


async def test_saves_and_loads_are_in_it(traced: Traced, checkpointer_settings: CheckpointerSettings) -> None:
    settings = OrchestratorSettings(**checkpointer_settings.model_dump())
    async with open_orchestrator({"chain": chain(), "asking": asking()}, settings=settings) as orchestrator:
        run = await _completed(orchestrator, await orchestrator.start("chain", {}, thread_id="t"))
        checkpoints = len(await orchestrator.history(run.run_id))
        saves = traced.named("checkpoint save")
        asked = await orchestrator.wait((await orchestrator.start("asking", {})).run_id, timeout=20)
        assert asked.status is RunStatus.WAITING
        await orchestrator.resume(asked.run_id, "yes")
        await _completed(orchestrator, asked)
    kinds = [_attributes(span)["holdfast.save.kind"] for span in saves]
    assert kinds.count("checkpoint") == checkpoints
    assert kinds.count("writes") >= 3
    attempt = traced.one("run chain")
    for span in saves:
        assert _parent(span) == _id(attempt)
        told = _attributes(span)
        assert told["holdfast.thread.id"] == "t"
        assert told["holdfast.save.batch"] >= 1
        assert told["holdfast.save.bytes"] > 0
        assert span.status.status_code is StatusCode.UNSET
    first, second = traced.named("run asking")
    assert _attributes(first)["holdfast.run.status"] == "waiting"
    [load] = [span for span in traced.named("checkpoint load") if _parent(span) == _id(second)][:1]
    assert _attributes(load)["holdfast.thread.id"] == asked.run_id
    before, after = traced.named("activity ask")
    assert [_attributes(span)["holdfast.activity.status"] for span in (before, after)] == ["interrupted", "completed"]
    assert before.status.status_code is StatusCode.UNSET


async def test_saves_of_a_crowd_say_that_they_shared_a_statement(
    traced: Traced, checkpointer_settings: CheckpointerSettings
) -> None:
    async with open_saver(checkpointer_settings) as saver:
        await asyncio.gather(*(saver.aput(at(f"t{number}"), checkpoint({}), {}, {}) for number in range(40)))
    batches = [_attributes(span)["holdfast.save.batch"] for span in traced.named("checkpoint save")]
    assert len(batches) == 40
    assert max(batches) > 1


async def test_a_save_that_is_refused_is_an_error(traced: Traced, checkpointer_settings: CheckpointerSettings) -> None:
    async with open_saver(checkpointer_settings) as saver:
        fenced: RunnableConfig = {"configurable": {"thread_id": "t", "checkpoint_ns": "", FENCE_KEY: 7}}
        with pytest.raises(StaleWriterError):
            await saver.aput(fenced, checkpoint({}), {}, {})
    span = traced.one("checkpoint save")
    assert span.status.status_code is StatusCode.ERROR
    assert _attributes(span)["error.type"] == "StaleWriterError"


async def test_every_attempt_is_a_child_of_the_caller_and_errors_hold_no_secret(
    traced: Traced, checkpointer_settings: CheckpointerSettings
) -> None:
    tries: list[int] = []

    async def flaky(state: State) -> dict[str, Any]:
        tries.append(len(tries))
        if len(tries) < 2:
            raise RuntimeError("the worker token is token-of-workers-0123456789")
        return {"trace": ["flaky"]}

    graph = StateGraph(State).add_node("flaky", flaky).add_edge(START, "flaky")
    settings = OrchestratorSettings(**checkpointer_settings.model_dump(), worker_token="token-of-workers-0123456789")
    async with open_orchestrator({"flaky": graph}, settings=settings) as orchestrator:
        with traced.tracer.start_as_current_span("caller"):
            run = await orchestrator.start("flaky", {}, retry=RetryPolicy(initial_interval=0.01, max_attempts=3))
        await _completed(orchestrator, run)
    first, second = traced.named("run flaky")
    assert {_parent(first), _parent(second)} == {_id(traced.one("caller"))}
    assert [_attributes(span)["holdfast.run.attempt"] for span in (first, second)] == [1, 2]
    assert [_attributes(span)["holdfast.run.status"] for span in (first, second)] == ["suspended", "completed"]
    failed = traced.named("activity flaky")[0]
    for span in (first, failed):
        assert span.status.status_code is StatusCode.ERROR
        assert _attributes(span)["error.type"] == "RuntimeError"
        assert "token-of-workers" not in span.to_json()
    assert second.status.status_code is StatusCode.UNSET
    [event] = first.events
    assert str(dict(event.attributes or {})["exception.message"]).startswith("the worker token is")


async def test_a_run_that_goes_on_elsewhere_stays_in_its_callers_trace(traced: Traced, world: World) -> None:
    # The attempt is not cut off: it comes to its checkpoint, however long that takes.
    world.settings = world.settings.model_copy(update={"drain_timeout": 60.0})
    gates = Gates()
    async with world.open(chain=chain(gates=gates)) as orchestrator:
        with traced.tracer.start_as_current_span("caller"):
            run = await orchestrator.start("chain", {})
        gates.open("one")
        await until(lambda: "two" in gates.reached)
        orchestrator.request_close()
        gates.open("two")
    gates.open("three")
    async with world.open(chain=chain(gates=gates)) as orchestrator:
        # Whatever is current where an attempt happens to be begun is not its parent.
        with traced.tracer.start_as_current_span("bystander"):
            await _completed(orchestrator, run)
    attempts = traced.named("run chain")
    assert [_attributes(span)["holdfast.run.status"] for span in attempts] == ["pending", "completed"]
    assert {_parent(span) for span in attempts} == {_id(traced.one("caller"))}


async def test_a_run_without_a_caller_is_a_trace_of_its_own(traced: Traced, world: World) -> None:
    async with world.open(chain=chain()) as orchestrator:
        runs = [await orchestrator.start("chain", {}) for _ in range(3)]
        for run in runs:
            await _completed(orchestrator, run)
    starts, attempts = traced.named("start chain"), traced.named("run chain")
    assert [_parent(span) for span in starts] == [None] * 3
    assert {_parent(span) for span in attempts} == {_id(span) for span in starts}
    assert len({span.context.trace_id for span in attempts if span.context}) == 3


async def test_a_request_names_the_trace(traced: Traced, world: World) -> None:
    async with world.open(chain=chain()) as orchestrator:
        transport = httpx.ASGITransport(create_app(orchestrator))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            body = {"workflow": "chain", "input": {}}
            joined = (await client.post("/api/invoke", json=body, headers=HEADERS)).json()
            wrong = (await client.post("/api/invoke", json=body, headers={"traceparent": "00-nonsense"})).json()
        kept = await orchestrator.poll(joined["runId"])
    assert (joined["status"], wrong["status"]) == ("completed", "completed")
    assert kept.trace_context == HEADERS
    first, second = traced.named("run chain")
    assert first.context is not None
    assert f"{first.context.trace_id:032x}" == TRACE
    assert _parent(first) == int(CALLER, 16)
    assert first.context.trace_state.get("vendor") == "1"
    assert second.context is not None
    assert second.context.trace_id != first.context.trace_id


async def test_names_are_bounded(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator import tracing as spans

    monkeypatch.setattr(spans, "_names", set())
    monkeypatch.setattr(spans, "_MAX_NAMES", 2)
    assert [spans._bounded(name) for name in ("a", "b", "c", "a")] == ["a", "b", "other", "a"]


def test_lines_in_a_span_name_it(traced: Traced, capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    for handler in before:
        root.removeHandler(handler)
    try:
        setup_logging("json")
        with traced.tracer.start_as_current_span("here") as span:
            logging.getLogger("mine").info("said")
        line = json.loads(capsys.readouterr().err)
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    assert int(line["span"], 16) == span.get_span_context().span_id
    assert int(line["trace"], 16) == span.get_span_context().trace_id


def test_off_nothing_of_it_is_imported() -> None:
    script = """
import asyncio, sys
import langsmith.client
from langgraph.graph import START, StateGraph

def imported():
    return {name for name in sys.modules if name.startswith("opentelemetry")}

before = imported()  # by LangSmith, where it is installed

from orchestrator import open_orchestrator

async def main():
    graph = StateGraph(dict).add_node("n", lambda state: {}).add_edge(START, "n")
    async with open_orchestrator({"g": graph}) as orchestrator:
        run = await orchestrator.start_and_wait("g", {}, timeout=60)
        assert run.status == "completed" and run.trace_context is None, run
    assert imported() == before, imported() - before

asyncio.run(main())
"""
    environment = {"PYTHONPATH": str(ROOT), "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
