"""The queue behind saves and loads, over a stand-in for the connection: order, bounds, cancelling, closing, time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import psycopg
import pytest

from checkpointer.errors import SaverClosedError, SaverUnavailableError
from checkpointer.postgres.batching import Batcher, Item, Limits
from checkpointer.postgres.worker_connection import WorkerConnection


@dataclass(slots=True, eq=False, kw_only=True)
class Number(Item):
    """An item that is answered with its number."""

    number: int


class Gate:
    """In place of a connection: each batch waits here until the test lets it pass, or is told to fail."""

    def __init__(self) -> None:
        self.arrived: asyncio.Queue[list[int]] = asyncio.Queue()
        self.outcome: asyncio.Queue[Exception | None] = asyncio.Queue()
        self.open = False
        self.closed = False
        self.defers = False  # items with a negative number must wait for something of their own

    async def run(self, batch: list[int]) -> None:
        self.arrived.put_nowait(batch)
        if not self.open:
            outcome = await self.outcome.get()
            if outcome is not None:
                raise outcome

    async def close(self) -> None:
        self.closed = True

    def pass_on(self) -> None:
        self.outcome.put_nowait(None)


class Numbers(Batcher[Number]):
    operation = "test"
    deferred_because = "it waits for something of its own"

    def __init__(self, *gates: Gate, retry_for_s: float = 30.0, limits: Limits = Limits()) -> None:  # noqa: B008
        super().__init__(cast("list[WorkerConnection]", gates), retry_for_s=retry_for_s, limits=limits)

    async def _attempt(self, connection: WorkerConnection, batch: list[Number]) -> list[Number]:
        gate = cast("Gate", connection)
        await gate.run([item.number for item in batch])
        waiting = [item for item in batch if gate.defers and item.number < 0]
        for item in batch:
            if item not in waiting:
                item.succeed(item.number)
        return waiting

    async def _refused(self, connection: WorkerConnection, batch: list[Number], error: Exception) -> None:
        for item in batch:
            item.fail(error)


def ask(batcher: Numbers, number: int, size: int = 1) -> asyncio.Task[int]:
    return asyncio.create_task(batcher.submit(Number(number=number, bytes=size)))


async def settle() -> None:
    """Let everything that can go on without an answer go on."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_lone_item_goes_at_once_and_a_crowd_shares() -> None:
    gate = Gate()
    async with Numbers(gate) as batcher:
        first = ask(batcher, 0)
        assert await gate.arrived.get() == [0]
        others = [ask(batcher, number) for number in range(1, 50)]
        await settle()
        assert gate.arrived.empty()  # the one worker is busy
        gate.pass_on()
        assert await gate.arrived.get() == list(range(1, 50))
        gate.pass_on()
        assert await asyncio.gather(first, *others) == list(range(50))


async def test_two_workers_take_turns() -> None:
    gates = Gate(), Gate()
    async with Numbers(*gates) as batcher:
        tasks = [ask(batcher, 0)]
        await settle()
        tasks.append(ask(batcher, 1))
        await settle()
        assert sorted([gates[0].arrived.get_nowait(), gates[1].arrived.get_nowait()]) == [[0], [1]]
        tasks += [ask(batcher, number) for number in (2, 3)]
        await settle()
        gates[1].pass_on()
        assert await gates[1].arrived.get() == [2, 3]
        gates[1].pass_on()
        gates[0].pass_on()
        assert await asyncio.gather(*tasks) == [0, 1, 2, 3]
    assert gates[0].closed
    assert gates[1].closed


@pytest.mark.parametrize(
    ("limits", "sizes", "batches"),
    [
        (Limits(batch_items=3), [1] * 7, [[0, 1, 2], [3, 4, 5], [6]]),
        (Limits(batch_bytes=10), [4, 4, 4, 4], [[0, 1], [2, 3]]),
        (Limits(batch_bytes=10), [4, 100, 4, 4], [[0], [1], [2, 3]]),
        (Limits(batch_bytes=10), [10, 1], [[0], [1]]),
        (Limits(batch_bytes=10), [0, 0, 10], [[0, 1, 2]]),
    ],
)
async def test_a_batch_is_bounded_and_in_order(limits: Limits, sizes: list[int], batches: list[list[int]]) -> None:
    gate = Gate()
    async with Numbers(gate, limits=limits) as batcher:
        holder = ask(batcher, -1)
        assert await gate.arrived.get() == [-1]
        tasks = [ask(batcher, number, size) for number, size in enumerate(sizes)]
        await settle()
        gate.pass_on()
        for expected in batches:
            assert await gate.arrived.get() == expected
            gate.pass_on()
        await asyncio.gather(holder, *tasks)


