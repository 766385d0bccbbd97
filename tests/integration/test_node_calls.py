"""What a node asks of its run: keys for the outside world, and addresses to be answered at."""

from __future__ import annotations

import asyncio
import operator
from collections import defaultdict
from typing import Annotated, Any, TypedDict

# Once this is imported, attempts listen to chat models, which must not change what nodes and subgraphs give.
import langchain_core.language_models.chat_models  # noqa: F401
import pytest
from langgraph.func import entrypoint, task
from langgraph.graph import START, StateGraph
from langgraph.types import Command, RetryPolicy, Send, interrupt

from orchestrator import (
    InvalidRequestError,
    NoAttemptError,
    RunStatus,
    Workflow,
    create_hook,
    create_hook_sync,
    idempotency_key,
)
from tests.worlds import MemoryWorld, World, postgres_world, status

ONCE_MORE = RetryPolicy(0.01, 1.0, max_attempts=9, jitter=False, retry_on=ConnectionError)


class State(TypedDict, total=False):
    n: int
    keys: Annotated[list[str], operator.add]


class Output(TypedDict, total=False):
    keys: list[str]


class Keys:
    """The keys that each place was given, in order; `fail` has each place fail after its first."""

    def __init__(self) -> None:
        self.by_place: defaultdict[str, list[str]] = defaultdict(list)

    def note(self, place: str, key: str, *, fail: bool = True) -> None:
        self.by_place[place].append(key)
        if fail and len(self.by_place[place]) == 1:
            raise ConnectionError(place)

    @property
    def distinct(self) -> int:
        return len({key for keys in self.by_place.values() for key in keys})


@pytest.fixture(params=["memory", "postgres"])
def world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> World:
    # Retries are many here, and each would wait for a tick.
    monkeypatch.setattr("orchestrator.engine.recovery._TICK_EVERY_S", 0.05)
    if request.param == "memory":
        return MemoryWorld()
    return postgres_world(request.getfixturevalue("checkpointer_settings"))


def building(keys: Keys) -> StateGraph[Any, Any, Any, Any]:
    """Every kind of place: plain and async nodes, a loop, what was sent, a subgraph and what is sent in it."""

    def plain(state: State) -> dict[str, Any]:
        keys.note("plain", idempotency_key())
        return {"n": 0}

    async def loop(state: State) -> Command[Any]:
        n = state.get("n", 0)
        keys.note(f"loop {n}", idempotency_key())
        keys.note(f"loop {n} other", idempotency_key("other"), fail=False)
        sends = [Send("each", {"n": number}) for number in range(2)]
        return Command(update={"n": n + 1}, goto="loop" if n < 2 else sends)

    def each(state: State) -> Command[Any]:
        keys.note(f"each {state['n']}", idempotency_key())
        return Command(goto=Send("sub", {"n": state["n"]}))

    async def inner(state: State) -> Command[Any]:
        keys.note(f"inner {state['n']}", idempotency_key())
        return Command(goto=[Send("leaf", {"n": 10 * state["n"] + leaf}) for leaf in range(2)])

    def leaf(state: State) -> dict[str, Any]:
        keys.note(f"leaf {state['n']}", idempotency_key())
        return {}

    sub = (
        StateGraph(State, output_schema=Output)
        .add_node("inner", inner)
        .add_node("leaf", leaf)
        .add_edge(START, "inner")
        .compile()
    )
    builder = StateGraph(State)
    builder.add_node("plain", plain).add_node("loop", loop).add_node("each", each).add_node("sub", sub)
    return builder.add_edge(START, "plain").add_edge("plain", "loop")


async def test_a_key_is_the_same_on_every_attempt_and_different_elsewhere(world: World) -> None:
    keys = [Keys(), Keys()]
    for number, noted in enumerate(keys):
        retry = ONCE_MORE._replace(max_attempts=50)
        async with world.open(flow=Workflow(building(noted), retry=retry)) as o:
            run = await o.start_and_wait("flow", {"n": number}, timeout=60)
        assert run.status is RunStatus.COMPLETED, run.error
        assert run.failures > 5
        assert len(noted.by_place) == 1 + 6 + 2 + 2 + 4
        assert all(len(set(given)) == 1 for given in noted.by_place.values()), noted.by_place
        assert noted.distinct == len(noted.by_place)
    first, second = ({key for given in noted.by_place.values() for key in given} for noted in keys)
    assert not first & second


async def test_a_key_of_a_task(world: World) -> None:
    keys = Keys()

    @task
    async def work(number: int) -> int:
        keys.note(f"work {number}", idempotency_key())
        return number

    @entrypoint()
    async def functional(count: int) -> list[int]:
        keys.note("entry", idempotency_key())
        return await asyncio.gather(*(work(number) for number in range(count)))

    async with world.open(flow=Workflow(functional, retry=ONCE_MORE)) as o:
        run = await o.start("flow", 2)
        run = await status(o, run, RunStatus.COMPLETED)
    assert run.output == [0, 1]
    assert {place: len(set(given)) for place, given in keys.by_place.items()} == {"entry": 1, "work 0": 1, "work 1": 1}
    assert keys.distinct == 3


async def test_outside_of_a_run_there_is_none() -> None:
    with pytest.raises(NoAttemptError, match="idempotency_key"):
        idempotency_key()
    with pytest.raises(NoAttemptError, match="create_hook"):
        await create_hook("reply")
    with pytest.raises(NoAttemptError, match="create_hook_sync"):
        create_hook_sync("reply")


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_node_that_runs_again_finds_its_hook(world: World, kind: str) -> None:
    tokens: list[str] = []

    async def ask(state: State) -> dict[str, Any]:
        hook = await create_hook("reply")
        tokens.append(hook.token)
        if len(tokens) == 1:
            raise ConnectionError("after the hook was made")
        return {"keys": [interrupt({"signal": "reply"})]}

    def ask_sync(state: State) -> dict[str, Any]:
        hook = create_hook_sync("reply")
        tokens.append(hook.token)
        if len(tokens) == 1:
            raise ConnectionError("after the hook was made")
        return {"keys": [interrupt({"signal": "reply"})]}

    node: Any = ask if kind == "async" else ask_sync
    builder = StateGraph(State).add_node("ask", node).add_edge(START, "ask")
    async with world.open(flow=Workflow(builder, retry=ONCE_MORE)) as o:
        run = await o.start("flow", {"n": 1})
        await status(o, run, RunStatus.WAITING)
        await o.use_hook(tokens[0], "hello")
        run = await status(o, run, RunStatus.COMPLETED)
    assert run.output["keys"] == ["hello"]
    assert len(tokens) == 3
    assert len(set(tokens)) == 1


async def test_what_a_hook_refuses(world: World) -> None:
    refused: list[BaseException] = []

    async def ask(state: State) -> dict[str, Any]:
        for name, expires_in in (("a\x00", 60.0), ("reply", 0.0), ("reply", 1e9)):
            try:
                await create_hook(name, expires_in=expires_in)
            except InvalidRequestError as exc:
                refused.append(exc)
        try:
            create_hook_sync("reply")
        except asyncio.InvalidStateError as exc:
            refused.append(exc)
        one, other = await create_hook("reply"), await create_hook("other")
        assert one.token != other.token
        return {}

    builder = StateGraph(State).add_node("ask", ask).add_edge(START, "ask")
    async with world.open(flow=builder) as o:
        run = await o.start_and_wait("flow", {"n": 1}, timeout=60)
    assert run.status is RunStatus.COMPLETED, run.error
    assert len(refused) == 4
