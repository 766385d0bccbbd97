"""Steps do not wait for runs, whatever those do; and what is not a worker's is left alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from checkpointer import CheckpointerSettings
from orchestrator import (
    MessageData,
    OrchestratorSettings,
    QueueDriver,
    Role,
    RunStatus,
    handle_queue_message,
    open_orchestrator,
)
from orchestrator.runs.model import MAX_QUEUE_CHARS
from orchestrator.runs.steps import step_jobs
from tests.graphs import Gates, chain
from tests.queues import DRIVERS, Drivers, Handled, Setup, memory_queue, message
from tests.stepping import Journal, Stepping, calling, noted
from tests.waiting import until


@pytest.fixture(params=DRIVERS)
def drivers(request: pytest.FixtureRequest) -> Drivers:
    dsn: str = request.getfixturevalue("postgres_dsn") if request.param == "postgres" else ""
    return Drivers(request.param, dsn)


@pytest.fixture
async def driver(drivers: Drivers) -> AsyncIterator[QueueDriver]:
    async with drivers.open() as driver:
        yield driver


@pytest.fixture(params=DRIVERS)
def setup(request: pytest.FixtureRequest) -> Setup:
    is_durable = request.param == "postgres"
    checkpointer = request.getfixturevalue("checkpointer_settings") if is_durable else CheckpointerSettings()
    return Setup(request.param, checkpointer)


def about_step(id: str, queue: str = "step") -> MessageData:
    return MessageData("step", id, "module:function", queue)


async def test_a_step_is_delivered_while_runs_hold_every_slot_and_more_of_them_wait(driver: QueueDriver) -> None:
    gates = Gates()
    handled = Handled(gates)
    waiting = [str(number) for number in range(30)]
    for name in ("held", "held too", *waiting):
        await driver.push_flow(message(name, priority=9))
    await driver.start(handled, queues=["flow", "step"], concurrency=2)
    await until(lambda: gates.running == 2)
    gates.open("s1", "s2")
    await driver.push_step(about_step("s1"))
    # Of a queue that it shares with runs.
    await driver.push_step(about_step("s2", "flow"))
    await until(lambda: sorted(handled.done) == ["s1", "s2"])
    assert sorted(handled.ids) == ["held", "held too", "s1", "s2"]
    gates.open("held", "held too", *waiting)
    await until(lambda: len(handled.done) == 34)


async def test_runs_do_not_wait_for_steps_and_of_these_no_more_are_delivered_at_once(driver: QueueDriver) -> None:
    gates = Gates()
    handled = Handled(gates)
    steps = ["s1", "s2", "s3", "s4"]
    for name in steps:
        await driver.push_step(about_step(name))
    await driver.start(handled, queues=["flow", "step"], concurrency=2)
    await until(lambda: gates.running == 2)
    gates.open("run")
    await driver.push_flow(message("run"))
    await until(lambda: handled.done == ["run"])
    assert len(handled.ids) == 3
    gates.open(*steps)
    await until(lambda: len(handled.done) == 5)


def test_the_jobs_of_steps_have_names_that_no_queue_has() -> None:
    names = ["workflow_step", "workflow_" + "q" * 31, "workflow_" + "q" * 30 + "r"]
    kept = [step_jobs(name) for name in names]
    assert kept[0] == "workflow_step:steps"
    # PostgreSQL's channels have 63 characters at most, of which Procrastinate takes 23.
    assert max(len(name) for name in kept) <= MAX_QUEUE_CHARS == 40
    assert len(set(kept)) == 3
    assert all(":" in name for name in kept)


async def test_a_run_that_holds_the_only_slot_until_a_step_is_done(setup: Setup, tmp_path: Path) -> None:
    journal = Journal(tmp_path)

    async def steps(state: Stepping) -> Stepping:
        # Not before the other run waits for the slot.
        await until(lambda: journal.is_open("both"))
        return {"out": [await noted(state["journal"], "step")]}

    async def holds(state: Stepping) -> Stepping:
        await until(lambda: journal.ran["step"], what="the step is run")
        return {"out": ["held"]}

    graphs = {"steps": calling(steps), "holds": calling(holds)}
    async with open_orchestrator(graphs, role=Role(concurrency=1), **setup.options()) as o:
        first = await o.start("steps", {"journal": str(tmp_path)})
        second = await o.start("holds", {})
        journal.open("both")
        ended = [await o.wait(run.run_id, timeout=40) for run in (second, first)]
    assert [(run.status, run.failures) for run in ended] == [(RunStatus.COMPLETED, 0)] * 2, ended


async def test_a_message_about_a_workflow_that_is_not_here_leaves_the_run_alone(
    checkpointer_settings: CheckpointerSettings,
) -> None:
    settings = OrchestratorSettings(**checkpointer_settings.model_dump(exclude_unset=True), drain_timeout=2.0)
    queue: Any = memory_queue()
    async with open_orchestrator({"chain": chain()}, settings=settings, queue=queue, role=Role(works=False)) as o:
        run = await o.start("chain", {})
        [sent] = queue.waiting
        await handle_queue_message(sent.as_json(), graphs={"other": chain()}, settings=settings)
        left = await o.poll(run.run_id)
        assert (left.status, left.attempt) == (RunStatus.PENDING, 0)
        await handle_queue_message(sent.as_json(), graphs={"chain": chain()}, settings=settings)
        assert (await o.poll(run.run_id)).status is RunStatus.COMPLETED
