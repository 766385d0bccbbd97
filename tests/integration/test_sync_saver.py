"""The saver for code without an event loop, from many threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.graph import START, StateGraph
from langgraph.types import Command

from checkpointer import CheckpointerSettings, PooledPostgresSaver, open_postgres_saver, open_saver_sync
from checkpointer.errors import UnsavableError
from tests.checkpoints import at, everything
from tests.graphs import State, asking


def steps() -> Any:
    """Five plain functions in a row."""
    names = ("one", "two", "three", "four", "five")

    def step(name: str) -> Any:
        return lambda state: {"trace": [f"{name} of {state['text']}"]}

    builder = StateGraph(State).add_sequence([(name, step(name)) for name in names])
    return builder.add_edge(START, "one")


def test_invoke_from_fifty_threads(checkpointer_settings: CheckpointerSettings) -> None:
    with open_saver_sync(checkpointer_settings) as saver, ThreadPoolExecutor(50) as pool:
        assert isinstance(saver, PooledPostgresSaver)
        graph = steps().compile(checkpointer=saver)

        def run(number: int) -> list[str]:
            done = graph.invoke({"text": str(number)}, at(f"t{number}"), durability="sync")
            return list(done["trace"])

        names = ("one", "two", "three", "four", "five")
        expected = [[f"{name} of {number}" for name in names] for number in range(50)]
        assert list(pool.map(run, range(50))) == expected
        for number in range(50):
            states = list(graph.get_state_history(at(f"t{number}")))
            assert [len(state.values.get("trace", [])) for state in states] == [5, 4, 3, 2, 1, 0, 0]
            assert [state.values["trace"] for state in states[:6]] == [
                expected[number][:count] for count in range(5, -1, -1)
            ]


def test_interrupt_resume_and_stream(checkpointer_settings: CheckpointerSettings) -> None:
    with open_saver_sync(checkpointer_settings) as saver:
        graph: Any = asking().compile(checkpointer=saver)
        assert "__interrupt__" in graph.invoke({"text": "x"}, at("t"))
        assert list(graph.stream(Command(resume="yes"), at("t"))) == [{"ask": {"trace": ["yes"]}}]
        assert graph.get_state(at("t")).values["trace"] == ["yes"]


def test_every_method(checkpointer_settings: CheckpointerSettings, conn: psycopg.Connection) -> None:
    with open_saver_sync(checkpointer_settings) as saver:
        config: Any = at("t")
        ids = []
        for number in range(3):
            made = empty_checkpoint()
            made["channel_values"] = {"n": number}
            made["channel_versions"] = {"n": str(number)}
            about: Any = {"step": number, "run_id": f"r{number}"}
            config = saver.put(config, made, about, {"n": str(number)})
            saver.put_writes(config, [("n", [number])], "task", "path")
            ids.append(made["id"])
        found = saver.get_tuple(at("t"))
        assert found is not None
        assert (found.checkpoint["id"], found.pending_writes) == (ids[2], [("task", "n", [2])])
        first = saver.get(at("t", ids[0]))
        assert first is not None
        assert first["channel_values"] == {"n": 0}
        assert saver.get_tuple(at("no such thread")) is None
        assert [one.checkpoint["id"] for one in saver.list(at("t"), limit=2)] == ids[:0:-1]
        assert [one.checkpoint["id"] for one in saver.list(at("t"), before=at("t", ids[1]))] == ids[:1]
        assert [one.checkpoint["id"] for one in saver.list(at("t"), filter={"step": 1})] == [ids[1]]
        assert next(iter(saver.list(None))).checkpoint["id"] == ids[2]  # and is left unfinished
        walked = saver.get_delta_channel_history(config=at("t"), channels=["n"])
        assert walked["n"]["seed"] == 1
        saver.copy_thread("t", "copy")
        assert len(list(saver.list(at("copy")))) == 3
        saver.delete_for_runs(["r0"])
        assert len(list(saver.list(at("t")))) == 2
        saver.prune(["t"])
        assert [one.checkpoint["id"] for one in saver.list(at("t"))] == [ids[2]]
        assert isinstance(saver, PooledPostgresSaver)
        saver.prune(["copy"], strategy="keep_last", keep_last=1)
        saver.delete_thread("t")
        saver.delete_thread("copy")
        assert not any(everything(conn).values())


async def test_from_the_loops_own_thread_it_raises_and_does_not_hang(postgres_dsn: str) -> None:
    """Each synchronous method would wait for the loop that it blocks."""
    made = empty_checkpoint()
    async with open_postgres_saver(postgres_dsn) as saver:
        calls: dict[str, Callable[[], Any]] = {
            "get_tuple": lambda: saver.get_tuple(at("t")),
            "get": lambda: saver.get(at("t")),
            "list": lambda: list(saver.list(at("t"))),
            "delete_thread": lambda: saver.delete_thread("t"),
            "delete_for_runs": lambda: saver.delete_for_runs(["r"]),
            "copy_thread": lambda: saver.copy_thread("t", "u"),
            "prune": lambda: saver.prune(["t"]),
            "get_delta_channel_history": lambda: saver.get_delta_channel_history(config=at("t"), channels=["a"]),
            "put": lambda: saver.put(at("t"), made, {}, {}),
            "put_writes": lambda: saver.put_writes(at("t", "1"), [("a", 1)], "task"),
        }
        for call in calls.values():
            with pytest.raises(asyncio.InvalidStateError, match="await"):
                call()
        # from another thread, on the same saver, all is well
        await asyncio.to_thread(saver.put, at("t"), made, {}, {})
        assert await asyncio.to_thread(saver.get, at("t")) == made


def test_errors_reach_the_caller(checkpointer_settings: CheckpointerSettings) -> None:
    with open_saver_sync(checkpointer_settings) as saver:
        with pytest.raises(UnsavableError, match="NUL"):
            saver.put(at("a\x00"), empty_checkpoint(), {}, {})
        assert saver.get_tuple(at("a")) is None
