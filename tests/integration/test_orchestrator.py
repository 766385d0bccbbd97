"""`Orchestrator` end to end, over memory and over PostgreSQL."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint
from prometheus_client import REGISTRY

from checkpointer import CheckpointerSettings
from orchestrator import (
    ClosingError,
    Graph,
    GraphError,
    InvalidPayloadError,
    InvalidRequestError,
    OrchestratorSettings,
    RunStatus,
    ThreadBusyError,
    UnknownWorkflowError,
    open_orchestrator,
)
from tests.graphs import Gates, asking, chain, failing
from tests.waiting import until

TRACE = ["one", "two", "three"]


@pytest.fixture(params=["memory", "postgres"])
def settings(request: pytest.FixtureRequest) -> OrchestratorSettings:
    if request.param == "memory":
        return OrchestratorSettings()
    postgres: CheckpointerSettings = request.getfixturevalue("checkpointer_settings")
    return OrchestratorSettings(**postgres.model_dump(exclude_unset=True), drain_timeout=2.0)


async def test_a_run_goes_through_its_graph(settings: OrchestratorSettings) -> None:
    async with open_orchestrator({"chain": chain()}, settings=settings) as orchestrator:
        started = await orchestrator.start("chain", {"text": "hi"}, thread_id="t")
        assert (started.status, started.thread_id) == (RunStatus.PENDING, "t")
        run = await orchestrator.wait(started.run_id, timeout=60)
        assert (run.status, run.attempt, run.current_activity) == (RunStatus.COMPLETED, 1, None)
        assert run.output["trace"] == TRACE
        assert run.last_checkpoint_id is not None
        assert run.saver == ("PostgresSaver" if settings.use_postgres_saver else "MemorySaver")
        assert await orchestrator.poll(run.run_id) == run
        assert await orchestrator.get_status(run.run_id) == run
        assert await orchestrator.latest_of_thread("t") == run


async def test_a_thread_keeps_its_state_from_run_to_run(settings: OrchestratorSettings) -> None:
    async with open_orchestrator({"chain": chain()}, settings=settings) as orchestrator:
        for runs in (1, 2):
            run = await orchestrator.start_and_wait("chain", {"text": "hi"}, thread_id="t", timeout=60)
            assert run.output["trace"] == TRACE * runs
        other = await orchestrator.start_and_wait(
            "chain", {"text": "hi"}, thread_id="t", organization_id="acme", timeout=60
        )
        assert other.output["trace"] == TRACE


async def test_every_kind_of_graph_runs_and_gets_the_saver(settings: OrchestratorSettings) -> None:
    mine = InMemorySaver()
    compiled = chain().compile(checkpointer=mine)

    @entrypoint()
    async def functional(number: int) -> int:
        return number + 1

    @asynccontextmanager
    async def managed() -> Any:
        yield chain()

    async def awaited(config: dict[str, Any]) -> Any:
        assert "configurable" in config
        return chain().compile()

    graphs: dict[str, Graph] = {
        "builder": chain(),
        "compiled": compiled,
        "functional": functional,
        "from saver": lambda saver: chain().compile(checkpointer=saver),
        "from nothing": lambda: chain(),
        "managed": managed,
        "awaited": awaited,
    }
    async with open_orchestrator(graphs, settings=settings) as orchestrator:
        for name in graphs:
            payload: Any = 1 if name == "functional" else {"text": "hi"}
            run = await orchestrator.start_and_wait(name, payload, timeout=60)
            assert run.status is RunStatus.COMPLETED, run.error
            assert run.last_checkpoint_id is not None
            assert run.output == 2 if name == "functional" else run.output["trace"] == TRACE
    assert compiled.checkpointer is mine
    assert not mine.storage


@pytest.mark.parametrize("graph", [1, lambda: 1, lambda saver: 1 / 0])
async def test_what_is_no_graph_is_named(graph: Any) -> None:
    with pytest.raises(GraphError, match="graph 'mine' can't be used"):
        async with open_orchestrator({"mine": graph}):
            pass


async def test_a_failing_node_fails_the_run_without_its_secrets(settings: OrchestratorSettings) -> None:
    error = ValueError("no postgresql://me:hunter22@db/x")
    async with open_orchestrator({"failing": failing(error)}, settings=settings) as orchestrator:
        run = await orchestrator.start_and_wait("failing", {"text": "x"}, timeout=60)
    assert (run.status, run.current_activity) == (RunStatus.FAILED, "broken")
    assert run.error is not None
    assert run.error["type"] == "ValueError"
    assert "in broken" in run.error["traceback"]
    assert "hunter22" not in str(run.error)


async def test_a_node_that_cancels_itself_fails_the_run(settings: OrchestratorSettings) -> None:
    async with open_orchestrator({"failing": failing(asyncio.CancelledError())}, settings=settings) as orchestrator:
        run = await orchestrator.start_and_wait("failing", {"text": "x"}, timeout=60)
    assert run.status is RunStatus.FAILED


async def test_interrupt_makes_the_run_wait(settings: OrchestratorSettings) -> None:
    async with open_orchestrator({"asking": asking()}, settings=settings) as orchestrator:
        run = await orchestrator.start_and_wait("asking", {"text": "x"}, timeout=60)
    assert (run.status, run.current_activity, run.completed_at) == (RunStatus.WAITING, "ask", None)
    assert run.output["__interrupt__"][0]["value"] == {"question": "go on?"}


async def test_a_breakpoint_makes_the_run_wait(settings: OrchestratorSettings) -> None:
    graph = chain().compile(interrupt_before=["two"])
    async with open_orchestrator({"chain": graph}, settings=settings) as orchestrator:
        run = await orchestrator.start_and_wait("chain", {"text": "x"}, timeout=60)
    assert (run.status, run.output["trace"]) == (RunStatus.WAITING, ["one"])


async def test_what_can_not_be_started(settings: OrchestratorSettings) -> None:
    async with open_orchestrator({"chain": chain()}, settings=settings) as orchestrator:
        with pytest.raises(UnknownWorkflowError, match="known: chain"):
            await orchestrator.start("chian", {})
        with pytest.raises(InvalidPayloadError):
            await orchestrator.start("chain", None)
        with pytest.raises(InvalidRequestError):
            await orchestrator.start("chain", {}, thread_id="a\x00b")
        with pytest.raises(InvalidRequestError):
            await orchestrator.start("chain", {}, idempotency_key="")
        with pytest.raises(InvalidRequestError, match="organization_id"):
            await orchestrator.start("chain", {}, organization_id="a/b")
    with pytest.raises(ClosingError):
        await orchestrator.start("chain", {})


async def test_a_wait_that_runs_out_gives_the_run_as_it_stands(settings: OrchestratorSettings) -> None:
    gates = Gates()
    async with open_orchestrator({"chain": chain(gates=gates)}, settings=settings) as orchestrator:
        run = await orchestrator.start_and_wait("chain", {"text": "x"}, timeout=0.05)
        assert not run.is_settled
        gates.open(*TRACE)
        assert (await orchestrator.wait(run.run_id, timeout=60)).status is RunStatus.COMPLETED


async def test_waiting_needs_no_polling(settings: OrchestratorSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    gates = Gates()
    gates.open("one", "two")
    monkeypatch.setattr("orchestrator.engine.service._POLL_S", 3600.0)
    async with open_orchestrator({"chain": chain(gates=gates)}, settings=settings) as orchestrator:
        run = await orchestrator.start("chain", {"text": "x"})
        waiters = [asyncio.create_task(orchestrator.wait_for(run)) for _ in range(50)]
        await until(lambda: "three" in gates.reached)
        monkeypatch.setattr(type(orchestrator._store), "get", None)
        gates.open("three")
        done = await asyncio.wait_for(asyncio.gather(*waiters), 60)
    assert {run.status for run in done} == {RunStatus.COMPLETED}


async def test_the_current_activity_can_be_seen(settings: OrchestratorSettings) -> None:
    gates = Gates()
    gates.open("one")

    async with open_orchestrator({"chain": chain(gates=gates)}, settings=settings) as orchestrator:
        run = await orchestrator.start("chain", {"text": "x"})

        async def in_two() -> bool:
            return (await orchestrator.poll(run.run_id)).current_activity == "two"

        await until(in_two)
        gates.open(*TRACE)
        await orchestrator.wait_for(run, timeout=60)


async def test_runs_of_a_thread_never_overlap_and_keep_their_order(settings: OrchestratorSettings) -> None:
    gates = Gates()
    gates.open("step")
    async with open_orchestrator({"chain": chain(["step"], gates)}, settings=settings) as orchestrator:
        started = [await orchestrator.start("chain", {"text": str(n)}, thread_id="t") for n in range(10)]
        runs = [await orchestrator.wait_for(run, timeout=60) for run in started]
    assert [len(run.output["trace"]) for run in runs] == list(range(1, 11))
    assert [run.started_at for run in runs] == sorted(run.started_at or run.created_at for run in runs)
    assert gates.most_running == 1


async def test_concurrent_starts_on_one_thread_all_finish(settings: OrchestratorSettings) -> None:
    async with open_orchestrator({"chain": chain(["step"])}, settings=settings) as orchestrator:
        runs = await asyncio.gather(
            *(orchestrator.start_and_wait("chain", {"text": "x"}, thread_id="t", timeout=60) for _ in range(10))
        )
    assert {run.status for run in runs} == {RunStatus.COMPLETED}
    assert sorted(len(run.output["trace"]) for run in runs) == list(range(1, 11))


async def test_reject(settings: OrchestratorSettings) -> None:
    gates = Gates()
    async with open_orchestrator({"chain": chain(gates=gates)}, settings=settings) as orchestrator:
        run = await orchestrator.start("chain", {"text": "x"}, thread_id="t")
        with pytest.raises(ThreadBusyError, match=run.run_id):
            await orchestrator.start("chain", {"text": "x"}, thread_id="t", if_busy="reject")
        gates.open(*TRACE)
        await orchestrator.wait_for(run, timeout=60)
        again = await orchestrator.start_and_wait("chain", {"text": "x"}, thread_id="t", if_busy="reject", timeout=60)
        assert again.status is RunStatus.COMPLETED


async def test_an_idempotency_key_runs_the_graph_once(settings: OrchestratorSettings) -> None:
    gates = Gates()
    gates.open("step")
    async with open_orchestrator({"chain": chain(["step"], gates)}, settings=settings) as orchestrator:
        runs = await asyncio.gather(
            *(orchestrator.start_and_wait("chain", {"text": "x"}, idempotency_key="k", timeout=60) for _ in range(10))
        )
    assert len({run.run_id for run in runs}) == 1
    assert gates.reached == ["step"]


async def test_closing_stops_at_a_checkpoint_and_lets_waiters_go(
    settings: OrchestratorSettings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    gates = Gates()
    patient = settings.model_copy(update={"drain_timeout": 60.0})
    async with open_orchestrator({"chain": chain(gates=gates)}, settings=patient) as orchestrator:
        run = await orchestrator.start("chain", {"text": "x"}, thread_id="t")
        queued = await orchestrator.start("chain", {"text": "x"}, thread_id="t")
        waiter = asyncio.create_task(orchestrator.wait_for(run))
        await until(lambda: gates.reached)
        orchestrator.request_close()
        assert not (await asyncio.wait_for(waiter, 60)).is_settled
        gates.open(*TRACE)
    assert gates.reached == ["one"]
    assert orchestrator.cut_off == 0
    assert f"run {run.run_id} handed back" in caplog.text
    assert queued.run_id not in gates.reached


async def test_closing_is_bounded(settings: OrchestratorSettings) -> None:
    quick = settings.model_copy(update={"drain_timeout": 0.1})
    gates = Gates()
    async with open_orchestrator({"chain": chain(gates=gates)}, settings=quick) as orchestrator:
        await orchestrator.start("chain", {"text": "x"})
        await until(lambda: gates.reached)
    assert orchestrator.cut_off == 1


async def test_the_log_tells_the_activities(settings: OrchestratorSettings, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with open_orchestrator({"chain": chain()}, settings=settings) as orchestrator:
        run = await orchestrator.start_and_wait("chain", {"text": "x"}, timeout=60)
    lines = [record.getMessage() for record in caplog.records if run.run_id in record.getMessage()]
    told = [line.removeprefix(f"[WorkflowOrchestrator] run {run.run_id} ").split(" in ")[0] for line in lines]
    activities = [f"activity {step} {what}" for step in TRACE for what in ("started", "finished")]
    assert told[1:-1] == activities
    assert told[-1].startswith("completed after ")


async def test_runs_are_counted(settings: OrchestratorSettings) -> None:
    def counted(name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(name, {"workflow": "counted", **labels}) or 0.0

    before = counted("orchestrator_runs_total", status="completed")
    activities = counted("orchestrator_activity_seconds_count", activity="two")
    async with open_orchestrator({"counted": chain()}, settings=settings) as orchestrator:
        await orchestrator.start_and_wait("counted", {"text": "x"}, timeout=60)
    assert counted("orchestrator_runs_total", status="completed") == before + 1
    assert counted("orchestrator_activity_seconds_count", activity="two") == activities + 1
    assert counted("orchestrator_run_seconds_count") >= 1


async def test_many_runs_at_once(settings: OrchestratorSettings) -> None:
    async with open_orchestrator({"chain": chain()}, settings=settings) as orchestrator:
        runs = await asyncio.gather(
            *(orchestrator.start_and_wait("chain", {"text": "x"}, timeout=60) for _ in range(100))
        )
        assert {run.status for run in runs} == {RunStatus.COMPLETED}
        assert len((await orchestrator.list_runs(limit=200)).runs) == 100
