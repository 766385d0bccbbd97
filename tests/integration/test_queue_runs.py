"""Runs through each queue driver: the same results, the same order, and what becomes of a message that goes astray."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

from checkpointer import CheckpointerSettings
from orchestrator import (
    MessageData,
    Orchestrator,
    OrchestratorSettings,
    QueueDriver,
    QueueError,
    Role,
    Run,
    RunStatus,
    handle_queue_message,
    open_orchestrator,
    opening,
)
from orchestrator.engine import recovery
from orchestrator.engine.dispatcher import Dispatcher
from orchestrator.queues.driver import Handler
from orchestrator.queues.worker import function_proxy
from orchestrator.runs.model import new_run_id
from tests.graphs import Gates, State, chain, failing
from tests.queues import DRIVERS, SCHEMA, Setup, memory_queue, message
from tests.waiting import until

TRACE = ["one", "two", "three"]
SOON_S = 0.7


@pytest.fixture(params=DRIVERS)
def setup(request: pytest.FixtureRequest) -> Setup:
    is_durable = request.param == "postgres"
    checkpointer = request.getfixturevalue("checkpointer_settings") if is_durable else CheckpointerSettings()
    return Setup(request.param, checkpointer)


@pytest.fixture
def postgres(checkpointer_settings: CheckpointerSettings) -> OrchestratorSettings:
    given = checkpointer_settings.model_dump(exclude_unset=True)
    return OrchestratorSettings(**given, queue_driver="postgres", drain_timeout=2.0)


def approval() -> StateGraph[State, None, State, State]:
    def ask(state: State) -> dict[str, Any]:
        return {"trace": [f"{state['text']} {interrupt({'signal': 'approval'})}"]}

    return StateGraph(State).add_node("ask", ask).add_edge(START, "ask")


def taking_note(begun: dict[str, datetime], gates: Gates) -> StateGraph[State, None, State, State]:
    async def note(state: State) -> dict[str, Any]:
        begun[state["text"]] = datetime.now(UTC)
        await gates.wait(state["text"])
        return {}

    return StateGraph(State).add_node("note", note).add_edge(START, "note")


async def _outcome(orchestrator: Orchestrator, run: Run) -> tuple[Any, ...]:
    ended = await orchestrator.wait(run.run_id, timeout=30)
    if ended.status is RunStatus.WAITING:
        await orchestrator.signal(run.run_id, "approval", f"yes to {ended.input['text']}")

        async def over() -> Any:
            found = await orchestrator.poll(run.run_id)
            return found if found.is_final else None

        ended = await until(over, timeout_s=30)
    trace = ended.output.get("trace") if isinstance(ended.output, dict) else ended.output
    error = ended.error and (ended.error["type"], ended.error["message"])
    return ended.workflow_type, ended.status, trace, error, ended.failures


async def test_thirty_runs_come_out_the_same_through_every_driver(setup: Setup) -> None:
    graphs = {"chain": chain(), "approval": approval(), "failing": failing(ValueError("no"))}
    async with open_orchestrator(graphs, **setup.options()) as orchestrator:
        runs = []
        for number in range(30):
            workflow = ["chain", "approval", "failing"][number % 3]
            start_at = datetime.now(UTC) + timedelta(seconds=SOON_S) if number in (3, 9) else None
            runs.append(
                await orchestrator.start(workflow, {"text": str(number)}, start_at=start_at, priority=number % 5)
            )
        outcomes = await asyncio.gather(*(_outcome(orchestrator, run) for run in runs))
        for run in (runs[3], runs[9]):
            begun = (await orchestrator.poll(run.run_id)).started_at
            assert begun is not None
            assert run.start_at is not None
            assert begun >= run.start_at
    done, no = RunStatus.COMPLETED, ("ValueError", "no")
    for number, outcome in enumerate(outcomes):
        expected = [
            ("chain", done, TRACE, None, 0),
            ("approval", done, [f"{number} yes to {number}"], None, 0),
            ("failing", RunStatus.FAILED, None, no, 1),
        ][number % 3]
        assert (outcome[0], outcome[1], *outcome[3:]) == (expected[0], expected[1], *expected[3:])
        assert number % 3 == 2 or outcome[2] == expected[2]


async def test_one_slot_takes_runs_by_priority_and_scheduled_ones_in_their_time(setup: Setup) -> None:
    begun: dict[str, datetime] = {}
    gates = Gates()
    role = Role(concurrency=1)
    async with open_orchestrator({"note": taking_note(begun, gates)}, role=role, **setup.options()) as orchestrator:

        async def start(text: str, priority: int, start_at: datetime | None = None) -> Run:
            return await orchestrator.start("note", {"text": text}, priority=priority, start_at=start_at)

        runs = [await start("first", 0)]
        await until(lambda: "first" in begun)
        at = datetime.now(UTC) + timedelta(seconds=SOON_S)
        await start("much later", 9, at + timedelta(hours=1))
        for text, priority in (("low", -1), ("middle", 0), ("high", 5), ("middle 2", 0)):
            runs.append(await start(text, priority))
        later = await start("later", 9, at)
        assert later.start_at is not None
        assert (later.priority, later.queue, later.start_at) == (9, "flow", at)
        gates.open("first", "high", "middle", "middle 2", "low", "later")
        runs.append(later)
        await asyncio.gather(*(orchestrator.wait(run.run_id, timeout=30) for run in runs))
    # Once it is due it goes before all others, so its place depends on how long that took.
    assert begun.pop("later") >= at
    assert list(begun) == ["first", "high", "middle", "middle 2", "low"]


async def test_doubled_late_and_unknown_messages_change_nothing(setup: Setup, caplog: pytest.LogCaptureFixture) -> None:
    gates = Gates()
    async with open_orchestrator({"chain": chain(["one"], gates)}, **setup.options()) as orchestrator:
        handle = function_proxy(orchestrator)
        run = await orchestrator.start("chain", {})
        await until(lambda: gates.reached == ["one"])
        # It is under way.
        await handle(message(run.run_id))
        gates.open("one")
        ended = await orchestrator.wait(run.run_id, timeout=15)
        # It is over.
        await handle(message(run.run_id))
        for unknown in (new_run_id(), "no id of a run"):
            await handle(message(unknown))
            await handle(MessageData("step", unknown, "module:function", "step"))
        again = await orchestrator.poll(run.run_id)
        assert again == ended
    assert (ended.attempt, gates.reached) == (1, ["one"])
    assert caplog.text.count("a message was dropped") == 4


async def test_two_messages_about_one_run_at_the_same_instant_make_one_attempt(setup: Setup) -> None:
    gates = Gates()
    role = Role(works=False)
    async with open_orchestrator({"chain": chain(["one"], gates)}, role=role, **setup.options()) as orchestrator:
        run = await orchestrator.start("chain", {})
        handle = function_proxy(orchestrator)
        gates.open("one")
        await asyncio.gather(*(handle(message(run.run_id)) for _ in range(5)))
        ended = await orchestrator.poll(run.run_id)
    assert (ended.status, ended.attempt, gates.reached) == (RunStatus.COMPLETED, 1, ["one"])


async def test_a_run_whose_job_is_lost_is_taken_from_the_table(
    postgres: OrchestratorSettings, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "_LEAVE_NEW_FOR_S", 0.1)
    graphs = {"chain": chain()}
    async with open_orchestrator(graphs, settings=postgres, role=Role(works=False)) as starting:
        run = await starting.start("chain", {})
        assert conn.execute(f"DELETE FROM {SCHEMA}.procrastinate_jobs").rowcount == 1
        async with open_orchestrator(graphs, settings=postgres, role=Role("worker")):
            ended = await starting.wait(run.run_id, timeout=30)
    assert (ended.status, ended.attempt) == (RunStatus.COMPLETED, 1)


class Forgetful:
    """Loses the first message about each run."""

    def __init__(self) -> None:
        self.inner = memory_queue()
        self.lost: list[str] = []

    async def push_flow(self, message: MessageData) -> None:
        if message.id in self.lost:
            await self.inner.push_flow(message)
        else:
            self.lost.append(message.id)

    push_step = push_flow

    async def start(self, handle: Handler, *, queues: Sequence[str], concurrency: int) -> None:
        await self.inner.start(handle, queues=queues, concurrency=concurrency)

    async def stop(self) -> None:
        await self.inner.stop()


async def test_a_lost_message_is_pushed_again_where_workers_do_not_look_at_the_table(
    checkpointer_settings: CheckpointerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "_PUSH_AGAIN_AFTER_S", 0.5)
    settings = OrchestratorSettings(**checkpointer_settings.model_dump(exclude_unset=True), drain_timeout=1.0)
    graphs = {"chain": chain()}
    queue = Forgetful()
    async with open_orchestrator(graphs, settings=settings, queue=queue, role=Role(works=False)) as serving:
        proxy = function_proxy(serving)
        async with open_orchestrator({}, settings=settings, queue=queue, role=Role("worker", proxy=proxy)):
            run = await serving.start("chain", {})
            ended = await serving.wait(run.run_id, timeout=30)
    assert (ended.status, ended.attempt, queue.lost) == (RunStatus.COMPLETED, 1, [run.run_id])


class Unwilling:
    """A driver that is open in between, and whose pushes fail. Empty: `bool()` of it is False."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __len__(self) -> int:
        return 0

    async def __aenter__(self) -> Unwilling:
        self.calls.append("opened")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.calls.append("closed")

    async def push_flow(self, message: MessageData) -> None:
        self.calls.append("push")
        raise ConnectionError("no broker")

    push_step = push_flow

    async def start(self, handle: Handler, *, queues: Sequence[str], concurrency: int) -> None:
        self.calls.append(f"start {','.join(queues)} {concurrency}")

    async def stop(self) -> None:
        self.calls.append("stop")
        raise RuntimeError("as the test wants")


