"""`Orchestrator.stream`: what was and what comes, each event once and in order, for any number of watchers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, cast

import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import StreamWriter

from orchestrator import Orchestrator, Run, RunStatus
from orchestrator.errors import DatabaseUnavailableError, RunNotFoundError
from orchestrator.metrics import WATCHERS
from orchestrator.progress import hub
from orchestrator.progress.hub import EventHub
from orchestrator.runs.events import Event, NewEvent, RunNotes
from orchestrator.runs.memory import MemoryRunStore
from orchestrator.runs.model import new_run_id
from orchestrator.runs.store import RunStore
from tests.graphs import Gates, State, asking, chain, failing
from tests.runs import DONE, Stage
from tests.waiting import until
from tests.worlds import MemoryWorld, PostgresWorld, World, status

Builder = StateGraph[State, None, State, State]


def _counting(count: int, gates: Gates | None = None) -> Builder:
    """One node that shows the numbers from 0; half-way it waits at its gate."""

    async def node(state: State, writer: StreamWriter) -> State:
        for number in range(count):
            if gates is not None and number == count // 2:
                await gates.wait("half")
            writer(number)
        return {}

    return StateGraph(State).add_node("node", node).add_edge(START, "node")


async def _each(together: AsyncIterator[Sequence[Event]]) -> AsyncIterator[Event]:
    """What a hub gives together, one by one."""
    async for events in together:
        for event in events:
            yield event


async def _all(events: AsyncIterator[Event], after: int = 0) -> list[Event]:
    async with asyncio.timeout(30):
        found = [event async for event in events]
    assert [event.number for event in found] == list(range(after + 1, after + 1 + len(found)))
    return found


def _numbers(events: list[Event]) -> list[Any]:
    return [event.data["payload"] for event in events if event.kind == "custom"]


def _states(events: list[Event]) -> list[str]:
    return [event.data["status"] for event in events if event.kind == "state"]


def _hub(orchestrator: Orchestrator) -> EventHub:
    return orchestrator._hub


async def test_a_finished_run_is_replayed_from_any_number(world: World) -> None:
    async with world.open(graph=_counting(5)) as orchestrator:
        run = await orchestrator.start_and_wait("graph", {}, timeout=30)
        events = await _all(orchestrator.stream(run.run_id))
        assert (_numbers(events), _states(events)[-1]) == ([0, 1, 2, 3, 4], "completed")
        for after in (-3, 1, len(events) - 1, len(events), len(events) + 50):
            begin = max(after, 0)
            assert await _all(orchestrator.stream(run.run_id, after=after), begin) == events[begin:]
        assert _hub(orchestrator)._channels == {}


async def test_a_run_that_waits_and_goes_on(world: World) -> None:
    async with world.open(graph=asking()) as orchestrator:
        run = await orchestrator.start("graph", {})
        watched = asyncio.create_task(_all(orchestrator.stream(run.run_id)))
        await status(orchestrator, run, RunStatus.WAITING)
        await orchestrator.resume(run.run_id, "yes")
        events = await watched
    assert _states(events)[-4:] == ["waiting", "pending", "running", "completed"]
    assert [event.data["name"] for event in events if event.kind == "signal"] == ["resume"]


async def test_a_cancelled_run(world: World) -> None:
    gates = Gates()
    async with world.open(graph=chain(gates=gates)) as orchestrator:
        run = await orchestrator.start("graph", {})
        watched = asyncio.create_task(_all(orchestrator.stream(run.run_id)))
        await until(lambda: gates.reached)
        await orchestrator.cancel(run.run_id)
        assert _states(await watched)[-1] == "cancelled"


async def test_a_failed_run_that_is_resumed_has_a_new_end(world: World) -> None:
    async with world.open(graph=failing(ValueError("no"))) as orchestrator:
        run = await orchestrator.start_and_wait("graph", {}, timeout=30)
        first = await _all(orchestrator.stream(run.run_id))
        # One that has seen all but the last stays, so that what the next one joins is what is over already.
        async with aclosing(cast("Any", orchestrator.stream(run.run_id, after=len(first) - 1))) as slow:
            assert (await anext(slow)).number == len(first)
            await orchestrator.resume(run.run_id)
            rest = await _all(orchestrator.stream(run.run_id, after=len(first)), len(first))
        assert _states(rest) == ["pending", "running", "failed"]
        assert await _all(orchestrator.stream(run.run_id)) == first + rest


async def test_watchers_at_different_positions(world: World) -> None:
    gates = Gates()
    async with world.open(graph=_counting(20, gates)) as orchestrator:
        run = await orchestrator.start("graph", {})
        # The first begins past the end as it is now: those who come later see what was before.
        afters = (30, 0, 5, 26)
        tasks = [asyncio.create_task(_all(orchestrator.stream(run.run_id, after=each), each)) for each in afters[:1]]
        await until(lambda: gates.reached and _hub(orchestrator)._channels)
        tasks += [asyncio.create_task(_all(orchestrator.stream(run.run_id, after=each), each)) for each in afters[1:]]
        await until(lambda: _watchers(orchestrator) == len(afters))
        gates.open("half")
        seen = await asyncio.gather(*tasks)
    whole = seen[1]
    assert _numbers(whole) == list(range(20))
    for after, events in zip(afters, seen, strict=True):
        assert events == whole[after:]


def _watchers(orchestrator: Orchestrator) -> int:
    return sum(channel.watchers for channel in _hub(orchestrator)._channels.values())


async def test_a_slow_watcher_misses_nothing_and_holds_up_nobody(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_BUFFERED", 10)
    async with world.open(graph=_counting(300)) as orchestrator:
        run = await orchestrator.start("graph", {})
        slow = orchestrator.stream(run.run_id)
        seen = [await anext(slow)]
        quick = await _all(orchestrator.stream(run.run_id))
        seen += [event async for event in slow]
    assert seen == quick
    assert _numbers(quick) == list(range(300))


class _Counting:
    """A store that counts what it is asked."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self.asked: Counter[str] = Counter()
        self.down = False

    def __getattr__(self, name: str) -> Any:
        self.asked[name] += 1
        if self.down:
            raise DatabaseUnavailableError("down")
        return getattr(self._store, name)


