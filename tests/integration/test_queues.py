"""The contract of a queue driver, over every one, and what is a driver's own."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from orchestrator import InvalidRequestError, MessageData, QueueDriver
from orchestrator.queues.postgres import PostgresQueue
from tests.graphs import Gates
from tests.queues import DRIVERS, SCHEMA, Drivers, Handled, message
from tests.waiting import until

NAMES = ["a", "b", "c", "d", "e", "f"]


@pytest.fixture(params=DRIVERS)
def drivers(request: pytest.FixtureRequest) -> Drivers:
    dsn: str = request.getfixturevalue("postgres_dsn") if request.param == "postgres" else ""
    return Drivers(request.param, dsn)


@pytest.fixture
async def driver(drivers: Drivers) -> AsyncIterator[QueueDriver]:
    async with drivers.open() as driver:
        yield driver


async def start(driver: QueueDriver, handle: Handled, *queues: str, concurrency: int = 4) -> None:
    await driver.start(handle, queues=queues or ("flow", "step"), concurrency=concurrency)


async def test_it_is_a_queue_driver(driver: QueueDriver) -> None:
    assert isinstance(driver, QueueDriver)


async def test_each_message_is_delivered_once_and_whole(driver: QueueDriver) -> None:
    handled = Handled()
    due = datetime.now(UTC) - timedelta(seconds=5)
    flow = MessageData("flow", "1", "chain", priority=3, run_at=due)
    step = MessageData("step", "2", "module:function", "step")
    await start(driver, handled)
    await driver.push_flow(flow)
    await driver.push_step(step)
    await until(lambda: len(handled.done) == 2)
    await driver.push_flow(message("last"))
    await until(lambda: "last" in handled.ids)
    assert sorted(handled.ids) == ["1", "2", "last"]
    by_id = {each.id: each for each in handled.messages}
    assert (by_id["1"], by_id["2"]) == (flow, step)


async def test_what_was_pushed_before_the_start_goes_by_priority_and_then_by_age(driver: QueueDriver) -> None:
    for name, priority in zip(NAMES, (0, 5, -1, 5, 0, 9), strict=True):
        await driver.push_flow(message(name, priority=priority))
    handled = Handled()
    await start(driver, handled, concurrency=1)
    await until(lambda: len(handled.done) == len(NAMES))
    assert handled.ids == ["f", "b", "d", "a", "e", "c"]


async def test_a_message_is_not_delivered_before_its_time(driver: QueueDriver) -> None:
    at = datetime.now(UTC) + timedelta(seconds=1)
    handled = Handled()
    await driver.push_flow(message("later", run_at=at, priority=9))
    await start(driver, handled)
    await driver.push_flow(message("latest", run_at=at + timedelta(hours=1)))
    await driver.push_flow(message("now"))
    await until(lambda: len(handled.done) == 2)
    # Which of them is first depends on how long all that took.
    assert sorted(handled.ids) == ["later", "now"]
    # A database's clock decides for its driver.
    assert handled.times[handled.ids.index("later")] >= at - timedelta(milliseconds=50)


async def test_only_the_queues_that_were_asked_for_are_delivered(driver: QueueDriver) -> None:
    handled = Handled()
    await start(driver, handled, "gpu", "mail")
    for queue in ("flow", "gpu", "step", "mail", "gpu2"):
        await driver.push_flow(message(queue, queue=queue))
    await until(lambda: len(handled.done) == 2)
    await driver.stop()
    assert sorted(handled.ids) == ["gpu", "mail"]
    others = Handled()
    await start(driver, others, "flow", "step", "gpu2")
    await until(lambda: len(others.done) == 3)
    assert sorted(others.ids) == ["flow", "gpu2", "step"]


async def test_no_more_than_its_concurrency_is_delivered_at_once(driver: QueueDriver) -> None:
    gates = Gates()
    handled = Handled(gates)
    await start(driver, handled, concurrency=2)
    for name in NAMES:
        await driver.push_flow(message(name))
    await until(lambda: gates.running == 2)
    gates.open(*NAMES)
    await until(lambda: len(handled.done) == len(NAMES))
    assert gates.most_running == 2


async def test_a_handler_that_raises_does_not_stop_the_delivery(
    driver: QueueDriver, caplog: pytest.LogCaptureFixture
) -> None:
    handled = Handled()

    async def handle(message: MessageData) -> None:
        await handled(message)
        if message.id in NAMES[:5]:
            raise RuntimeError("as the test wants")

    with caplog.at_level(logging.CRITICAL):
        await driver.start(handle, queues=["flow"], concurrency=2)
        for name in NAMES:
            await driver.push_flow(message(name))
        await until(lambda: set(handled.ids) == set(NAMES))


async def test_stopping_waits_for_what_is_under_way_and_delivers_nothing_more(driver: QueueDriver) -> None:
    gates = Gates()
    handled = Handled(gates)
    await start(driver, handled, concurrency=1)
    await driver.push_flow(message("a"))
    await driver.push_flow(message("b"))
    await until(lambda: gates.running)
    stopping = asyncio.create_task(driver.stop())
    done, _ = await asyncio.wait({stopping}, timeout=0.3)
    assert not done
    gates.open("a", "b")
    await asyncio.wait_for(stopping, 30)
    assert handled.done == handled.ids == ["a"]


async def test_after_a_stop_it_can_be_started_again(driver: QueueDriver) -> None:
    first, second = Handled(), Handled()
    await start(driver, first)
    await driver.push_flow(message("a"))
    await until(lambda: first.done)
    await driver.stop()
    await driver.push_flow(message("b"))
    await driver.push_flow(message("c", run_at=datetime.now(UTC) + timedelta(seconds=0.2)))
    await start(driver, second)
    await until(lambda: len(second.done) == 2)
    await driver.stop()
    await driver.stop()
    assert (first.ids, sorted(second.ids)) == (["a"], ["b", "c"])


async def test_what_was_to_come_later_is_still_there_after_a_stop(driver: QueueDriver) -> None:
    handled = Handled()
    await start(driver, handled)
    await driver.push_flow(message("a", run_at=datetime.now(UTC) + timedelta(seconds=0.5)))
    await driver.stop()
    await start(driver, handled)
    await until(lambda: handled.done == ["a"])


async def test_a_hundred_messages_from_several_tasks(driver: QueueDriver) -> None:
    handled = Handled()
    await start(driver, handled, concurrency=10)
    await asyncio.gather(*(driver.push_flow(message(str(number))) for number in range(100)))
    await until(lambda: len(handled.done) >= 100, timeout_s=60)
    assert sorted(handled.ids, key=int) == [str(number) for number in range(100)]


async def test_two_workers_share_what_another_process_pushed(drivers: Drivers) -> None:
    if not drivers.crosses:
        pytest.skip("its messages stay in their process")
    handled = Handled(), Handled()
    async with drivers.open() as one, drivers.open() as other, drivers.open() as third:
        await start(one, handled[0])
        await start(other, handled[1])
        await third.push_flow(message("object"))
        script = (
            "import asyncio, sys; from tests.queues import Drivers, message\n"
            "async def main():\n"
            "    async with Drivers('postgres', sys.argv[1]).open() as driver:\n"
            "        await driver.push_flow(message('process', priority=7))\n"
            "asyncio.run(main())"
        )
        root = str(Path(__file__).parents[2])
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, drivers.dsn, cwd=root)
        assert await process.wait() == 0
        await until(lambda: sorted([*handled[0].ids, *handled[1].ids]) == ["object", "process"])
    [far] = [each for each in [*handled[0].messages, *handled[1].messages] if each.id == "process"]
    assert far == message("process", priority=7)


async def test_jobs_of_others_in_the_same_schema_are_left_alone(postgres_dsn: str, conn: psycopg.Connection) -> None:
    handled = Handled()
    ours, theirs = (PostgresQueue(postgres_dsn, SCHEMA, prefix=prefix) for prefix in ("workflow_", "other_"))
    async with ours, theirs:
        await start(ours, handled)
        await theirs.push_flow(message("theirs"))
        await ours.push_flow(message("ours"))
        await until(lambda: handled.done)
    assert handled.ids == ["ours"]
    rows = conn.execute(f"SELECT queue_name, status::text FROM {SCHEMA}.procrastinate_jobs").fetchall()
    assert rows == [("other_flow", "todo")]


async def test_jobs_are_gone_once_they_are_dealt_with(postgres_dsn: str, conn: psycopg.Connection) -> None:
    handled = Handled()

    def jobs() -> int:
        row = conn.execute(f"SELECT count(*) FROM {SCHEMA}.procrastinate_jobs").fetchone()
        return int(row[0]) if row else -1

    async with Drivers("postgres", postgres_dsn).open() as driver:
        await start(driver, handled)
        await driver.push_flow(message("a"))
        await until(lambda: handled.done)
        await until(lambda: jobs() == 0)


async def test_a_worker_whose_connections_are_cut_delivers_again(postgres_dsn: str, conn: psycopg.Connection) -> None:
    handled = Handled()
    async with Drivers("postgres", postgres_dsn).open() as driver:
        await start(driver, handled)
        await driver.push_flow(message("before"))
        await until(lambda: handled.done)
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'holdfast queue' AND datname = current_database()"
        )

        async def push() -> bool:
            try:
                await driver.push_flow(message("after"))
            except Exception:
                return False
            return True

        await until(push)
        await until(lambda: "after" in handled.done, timeout_s=30)


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        [],
        {},
        {"kind": "other", "id": "1", "name": "n"},
        {"kind": "flow", "id": 1, "name": "n"},
        {"kind": "flow", "id": "1", "name": "n", "queue": None},
        {"kind": "flow", "id": "1", "name": "n", "priority": "high"},
        {"kind": "flow", "id": "1", "name": "n", "priority": True},
        {"kind": "flow", "id": "1", "name": "n", "run_at": "tomorrow"},
        {"kind": "flow", "id": "1", "name": "n", "run_at": "2026-11-20T10:00:00"},
        {"kind": "flow", "id": "1", "name": "n", "run_at": 5},
    ],
)
def test_what_is_no_message_is_refused(wrong: object) -> None:
    with pytest.raises(InvalidRequestError, match="a queue message"):
        MessageData.from_json(wrong)


def test_a_message_survives_json_and_unknown_keys() -> None:
    sent = MessageData("step", "1", "n", "q", -4, datetime(2026, 11, 20, 10, tzinfo=UTC))
    assert MessageData.from_json({**sent.as_json(), "new": 1}) == sent
    assert MessageData.from_json({"kind": "flow", "id": "1", "name": "n"}) == MessageData("flow", "1", "n")
