"""PostgreSQL stops, crashes, drops its connections or falls silent, and no run notices but by waiting."""

from __future__ import annotations

import asyncio
import math
import operator
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Annotated, Any, TypedDict

import psycopg
import pytest
from langchain_core.messages import AIMessage, AnyMessage
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from checkpointer import PooledPostgresSaver, SaverUnavailableError, open_postgres_saver
from tests.checkpoints import at, everything, put, retries, values_of
from tests.postgres import Cluster
from tests.proxy import Proxy
from tests.waiting import until

pytestmark = pytest.mark.chaos
NODES = ("one", "two", "three", "four", "five")


class State(TypedDict, total=False):
    name: str
    trace: Annotated[list[str], operator.add]
    messages: Annotated[list[AnyMessage], add_messages]


class Progress:
    """Counts the nodes that ran, of each thread and of all, and holds them up past a number."""

    def __init__(self) -> None:
        self.ran: Counter[tuple[str, str]] = Counter()
        self._limit = math.inf
        self._raised = asyncio.Event()

    async def disturb(self, counts: Sequence[int], disturbance: Callable[[], Awaitable[object]]) -> None:
        """Disturb when so many nodes have run, while others run and save; never when all is over already."""
        self._limit = counts[0]
        for count, following in zip(counts, (*counts[1:], math.inf), strict=True):
            await until(lambda count=count: self.total >= count, timeout_s=60, what=f"{count} nodes ran")  # type: ignore[misc]
            assert self.total == count
            self._limit = following
            self._raised.set()
            self._raised = asyncio.Event()
            await disturbance()

    async def _turn(self) -> None:
        while self.total >= self._limit:
            await self._raised.wait()

    @property
    def total(self) -> int:
        return self.ran.total()

    def graph(self, saver: PooledPostgresSaver) -> Any:
        """Five nodes in a row; each adds its name, and a message of 1 KB."""

        def node(name: str) -> Any:
            async def run(state: State) -> State:
                await self._turn()
                self.ran[state["name"], name] += 1
                message = AIMessage(content=name * 300, id=f"{state['name']} {name}")
                return {"trace": [f"{state['name']} {name}"], "messages": [message]}

            return run

        builder = StateGraph(State).add_sequence([(name, node(name)) for name in NODES])
        return builder.add_edge(START, "one").compile(checkpointer=saver)


def complete(name: str) -> list[str]:
    return [f"{name} {node}" for node in NODES]


async def verify(graph: Any, names: list[str], results: list[Any]) -> None:
    """Every final state, and every state on the way, of every thread."""
    assert [result["trace"] for result in results] == [complete(name) for name in names]
    for name in names:
        states = [state async for state in graph.aget_state_history(at(name))]
        assert [state.metadata["step"] for state in states] == [5, 4, 3, 2, 1, 0, -1]
        traces = [state.values.get("trace", []) for state in states]
        assert traces == [complete(name)[:count] for count in (5, 4, 3, 2, 1, 0, 0)]
        ids = [[message.id for message in state.values.get("messages", [])] for state in states]
        assert ids == traces
        assert [state.next for state in states] == [
            (),
            ("five",),
            ("four",),
            ("three",),
            ("two",),
            ("one",),
            ("__start__",),
        ]


def start(graph: Any, number: int) -> tuple[list[str], asyncio.Future[list[Any]]]:
    """Run the graph on so many threads; gives their names."""
    names = [f"t{n}" for n in range(number)]
    runs = (graph.ainvoke({"name": name}, at(name), durability="sync") for name in names)
    return names, asyncio.gather(*runs)


async def test_a_hundred_graphs_while_postgres_crashes_three_times(cluster: Cluster) -> None:
    progress = Progress()
    async with open_postgres_saver(cluster.dsn(), retry_for_s=60) as saver:
        graph = progress.graph(saver)
        names, running = start(graph, 100)
        await progress.disturb((50, 200, 350), lambda: asyncio.to_thread(cluster.restart, "immediate"))
        await verify(graph, names, await running)
        assert set(progress.ran.values()) == {1}  # nothing was run twice either
        assert len(progress.ran) == 500