async def test_many_watchers_cost_few_queries(stage: Stage) -> None:
    store = _Counting(stage.store)
    shared = EventHub(cast("RunStore", store))
    before = WATCHERS._value.get()
    run = await stage.running()
    tasks = [asyncio.create_task(_all(_each(shared.watch(run.run_id)))) for _ in range(200)]
    await until(lambda: WATCHERS._value.get() == before + 200)
    for mark in range(1, 21):
        event = NewEvent("custom", {"payload": mark})
        await stage.store.record([RunNotes(run.run_id, run.epoch, events=[event], mark=mark)])
        shared.wake([run.run_id])
    await stage.ended(run, DONE)
    shared.wake([run.run_id])
    for events in await asyncio.gather(*tasks):
        assert (_numbers(events), _states(events)[-1]) == (list(range(1, 21)), "completed")
    assert store.asked.total() <= 30, store.asked
    assert WATCHERS._value.get() == before
    assert shared._channels == {}


async def test_a_lost_notice_costs_time_only(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_LOOK_EVERY_S", 0.05)
    run = await stage.running()
    watched = asyncio.create_task(_all(_each(EventHub(stage.store).watch(run.run_id))))
    await stage.ended(run, DONE)
    assert _states(await watched) == ["pending", "running", "completed"]


async def test_the_store_is_away_for_a_while(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_RETRY_EVERY_S", 0.01)
    store = _Counting(stage.store)
    shared = EventHub(cast("RunStore", store))
    run = await stage.running()
    store.down = True
    watched = asyncio.create_task(_all(_each(shared.watch(run.run_id))))
    await until(lambda: store.asked["events_after"] > 3)
    await stage.ended(run, DONE)
    store.down = False
    assert _states(await watched) == ["pending", "running", "completed"]


async def test_whoever_reads_for_all_may_leave(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one who is at it is cut off in the middle of a query; the others are told without delay."""
    monkeypatch.setattr(hub, "_LOOK_EVERY_S", 600.0)
    held = asyncio.Event()

    class Slow(_Counting):
        async def events_after(self, run_id: str, after: int, *, limit: int = 500) -> list[Event]:
            self.asked["events_after"] += 1
            if self.asked["events_after"] == 2:
                await held.wait()
            return await self._store.events_after(run_id, after, limit=limit)

    store = Slow(stage.store)
    shared = EventHub(cast("RunStore", store))
    run = await stage.running()
    first = asyncio.create_task(_all(_each(shared.watch(run.run_id))))
    await until(lambda: store.asked["events_after"] == 1)
    second = asyncio.create_task(_all(_each(shared.watch(run.run_id))))
    await stage.ended(run, DONE)
    shared.wake([run.run_id])
    await until(lambda: store.asked["events_after"] == 2)
    first.cancel()
    async with asyncio.timeout(30):
        assert _states(await second) == ["pending", "running", "completed"]


async def test_a_run_that_is_deleted_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_LOOK_EVERY_S", 0.05)
    store = MemoryRunStore()
    run = await Stage(store).running()
    watch = _each(EventHub(store).watch(run.run_id))
    assert (await anext(watch)).number == 1
    store._runs.clear()
    store._events.clear()
    assert [event.number async for event in watch] == [2]


async def test_an_unknown_run_and_one_of_others(world: World) -> None:
    async with world.open(graph=chain()) as orchestrator:
        run = await orchestrator.start_and_wait("graph", {}, organization_id="mine", timeout=30)
        assert await _all(orchestrator.stream(run.run_id, organization_id="mine"))
        for run_id, organization in ((new_run_id(), None), ("nonsense", None), (run.run_id, "others")):
            with pytest.raises(RunNotFoundError):
                await _all(orchestrator.stream(run_id, organization_id=organization))


async def test_closing_ends_streams(world: World) -> None:
    gates = Gates()
    async with world.open(graph=chain(gates=gates)) as orchestrator:
        run = await orchestrator.start("graph", {})
        watched = asyncio.create_task(_all(orchestrator.stream(run.run_id)))
        await until(lambda: gates.reached and _watchers(orchestrator))
        behind = orchestrator.stream(run.run_id)
        assert (await anext(behind)).number == 1
        orchestrator.request_close()
        events = await watched
        assert "completed" not in _states(events)
        assert [event async for event in behind] == []
        assert await _all(orchestrator.stream(run.run_id)) == []
        gates.open("one", "two", "three")


@asynccontextmanager
async def _two(world: PostgresWorld, **graphs: Any) -> AsyncIterator[tuple[Orchestrator, Orchestrator]]:
    async with world.open(**graphs) as one, world.open(other=chain()) as two:
        yield one, two


async def test_another_process_sees_the_same(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    if isinstance(world, MemoryWorld):
        pytest.skip("what is in memory is one process's")
    # The watcher's process is told; it does not look by itself.
    monkeypatch.setattr(hub, "_LOOK_EVERY_S", 600.0)
    gates = Gates()
    async with _two(world, graph=_counting(100, gates)) as (one, two):
        run: Run = await one.start("graph", {})
        seen: list[Event] = []

        async def watch() -> list[Event]:
            async for event in two.stream(run.run_id):
                seen.append(event)  # noqa: PERF401 - looked at meanwhile
            return seen

        watched = asyncio.create_task(watch())
        await until(lambda: len(_numbers(seen)) == 50, timeout_s=30)
        gates.open("half")
        async with asyncio.timeout(30):
            assert await _all(one.stream(run.run_id)) == await watched
        assert _numbers(seen) == list(range(100))