async def test_a_driver_that_fails_loses_no_run(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "_LEAVE_NEW_FOR_S", 0.1)
    queue = Unwilling()
    settings = OrchestratorSettings(worker_concurrency=3)
    async with open_orchestrator({"chain": chain()}, settings=settings, queue=queue) as orchestrator:
        run = await orchestrator.start("chain", {})
        ended = await orchestrator.wait(run.run_id, timeout=15)
    assert ended.status is RunStatus.COMPLETED
    assert queue.calls == ["opened", "start flow,step 3", "push", "stop", "closed"]
    assert "could not be pushed yet" in caplog.text


async def test_what_is_no_driver_is_refused() -> None:
    wrong: Any = object()
    with pytest.raises(QueueError, match="queue takes a queue driver, which a object is not"):
        async with open_orchestrator({"chain": chain()}, queue=wrong):
            pass


async def test_closing_takes_the_drain_timeout_once(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attempts and the delivery are waited for at the same time, not one after the other."""
    told: list[str] = []

    def telling(function: Any) -> Any:
        async def told_of(*args: Any) -> Any:
            told.append("begun")
            try:
                return await function(*args)
            finally:
                told.append("over")

        return told_of

    monkeypatch.setattr(Dispatcher, "drain", telling(Dispatcher.drain))
    monkeypatch.setattr(opening, "_stop_delivery", telling(opening._stop_delivery))
    options = setup.options(drain_timeout=0.2)
    gates = Gates()
    async with open_orchestrator({"chain": chain(["one"], gates)}, **options) as orchestrator:
        await orchestrator.start("chain", {})
        await until(lambda: gates.reached)
    assert told == ["begun", "begun", "over", "over"]
    assert orchestrator.cut_off == 1


def _install(directory: Path, monkeypatch: pytest.MonkeyPatch, *points: str) -> None:
    """A distribution on `sys.path` that offers these entry points."""
    info = directory / "some_queues-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-queues\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[holdfast.queues]\n" + "\n".join(points))
    (directory / "some_queues.py").write_text(
        "from tests.queues import memory_queue\n"
        "def broken():\n    raise RuntimeError('no broker')\n"
        "def other():\n    return object()\n"
    )
    monkeypatch.syspath_prepend(str(directory))


async def test_a_driver_by_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(
        tmp_path,
        monkeypatch,
        "example = some_queues:memory_queue",
        "broken = some_queues:broken",
        "other = some_queues:other",
        "gone = some_queues:gone",
    )
    graphs = {"chain": chain()}
    async with open_orchestrator(graphs, settings=OrchestratorSettings(queue_driver="example")) as orchestrator:
        ended = await orchestrator.start_and_wait("chain", {}, timeout=15)
        assert ended.status is RunStatus.COMPLETED
    for name, why in {
        "broken": "can't be used: no broker",
        "gone": "can't be used",
        "other": "made a object, which is no queue driver",
        "absent": "is not installed; there is: auto, local, postgres, broken, example, gone, other",
    }.items():
        with pytest.raises(QueueError, match=f"QUEUE_DRIVER={name} {why}"):
            async with open_orchestrator(graphs, settings=OrchestratorSettings(queue_driver=name)):
                pass


async def test_postgres_without_the_flag_is_an_error() -> None:
    with pytest.raises(QueueError, match="set USE_POSTGRES_SAVER too"):
        async with open_orchestrator({"chain": chain()}, settings=OrchestratorSettings(queue_driver="postgres")):
            pass


async def test_one_call_works_on_one_message(postgres: OrchestratorSettings) -> None:
    graphs = {"chain": chain()}
    queue: QueueDriver = memory_queue()
    async with open_orchestrator(graphs, settings=postgres, queue=queue, role=Role(works=False)) as starting:
        run = await starting.start("chain", {}, priority=2)
        sent, *_ = queue.waiting  # type: ignore[attr-defined]
        await handle_queue_message(sent.as_json(), graphs=graphs, settings=postgres)
        await handle_queue_message(replace(sent, id=new_run_id()), graphs=graphs, settings=postgres)
        ended = await starting.wait(run.run_id, timeout=30)
    assert (ended.status, ended.attempt, sent.priority) == (RunStatus.COMPLETED, 1, 2)


async def test_a_worker_takes_the_runs_of_its_queues_only(
    postgres: OrchestratorSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "_LEAVE_NEW_FOR_S", 0.0)
    gates = Gates()
    graphs = {"chain": chain(["one"], gates)}
    gates.open("one")
    async with open_orchestrator(graphs, settings=postgres, role=Role(works=False)) as starting:
        fast = await starting.start("chain", {}, queue="gpu")
        slow = await starting.start("chain", {})
        async with open_orchestrator(graphs, settings=postgres, role=Role("worker", queues=["gpu"])) as worker:
            assert (await starting.wait(fast.run_id, timeout=30)).status is RunStatus.COMPLETED
            # The table is looked at too.
            for _ in range(2):
                await worker.recovery.tick()
                await until(lambda: worker._dispatcher._filling is None)
            assert (await starting.poll(slow.run_id)).status is RunStatus.PENDING
        async with open_orchestrator(graphs, settings=postgres):
            assert (await starting.wait(slow.run_id, timeout=30)).status is RunStatus.COMPLETED