@pytest.mark.parametrize(
    ("limits", "most"), [(Limits(queue_items=4, batch_items=2), 4), (Limits(queue_bytes=30, batch_items=2), 3)]
)
async def test_past_the_queues_bound_callers_wait_in_order(limits: Limits, most: int) -> None:
    gate = Gate()
    async with Numbers(gate, limits=limits) as batcher:
        tasks = [ask(batcher, number, 10) for number in range(21)]
        seen: list[int] = []
        while len(seen) < 21:
            seen += await gate.arrived.get()
            await settle()
            assert len(batcher._queue) <= most
            assert batcher._queued_bytes == 10 * len(batcher._queue)
            gate.pass_on()
        assert seen == list(range(21))
        assert await asyncio.gather(*tasks) == list(range(21))


async def test_who_is_cancelled_while_waiting_for_room_leaves_none_stuck() -> None:
    gate = Gate()
    async with Numbers(gate, limits=Limits(queue_items=2, batch_items=1)) as batcher:
        tasks = [ask(batcher, number) for number in range(12)]
        await settle()
        for number in (1, 2, 4, 5, 6, 9):
            tasks[number].cancel()
        gate.open = True
        gate.pass_on()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [answer for answer in answers if isinstance(answer, int)] == [0, 3, 7, 8, 10, 11]


async def test_who_is_cancelled_takes_only_himself_away() -> None:
    gate = Gate()
    async with Numbers(gate) as batcher:
        holder = ask(batcher, 0)
        assert await gate.arrived.get() == [0]
        tasks = [ask(batcher, number) for number in range(1, 5)]
        await settle()
        tasks[1].cancel()  # while queued: it is not sent
        await settle()
        gate.pass_on()
        assert await gate.arrived.get() == [1, 3, 4]
        tasks[2].cancel()  # while under way
        await settle()
        gate.pass_on()
        answers = await asyncio.gather(holder, *tasks, return_exceptions=True)
        assert [answer if isinstance(answer, int) else type(answer) for answer in answers] == [
            0,
            1,
            asyncio.CancelledError,
            asyncio.CancelledError,
            4,
        ]


LOST: list[Callable[[], Exception]] = [
    lambda: psycopg.OperationalError("connection lost"),
    lambda: psycopg.errors.AdminShutdown("terminating"),
    lambda: psycopg.errors.CrashShutdown("another one crashed"),
    lambda: psycopg.errors.CannotConnectNow("starting up"),
    lambda: psycopg.errors.SerializationFailure("collided"),
    lambda: psycopg.errors.DeadlockDetected("collided"),
    lambda: psycopg.errors.ReadOnlySqlTransaction("a standby"),
    lambda: TimeoutError(),
    lambda: ConnectionResetError(),
]


async def test_what_is_the_servers_fault_is_sent_again_with_the_same_items() -> None:
    gate = Gate()
    async with Numbers(gate) as batcher:
        holder = ask(batcher, 0)
        await gate.arrived.get()
        tasks = [ask(batcher, number) for number in (1, 2)]
        await settle()
        gate.pass_on()
        for lost in LOST[:5]:
            assert await gate.arrived.get() == [1, 2]
            gate.outcome.put_nowait(lost())
        tasks.append(ask(batcher, 3))
        assert await gate.arrived.get() == [1, 2]
        gate.pass_on()
        assert await gate.arrived.get() == [3]
        gate.pass_on()
        assert await asyncio.gather(holder, *tasks) == [0, 1, 2, 3]


@pytest.mark.parametrize("lost", LOST)
async def test_each_item_is_tried_for_its_own_time(lost: Callable[[], Exception]) -> None:
    gate = Gate()
    async with Numbers(gate, retry_for_s=100) as batcher:
        old = asyncio.create_task(batcher.submit(Number(number=1, started=asyncio.get_running_loop().time() - 1000)))
        new = ask(batcher, 2)
        assert await gate.arrived.get() == [1, 2]
        gate.outcome.put_nowait(lost())
        with pytest.raises(SaverUnavailableError, match=r"test was given up after 1\d\d\d\.\d s"):
            await old
        assert await gate.arrived.get() == [2]
        gate.pass_on()
        assert await new == 2


async def test_another_fault_goes_to_the_caller_at_once() -> None:
    gate = Gate()
    async with Numbers(gate) as batcher:
        task = ask(batcher, 1)
        await gate.arrived.get()
        gate.outcome.put_nowait(psycopg.errors.UndefinedTable("gone"))
        with pytest.raises(psycopg.errors.UndefinedTable):
            await task
        again = ask(batcher, 2)  # and the worker lives
        assert await gate.arrived.get() == [2]
        gate.pass_on()
        assert await again == 2


async def test_closing_answers_what_was_accepted() -> None:
    gate = Gate()
    batcher = Numbers(gate, limits=Limits(queue_items=3, batch_items=2))
    await batcher.__aenter__()
    tasks = [ask(batcher, number) for number in range(8)]
    await gate.arrived.get()
    await settle()
    closing = asyncio.create_task(batcher.__aexit__(None, None, None))
    await settle()
    assert not closing.done()
    gate.open = True
    gate.pass_on()
    await closing
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    accepted = [answer for answer in answers if isinstance(answer, int)]
    assert accepted == list(range(len(accepted)))
    assert len(accepted) >= 4
    assert all(isinstance(answer, SaverClosedError) for answer in answers[len(accepted) :])
    assert gate.closed
    with pytest.raises(SaverClosedError, match="test"):
        await batcher.submit(Number(number=9))