async def test_a_backend_that_is_killed_takes_the_others_down(cluster: Cluster) -> None:
    """PostgreSQL then resets all connections, recovers, and takes none until it has."""
    progress = Progress()

    async def kill() -> None:
        with psycopg.connect(cluster.dsn()) as conn:
            row = conn.execute("SELECT min(pid) FROM pg_stat_activity WHERE application_name = 'holdfast'").fetchone()
        assert row is not None
        os.kill(row[0], signal.SIGKILL)

    async with open_postgres_saver(cluster.dsn(), retry_for_s=60) as saver:
        graph = progress.graph(saver)
        names, running = start(graph, 60)
        await progress.disturb((30, 120, 200), kill)
        await verify(graph, names, await running)
        assert set(progress.ran.values()) == {1}


async def test_postgres_stays_away_for_a_while(cluster: Cluster) -> None:
    """Saves and loads that begin while it is away end well, too."""
    async with open_postgres_saver(cluster.dsn(), retry_for_s=60) as saver:
        await put(saver, at("before"), {"n": [0]})
        await asyncio.to_thread(cluster.stop, "immediate")
        retried = retries()
        saves = [asyncio.create_task(put(saver, at(str(number)), {"n": [number]})) for number in range(50)]
        load = asyncio.create_task(values_of(saver, at("before")))
        listing = asyncio.create_task(_list(saver, "before"))
        deletion = asyncio.create_task(saver.adelete_thread("no such thread"))
        await until(lambda: retries() >= retried + 8)
        assert not any(task.done() for task in (*saves, load, listing, deletion))
        await asyncio.to_thread(cluster.start)
        await asyncio.gather(*saves, deletion)
        assert await load == {"n": [0]}
        assert await listing == [{"n": [0]}]
        assert [await values_of(saver, at(str(number))) for number in range(50)] == [{"n": [n]} for n in range(50)]


async def test_terminated_backends_are_not_noticed(postgres_dsn: str, conn: psycopg.Connection) -> None:
    progress = Progress()
    query = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE application_name = 'holdfast' AND datname = current_database()"
    )
    killed = 0

    async def kill() -> None:
        nonlocal killed
        row = conn.execute(query).fetchone()
        killed += row[0] if row else 0

    async with open_postgres_saver(postgres_dsn) as saver:
        graph = progress.graph(saver)
        names, running = start(graph, 60)
        await progress.disturb(range(20, 280, 20), kill)
        await verify(graph, names, await running)
        assert set(progress.ran.values()) == {1}
    assert killed >= 5


