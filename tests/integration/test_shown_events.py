"""What an attempt shows: its activities and checkpoints, what its nodes give the stream writer, what models say."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from typing import Any

import pytest
from langchain_core.language_models.fake_chat_models import FakeListChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGenerationChunk
from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import StreamWriter

from checkpointer import CheckpointerSettings
from orchestrator import Orchestrator, OrchestratorSettings, Run, RunStatus, open_orchestrator
from orchestrator.engine.unwritten import MAX_EVENT_CHARS, MAX_UNWRITTEN_CHARS, MAX_UNWRITTEN_EVENTS
from orchestrator.errors import DatabaseUnavailableError
from orchestrator.runs.activity import ActivityStatus
from orchestrator.runs.events import Event
from tests.graphs import Gates, State, asking, chain, failing
from tests.postgres import Cluster
from tests.waiting import until
from tests.worlds import World, status

Builder = StateGraph[State, None, State, State]
SECRET = "hunter2-hunter2-hunter2"


def _one(node: Any, name: str = "node") -> Builder:
    return StateGraph(State).add_node(name, node).add_edge(START, name)


async def _seen(orchestrator: Orchestrator, run: Run, after: int = 0) -> list[Event]:
    """All events of a run that comes to its end."""
    async with asyncio.timeout(60):
        events = [event async for event in orchestrator.stream(run.run_id, after=after)]
    assert [event.number for event in events] == list(range(after + 1, after + 1 + len(events)))
    return events


async def _shown(world: World, builder: Builder, wanted: RunStatus = RunStatus.COMPLETED) -> list[Event]:
    async with world.open(graph=builder) as orchestrator:
        run = await orchestrator.start_and_wait("graph", {"text": "x"}, timeout=30)
        assert run.status is wanted, run.error
        return await _seen(orchestrator, run)


def _payloads(events: list[Event]) -> list[Any]:
    return [event.data["payload"] for event in events if event.kind == "custom"]


async def test_activities_and_checkpoints(world: World) -> None:
    events = await _shown(world, chain(["one", "two"]))
    activities = [event.data for event in events if event.kind == "activity"]
    assert [(each["activity"], each["status"]) for each in activities] == [
        ("one", "running"),
        ("one", "completed"),
        ("two", "running"),
        ("two", "completed"),
    ]
    assert [sorted(each) for each in activities[:2]] == [
        ["activity", "attempt", "status", "taskId"],
        ["activity", "attempt", "seconds", "status", "taskId"],
    ]
    assert activities[0]["taskId"] == activities[1]["taskId"] != activities[2]["taskId"]
    saved = [event.data for event in events if event.kind == "checkpoint"]
    assert [(each["step"], each["source"]) for each in saved] == [(-1, "input"), (0, "loop"), (1, "loop"), (2, "loop")]
    assert all(before["checkpointId"] < after["checkpointId"] for before, after in pairwise(saved))
    assert [event.data["status"] for event in events if event.kind == "state"][-1] == "completed"
    assert events[-1].kind == "state"


async def test_a_node_is_seen_while_it_is_at_work(world: World) -> None:
    gates = Gates()

    async def node(state: State, writer: StreamWriter) -> State:
        writer({"done": 1, "total": 2})
        await gates.wait("node")
        return {}

    async with world.open(graph=_one(node)) as orchestrator:
        run = await orchestrator.start("graph", {})
        seen: list[Event] = []
        async with asyncio.timeout(60):
            async for event in orchestrator.stream(run.run_id):
                seen.append(event)
                if event.kind == "custom":
                    gates.open("node")
        assert _payloads(seen) == [{"done": 1, "total": 2}]


async def test_custom_events_of_every_kind_of_node(world: World) -> None:
    async def one(state: State, writer: StreamWriter) -> State:
        writer("async")
        return {}

    def two(state: State, runtime: Runtime[None]) -> State:
        runtime.stream_writer("sync")
        get_stream_writer()("sync, from the context")
        return {}

    def three(state: State) -> State:
        get_stream_writer()("in a subgraph")
        return {}

    async def four(state: State) -> State:
        await _one(three).compile().ainvoke(state)
        get_stream_writer()("after it")
        return {}

    nodes: list[tuple[str, Any]] = [("one", one), ("two", two), ("four", four)]
    builder = StateGraph(State).add_sequence(nodes).add_edge(START, "one")
    builder = builder.add_node("five", _one(three).compile()).add_edge("four", "five")
    payloads = _payloads(await _shown(world, builder))
    assert payloads == ["async", "sync", "sync, from the context", "in a subgraph", "after it", "in a subgraph"]


@pytest.mark.parametrize("in_thread", [True, False])
async def test_what_is_shown_is_as_it_was_then(world: World, in_thread: bool) -> None:
    """A node goes on to change what it has given the writer."""

    def count(writer: StreamWriter) -> State:
        progress = {"done": 0}
        for _ in range(50):
            progress["done"] += 1
            writer(progress)
        return {}

    def plain(state: State, writer: StreamWriter) -> State:
        return count(writer)

    async def node(state: State, writer: StreamWriter) -> State:
        return count(writer)

    payloads = _payloads(await _shown(world, _one(plain if in_thread else node)))
    assert payloads == [{"done": n} for n in range(1, 51)]


class _Broken:
    def __repr__(self) -> str:
        raise RuntimeError("no")


async def test_payloads_that_are_no_json(world: World) -> None:
    loop: list[Any] = []
    loop.append(loop)
    odd: list[Any] = ["a\x00b", "\ud800", [float("nan")], 10**30, {1: {2}}, AIMessage("hi"), _Broken(), loop]

    def node(state: State, writer: StreamWriter) -> State:
        for each in odd:
            writer(each)
        return {}

    payloads = _payloads(await _shown(world, _one(node)))
    assert len(payloads) == len(odd)
    assert payloads[:2] == ["a\x00b", "\ufffd"]
    assert payloads[3:5] == [10**30, {"1": [2]}]
    assert payloads[5]["content"] == "hi"


async def test_a_huge_payload_is_cut_off(world: World) -> None:
    def node(state: State, writer: StreamWriter) -> State:
        writer({"text": "x" * 10 * MAX_EVENT_CHARS})
        writer("small")
        return {}

    huge, small = _payloads(await _shown(world, _one(node)))
    assert huge == {"truncated": ('{"text": "' + "x" * MAX_EVENT_CHARS)[:MAX_EVENT_CHARS]}
    assert small == "small"


@pytest.mark.parametrize("chars", [10, 20_000])
@pytest.mark.parametrize("in_thread", [True, False])
async def test_a_flood_is_bounded_and_the_loss_is_said(world: World, in_thread: bool, chars: int) -> None:
    text, count = "x" * chars, 20_000 if chars < 1_000 else 3_000
    peaks: list[int] = []

    def flood(writer: StreamWriter) -> State:
        tracemalloc.start()
        for number in range(count):
            writer([number, text])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        return {}

    def plain(state: State, writer: StreamWriter) -> State:
        return flood(writer)

    async def node(state: State, writer: StreamWriter) -> State:
        return flood(writer)

    payloads = _payloads(await _shown(world, _one(plain if in_thread else node)))
    numbers = [payload[0] for payload in payloads if isinstance(payload, list)]
    lost = [payload["eventsLost"] for payload in payloads if isinstance(payload, dict)]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == count - 1
    assert len(numbers) + sum(lost) == count
    if not in_thread:
        assert len(lost) == 1
        assert len(numbers) == min(MAX_UNWRITTEN_EVENTS, MAX_UNWRITTEN_CHARS // (chars + 12))
        # As a node in a thread floods, what it showed is being written too.
        assert max(peaks) < 4 * MAX_UNWRITTEN_CHARS + 1_000 * MAX_UNWRITTEN_EVENTS


def _said(events: list[Event]) -> list[tuple[str, str]]:
    return [(event.data["activity"], event.data["text"]) for event in events if event.kind == "message"]


def _model(text: str, **values: Any) -> GenericFakeChatModel:
    return GenericFakeChatModel(messages=iter([AIMessage(text)]), **values)


@pytest.mark.parametrize("streams", [True, False])
async def test_what_a_model_says_is_joined_per_flush(world: World, streams: bool) -> None:
    text = "one word after the other, \x00 among them " * 10

    async def speaking(state: State) -> State:
        await _model(text, disable_streaming=not streams).ainvoke("hi")
        return {}

    def plain(state: State) -> State:
        _model(text, disable_streaming=not streams).invoke("hi")
        return {}

    builder = StateGraph(State).add_sequence([("speaking", speaking), ("plain", plain)]).add_edge(START, "speaking")
    events = await _shown(world, builder)
    said = _said(events)
    for activity in ("speaking", "plain"):
        pieces = [piece for who, piece in said if who == activity]
        assert "".join(pieces) == text
        # The model streams each word and each space apart.
        assert len(pieces) < 2 * len(text.split())
    assert len({event.data["id"] for event in events if event.kind == "message"}) == 2


async def test_a_slow_model_is_heard_word_by_word(world: World) -> None:
    """It says nothing more before what it has said is heard."""
    heard: list[str] = []

    async def is_heard(text: str) -> None:
        await until(lambda: "".join(heard) == text)

    class Patient(FakeListChatModel):
        async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
            said = ""
            async for chunk in super()._astream(*args, **kwargs):
                yield chunk
                said += chunk.text
                await is_heard(said)

    async def speaking(state: State) -> State:
        await Patient(responses=["abcdef"]).ainvoke("hi")
        return {}

    async with world.open(graph=_one(speaking)) as orchestrator:
        run = await orchestrator.start("graph", {})
        async with asyncio.timeout(60):
            async for event in orchestrator.stream(run.run_id):
                heard += [text for _, text in _said([event])]
    assert heard == list("abcdef")


async def test_models_that_say_much_and_models_that_are_not_to_be_heard(world: World) -> None:
    long = "x" * (3 * MAX_EVENT_CHARS)

    async def speaking(state: State) -> State:
        await _model(long, disable_streaming=True).ainvoke("hi")
        await _model("hush").ainvoke("hi", {"tags": ["nostream"]})
        blocks: Any = [{"type": "text", "text": "in "}, {"type": "text", "text": "blocks"}]
        await _model("", disable_streaming=True).ainvoke("hi")
        await GenericFakeChatModel(messages=iter([AIMessage(blocks)]), disable_streaming=True).ainvoke("hi")
        return {}

    said = [text for _, text in _said(await _shown(world, _one(speaking)))]
    assert "".join(said).startswith(long)
    assert "hush" not in "".join(said)
    assert "in " in said[-1]
    assert max(map(len, said)) <= MAX_EVENT_CHARS


@pytest.fixture
def secretive(world: World) -> World:
    world.settings = world.settings.model_copy(
        update={"worker_token": OrchestratorSettings(worker_token=SECRET).worker_token}
    )
    return world


async def test_errors_are_without_secrets_and_can_be_stored(secretive: World) -> None:
    error = ValueError(f"\x00 \ud800 {SECRET} and password=swordfish at postgresql://u:pw@h/d")
    async with secretive.open(graph=failing(error)) as orchestrator:
        run = await orchestrator.start_and_wait("graph", {}, timeout=30)
        assert run.status is RunStatus.FAILED
        events = await _seen(orchestrator, run)
        [activity] = await orchestrator.activities(run.run_id)
    ended = next(event.data for event in events if event.data.get("status") == ActivityStatus.FAILED)
    for shown in (ended["error"], activity.error, events[-1].data["error"]["message"]):
        assert shown is not None
        assert not [secret for secret in (SECRET, "swordfish", "pw@") if secret in shown]
        assert "password=***" in shown


async def test_a_wait_is_shown(world: World) -> None:
    async with world.open(graph=asking()) as orchestrator:
        run = await orchestrator.start("graph", {})
        await status(orchestrator, run, RunStatus.WAITING)
        await orchestrator.resume(run.run_id, "yes")
        events = await _seen(orchestrator, run)
    told = [(event.kind, event.data.get("status", event.data.get("name"))) for event in events]
    told = [each for each in told if each[0] in ("state", "signal", "activity")]
    begin = next(index for index, each in enumerate(told) if each == ("activity", "interrupted"))
    assert told[begin:] == [
        ("activity", "interrupted"),
        ("state", "waiting"),
        ("signal", "resume"),
        ("state", "pending"),
        ("state", "running"),
        ("activity", "running"),
        ("activity", "completed"),
        ("state", "completed"),
    ]


async def test_what_comes_after_the_end_is_dropped(world: World) -> None:
    gates, late = Gates(), asyncio.Event()
    tasks: list[asyncio.Task[None]] = []

    async def write_late(writer: Callable[[Any], None]) -> None:
        await gates.wait("late")
        writer("late")
        late.set()

    async def node(state: State, writer: StreamWriter) -> State:
        writer("in time")
        tasks.append(asyncio.create_task(write_late(writer)))
        return {}

    async with world.open(graph=_one(node), other=chain()) as orchestrator:
        run = await orchestrator.start_and_wait("graph", {}, timeout=30)
        gates.open("late")
        await late.wait()
        # Whatever would be written, is by the time another run's events are.
        await _seen(orchestrator, await orchestrator.start_and_wait("other", {}, timeout=30))
        assert _payloads(await _seen(orchestrator, run)) == ["in time"]


@pytest.fixture
def outage(cluster: Cluster) -> tuple[Cluster, OrchestratorSettings]:
    settings = CheckpointerSettings(
        use_postgres_saver=True, postgres_connection_string=cluster.dsn(), postgres_connect_backoff=0.05
    )
    return cluster, OrchestratorSettings(**settings.model_dump(exclude_unset=True), drain_timeout=1.0)


async def test_an_outage_loses_and_repeats_nothing(outage: tuple[Cluster, OrchestratorSettings]) -> None:
    cluster, settings = outage
    gates = Gates()

    async def node(state: State, writer: StreamWriter) -> State:
        for number in range(300):
            writer(number)
            if number in (100, 200):
                await gates.wait(str(number))
            await asyncio.sleep(0)
        return {}

    async with open_orchestrator({"graph": _one(node)}, settings=settings) as orchestrator:
        run = await orchestrator.start("graph", {})
        watched = asyncio.create_task(_seen(orchestrator, run))
        await until(lambda: "100" in gates.reached)
        await asyncio.to_thread(cluster.stop, "immediate")
        gates.open("100")
        await until(lambda: "200" in gates.reached)
        with pytest.raises(DatabaseUnavailableError):
            await orchestrator.poll(run.run_id)
        gates.open("200")
        await asyncio.to_thread(cluster.start)
        events = await watched
    assert _payloads(events) == list(range(300))
    assert events[-1].data["status"] == "completed"