async def test_closing_that_is_cut_short_leaves_nobody_waiting() -> None:
    gate = Gate()
    batcher = Numbers(gate, limits=Limits(queue_items=2, batch_items=1))
    await batcher.__aenter__()
    tasks = [ask(batcher, number) for number in range(6)]
    await gate.arrived.get()
    await settle()
    closing = asyncio.create_task(batcher.__aexit__(None, None, None))
    await settle()
    closing.cancel()
    answers: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(answer, SaverClosedError) for answer in answers)
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert gate.closed


async def test_closing_while_the_server_is_away_ends_with_the_items_time() -> None:
    gate = Gate()
    batcher = Numbers(gate, retry_for_s=0.3)
    await batcher.__aenter__()
    task = ask(batcher, 1)
    closing = asyncio.create_task(batcher.__aexit__(None, None, None))
    while not closing.done():
        arrived = asyncio.ensure_future(gate.arrived.get())
        await asyncio.wait({arrived, closing}, return_when=asyncio.FIRST_COMPLETED)
        if arrived.done():
            gate.outcome.put_nowait(psycopg.OperationalError("away"))
        else:
            arrived.cancel()
    with pytest.raises(SaverUnavailableError, match="away"):
        await task


async def test_what_waits_for_something_of_its_own_holds_nobody_up() -> None:
    gate = Gate()
    gate.open = gate.defers = True
    async with Numbers(gate, limits=Limits(batch_items=3)) as batcher:
        waiting = [ask(batcher, number) for number in (-1, -2)]
        await settle()
        assert await asyncio.gather(*(ask(batcher, number) for number in range(30))) == list(range(30))
        assert not any(task.done() for task in waiting)
        gate.defers = False
        assert await asyncio.gather(*waiting) == [-1, -2]
        assert batcher._queued_bytes == 0


async def test_what_waits_for_something_of_its_own_has_a_time() -> None:
    gate = Gate()
    gate.open = gate.defers = True
    async with Numbers(gate, retry_for_s=0.3) as batcher:
        with pytest.raises(SaverUnavailableError, match=r"after \d+\.\d s"):
            await ask(batcher, -1)


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("ends", ["in time", "out of time"])
async def test_closing_answers_who_waits_for_something_of_his_own(workers: int, ends: str) -> None:
    gates = [Gate() for _ in range(workers)]
    for gate in gates:
        gate.open = gate.defers = True
    async with asyncio.timeout(60):
        batcher = Numbers(*gates, retry_for_s=100 if ends == "in time" else 0.3)
        await batcher.__aenter__()
        tasks = [ask(batcher, number) for number in (-1, -2, 3)]
        assert await tasks[2] == 3
        closing = asyncio.create_task(batcher.__aexit__(None, None, None))
        await settle()
        if ends == "in time":
            assert not closing.done()
            for gate in gates:
                gate.defers = False
        await closing
        answers = await asyncio.gather(*tasks[:2], return_exceptions=True)
    if ends == "in time":
        assert answers == [-1, -2]
    else:
        assert all(isinstance(answer, SaverUnavailableError) for answer in answers)


async def test_closing_that_is_cut_short_answers_who_waits_for_something_of_his_own() -> None:
    gate = Gate()
    gate.open = gate.defers = True
    async with asyncio.timeout(60):
        batcher = Numbers(gate)
        await batcher.__aenter__()
        task = ask(batcher, -1)
        assert await gate.arrived.get() == [-1]
        await settle()
        closing = asyncio.create_task(batcher.__aexit__(None, None, None))
        await settle()
        closing.cancel()
        with pytest.raises(SaverClosedError):
            await task
        with pytest.raises(asyncio.CancelledError):
            await closing


@pytest.mark.parametrize("workers", [1, 2])
async def test_cancelled_at_any_moment_nobody_else_is_left_waiting(workers: int) -> None:
    """One caller is cancelled after so many turns of the loop: woken, but not running yet, among others."""
    for turns in range(40):
        gates = [Gate() for _ in range(workers)]
        for gate in gates:
            gate.open = True
        async with asyncio.timeout(60), Numbers(*gates, limits=Limits(queue_items=2, batch_items=1)) as batcher:
            tasks = [ask(batcher, number) for number in range(20)]
            for _ in range(turns):
                await asyncio.sleep(0)
            waiting = [task for task in tasks if not task.done()]
            for task in waiting[::2]:
                task.cancel()
            await asyncio.gather(*waiting[::2], return_exceptions=True)
            await asyncio.gather(*waiting[1::2])