class TestNetwork:
    @pytest.fixture
    async def proxy(self, postgres_dsn: str) -> AsyncIterator[Proxy]:
        parts = conninfo_to_dict(postgres_dsn)
        if str(parts.get("host", "/")).startswith("/"):
            pytest.skip("the server of TEST_POSTGRES_DSN has no TCP address to put a proxy before")
        async with Proxy.to(str(parts["host"]), int(str(parts.get("port") or 5432))) as proxy:
            yield proxy

    @pytest.fixture
    def dsn(self, postgres_dsn: str, proxy: Proxy) -> str:
        return make_conninfo(postgres_dsn, host="127.0.0.1", port=proxy.port)

    async def test_connections_that_are_cut(self, dsn: str, proxy: Proxy) -> None:
        progress = Progress()
        async with open_postgres_saver(dsn) as saver:
            graph = progress.graph(saver)
            names, running = start(graph, 40)

            async def cut() -> None:
                proxy.cut()

            await progress.disturb((20, 60, 100, 140), cut)
            await verify(graph, names, await running)
            assert set(progress.ran.values()) == {1}

    async def test_a_silence_that_ends(self, dsn: str, proxy: Proxy) -> None:
        progress = Progress()
        async with open_postgres_saver(dsn) as saver:
            graph = progress.graph(saver)
            names, running = start(graph, 40)

            async def be_silent() -> None:
                proxy.deafen()
                for _ in range(500):  # whatever was under way comes to wait
                    await asyncio.sleep(0)
                assert not running.done()
                proxy.hear()

            await progress.disturb((60, 120), be_silent)
            await verify(graph, names, await running)

    async def test_connections_that_have_gone_silent_are_given_up(
        self, dsn: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As behind a firewall that forgot them: nothing comes back and nothing says so, but new ones work."""
        monkeypatch.setattr("checkpointer.postgres.group_commit._SILENCE_S", 0.5)
        monkeypatch.setattr("checkpointer.postgres.batch_load._ATTEMPT_S", 0.5)
        progress = Progress()
        async with open_postgres_saver(dsn, retry_for_s=120) as saver:
            graph = progress.graph(saver)
            names, running = start(graph, 40)

            async def be_silent() -> None:
                proxy.deafen(new=False)

            began = time.monotonic()
            await progress.disturb((60,), be_silent)
            results = await running
            assert await values_of(saver, at("t0")) is not None
            assert time.monotonic() - began < 60
            proxy.cut()  # the pool's, before what is left of them is asked
            await verify(graph, names, results)

    @pytest.mark.parametrize("how", ["silent", "refused"])
    async def test_out_of_time_it_says_how_long_it_tried(
        self, dsn: str, proxy: Proxy, conn: psycopg.Connection, how: str
    ) -> None:
        async with open_postgres_saver(dsn, retry_for_s=1.0) as saver:
            saved = await put(saver, at("t"), {"n": [0]})
            assert await values_of(saver, at("t")) == {"n": [0]}
            before = everything(conn)
            if how == "silent":
                proxy.deafen()
            else:
                proxy.refuse()
            began = time.monotonic()
            answers = await asyncio.gather(
                put(saver, saved, {"n": [1]}),
                saver.aput_writes(saved, [("n", [1])], "task"),
                values_of(saver, at("t")),
                values_of(saver, saved),
                return_exceptions=True,
            )
            took_s = time.monotonic() - began
            for answer in answers:
                assert isinstance(answer, SaverUnavailableError)
                assert 1.0 <= answer.tried_for_s < 15.0
                assert f"after {answer.tried_for_s:.1f} s" in str(answer)
                assert "POSTGRES_RETRY_FOR" in str(answer)
            assert took_s < 20
            proxy.cut()
            proxy.accept()
            proxy.hear()
            # and it goes on as if nothing had been
            await until(lambda: _works(saver))
            assert everything(conn, thread="t")["checkpoints"] == before["checkpoints"]

    async def test_closing_while_the_server_is_away_takes_no_longer_than_a_save_may(
        self, dsn: str, proxy: Proxy
    ) -> None:
        async with open_postgres_saver(dsn, retry_for_s=1.0) as saver:
            await put(saver, at("t"), {"n": [0]})
            proxy.refuse()
            saves = [asyncio.create_task(put(saver, at(str(n)), {"n": [n]})) for n in range(20)]
            await asyncio.sleep(0)
            began = time.monotonic()
        assert time.monotonic() - began < 20
        answers = await asyncio.gather(*saves, return_exceptions=True)
        assert {type(answer) for answer in answers} == {SaverUnavailableError}


async def _list(saver: PooledPostgresSaver, thread: str) -> list[Any]:
    return [found.checkpoint["channel_values"] async for found in saver.alist(at(thread))]


async def _works(saver: PooledPostgresSaver) -> bool:
    try:
        await put(saver, at("again"), {"n": [1]})
    except SaverUnavailableError:
        return False
    return await values_of(saver, at("again")) == {"n": [1]}
