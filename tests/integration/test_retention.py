"""Forgetting: what stays loads exactly as before, what nobody refers to is gone, other threads are untouched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import psycopg
import pytest
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.types import Command

from checkpointer import PooledPostgresSaver, open_postgres_saver
from checkpointer.serde import Cipher
from tests.checkpoints import at, everything, history, put, values_of
from tests.stateful import GRAPHS, run
from tests.waiting import until

KEYS = Cipher([("one", bytes(range(32)))])


@pytest.fixture
async def saver(postgres_dsn: str) -> AsyncIterator[PooledPostgresSaver]:
    async with open_postgres_saver(postgres_dsn) as opened:
        yield opened


def key(found: CheckpointTuple) -> tuple[str, str]:
    ids = found.config["configurable"]
    return ids["checkpoint_ns"], ids["checkpoint_id"]


def content(found: CheckpointTuple) -> tuple[Any, ...]:
    """All of a tuple but its parent, which may be gone."""
    return found.config, found.checkpoint, found.metadata, found.pending_writes


async def states(graph: Any, found: Sequence[CheckpointTuple]) -> dict[tuple[str, str], Any]:
    """What the graph makes of each checkpoint of its own: values, next nodes, tasks and interrupts."""
    result = {}
    for one in found:
        if one.config["configurable"]["checkpoint_ns"] == "":
            state = await graph.aget_state(one.config)
            result[key(one)] = (state.values, state.next, state.metadata, state.tasks, state.interrupts)
    return result


def unreferenced(conn: psycopg.Connection) -> list[Any]:
    """Values that no checkpoint refers to, and writes under no checkpoint."""
    return conn.execute(
        """
        SELECT thread_id, checkpoint_ns, channel, version FROM workflow_checkpoints.checkpoint_blobs b
         WHERE NOT EXISTS (
               SELECT FROM workflow_checkpoints.checkpoints c
                WHERE c.thread_id = b.thread_id AND c.checkpoint_ns = b.checkpoint_ns
                  AND c.checkpoint -> 'channel_versions' ->> b.channel = b.version)
        UNION ALL
        SELECT thread_id, checkpoint_ns, checkpoint_id, task_id FROM workflow_checkpoints.checkpoint_writes w
         WHERE NOT EXISTS (
               SELECT FROM workflow_checkpoints.checkpoints c
                WHERE c.thread_id = w.thread_id AND c.checkpoint_ns = w.checkpoint_ns
                  AND c.checkpoint_id = w.checkpoint_id)
        """
    ).fetchall()


@pytest.mark.parametrize("kind", GRAPHS)
@pytest.mark.parametrize("keep_last", [1, 4])
async def test_what_stays_loads_as_before(
    saver: PooledPostgresSaver, conn: psycopg.Connection, kind: str, keep_last: int
) -> None:
    graph = await run(saver, kind, "t", times=5)
    await run(saver, kind, "other", times=2)
    before = await history(saver, "t")
    states_before, others = await states(graph, before), everything(conn, thread="other")

    if keep_last == 1:
        await saver.aprune(["t"])
    else:
        await saver.aprune(["t"], strategy="keep_last", keep_last=keep_last)

    after = await history(saver, "t")
    by_key = {key(one): content(one) for one in before}
    assert len(after) < len(before)
    assert {key(one): content(one) for one in after} == {key(one): by_key[key(one)] for one in after}
    assert await states(graph, after) == {
        place: state for place, state in states_before.items() if place in map(key, after)
    }
    root = [key(one) for one in before if key(one)[0] == ""]
    assert set(root[:keep_last]) <= set(map(key, after))
    if kind != "delta":
        assert [key(one) for one in after if key(one)[0] == ""] == root[:keep_last]
    assert unreferenced(conn) == []
    assert everything(conn, thread="other") == others
    # and the thread goes on
    command: Any = Command(resume="yes") if kind == "sending" else {"number": 9}
    await graph.ainvoke(command, at("t"), durability="sync")
    if kind == "delta":
        state = await graph.aget_state(at("t"))
        expected = [f"often {number}" for number in [*range(5), 9]]
        assert state.values["often"] == expected


async def test_pruning_again_changes_nothing(saver: PooledPostgresSaver, conn: psycopg.Connection) -> None:
    for kind in GRAPHS:
        await run(saver, kind, kind)
    await saver.aprune(list(GRAPHS))
    once = everything(conn)
    await saver.aprune(list(GRAPHS))
    assert everything(conn) == once


@pytest.mark.parametrize("kind", GRAPHS)
async def test_delete(saver: PooledPostgresSaver, conn: psycopg.Connection, kind: str) -> None:
    await run(saver, kind, "other")
    others = everything(conn)
    for strategy in ("delete thread", "prune"):
        await run(saver, kind, "t")
        if strategy == "prune":
            await saver.aprune(["t", "no such thread"], strategy="delete")
        else:
            await saver.adelete_thread("t")
        assert everything(conn) == others


async def test_finished_calls_of_a_subgraph_go_with_their_root(saver: PooledPostgresSaver) -> None:
    await run(saver, "nested", "t", times=4)
    calls = {key(one)[0] for one in await history(saver, "t")} - {""}
    assert len(calls) == 4
    await saver.aprune(["t"])
    # the last call began from a root checkpoint that is no longer the latest
    assert {key(one)[0] for one in await history(saver, "t")} == {""}


async def test_a_subgraphs_own_memory_stays(saver: PooledPostgresSaver) -> None:
    graph = await run(saver, "nested with its own memory", "t", times=4)
    namespaces = {key(one)[0] for one in await history(saver, "t")}
    await saver.aprune(["t"])
    assert {key(one)[0] for one in await history(saver, "t")} == namespaces
    await graph.ainvoke({"number": 0}, at("t"))
    [inner] = namespaces - {""}
    kept = await values_of(saver, at("t", ns=inner))
    assert kept is not None
    assert len(kept["messages"]) > 3


async def test_prune_refuses_what_it_does_not_know(saver: PooledPostgresSaver, conn: psycopg.Connection) -> None:
    await run(saver, "talking", "t")
    before = everything(conn)
    calls: list[dict[str, Any]] = [
        {"strategy": "keep_last"},
        {"strategy": "keep_last", "keep_last": 0},
        {"strategy": "keep_last", "keep_last": -1},
        {"strategy": "keep_latest", "keep_last": 3},
        {"strategy": "everything"},
        {"strategy": "delete", "keep_last": 1},
    ]
    for arguments in calls:
        with pytest.raises(ValueError, match="keep_last"):
            await saver.aprune(["t"], **arguments)
    with pytest.raises(TypeError, match="sequence"):
        await saver.aprune("t")
    assert everything(conn) == before


class TestDeleteForRuns:
    @pytest.mark.parametrize("kind", GRAPHS)
    async def test_only_that_runs_checkpoints_go(
        self, saver: PooledPostgresSaver, conn: psycopg.Connection, kind: str
    ) -> None:
        graph = GRAPHS[kind].compile(checkpointer=saver)
        for thread in ("t", "other"):
            for name in ("first", "second"):
                config: Any = {**at(thread), "metadata": {"run_id": f"{name} {thread}"}}
                await graph.ainvoke({"number": 1}, config, durability="sync")
        before, others = await history(saver, "t"), everything(conn, thread="other")
        states_before = await states(graph, before)
        await saver.adelete_for_runs(["first t", "no such run"])
        after = await history(saver, "t")
        gone = {key(one) for one in before} - {key(one) for one in after}
        assert all(one.metadata["run_id"] == "first t" for one in before if key(one) in gone)
        if kind != "delta":
            assert {one.metadata["run_id"] for one in after} == {"second t"}
        assert gone
        assert await states(graph, after) == {
            place: state for place, state in states_before.items() if place not in gone
        }
        assert unreferenced(conn) == []
        assert everything(conn, thread="other") == others


class TestCopy:
    @pytest.mark.parametrize("kind", GRAPHS)
    @pytest.mark.parametrize("cipher", [None, KEYS], ids=["clear", "encrypted"])
    async def test_a_copy_is_the_same_and_a_thread_of_its_own(
        self, postgres_dsn: str, conn: psycopg.Connection, kind: str, cipher: Cipher | None
    ) -> None:
        async with open_postgres_saver(postgres_dsn, cipher=cipher) as saver:
            graph = await run(saver, kind, "t")
            await run(saver, kind, "other")
            before = everything(conn)
            await saver.acopy_thread("t", "copy")
            now = everything(conn)
            assert {table: [row for row in rows if row[0] != "copy"] for table, rows in now.items()} == before
            source, copy = await history(saver, "t"), await history(saver, "copy")
            assert [(key(one), one.checkpoint, one.metadata, one.pending_writes) for one in copy] == [
                (key(one), one.checkpoint, one.metadata, one.pending_writes) for one in source
            ]
            assert [(one.parent_config or at(""))["configurable"].get("checkpoint_id") for one in copy] == [
                (one.parent_config or at(""))["configurable"].get("checkpoint_id") for one in source
            ]
            original = await graph.aget_state(at("t"))
            await saver.adelete_thread("t")
            copied = await graph.aget_state(at("copy"))
            assert (copied.values, copied.next) == (original.values, original.next)
            command: Any = Command(resume="yes") if kind == "sending" else {"number": 9}
            await graph.ainvoke(command, at("copy"), durability="sync")

    @pytest.mark.parametrize("cipher", [None, KEYS], ids=["clear", "encrypted"])
    async def test_onto_itself_and_onto_an_older_copy(
        self, postgres_dsn: str, conn: psycopg.Connection, cipher: Cipher | None
    ) -> None:
        async with open_postgres_saver(postgres_dsn, cipher=cipher) as saver:
            await run(saver, "sending", "t")
            await saver.acopy_thread("t", "copy")
            await run(saver, "sending", "t", times=1)
            for target in ("t", "copy"):
                await saver.acopy_thread("t", target)
                source, copy = await history(saver, "t"), await history(saver, target)
                assert [(one.checkpoint, one.pending_writes) for one in copy] == [
                    (one.checkpoint, one.pending_writes) for one in source
                ]

    async def test_of_nothing(self, saver: PooledPostgresSaver, conn: psycopg.Connection) -> None:
        await saver.acopy_thread("no such thread", "copy")
        assert not any(everything(conn).values())


class TestBesideLiveSaves:
    @pytest.mark.parametrize("kind", ["talking", "delta"])
    async def test_pruning_the_thread_that_runs(
        self, saver: PooledPostgresSaver, conn: psycopg.Connection, kind: str
    ) -> None:
        """Every run ends with the right state, however often its thread is pruned meanwhile."""
        graph = GRAPHS[kind].compile(checkpointer=saver)
        running = True
        pruned = 0

        async def prune() -> None:
            nonlocal pruned
            while running:
                await saver.aprune(["t", "u"])
                pruned += 1

        async def pruned_after(times: int) -> None:
            await until(lambda: pruned > times)

        async def use(thread: str) -> Any:
            for number in range(12):
                await pruned_after(number // 3)
                await graph.ainvoke({"number": number}, at(thread), durability="sync")
            return (await graph.aget_state(at(thread))).values

        pruning = asyncio.create_task(prune())
        try:
            found = await asyncio.gather(use("t"), use("u"))
        finally:
            running = False
            await pruning
        if kind == "delta":
            expected = [f"often {number}" for number in range(12)]
            assert [state["often"] for state in found] == [expected, expected]
            assert [len(state["sometimes"]) for state in found] == [12, 12]
        else:
            ids = [
                f"{name} {number + place}"
                for number in range(12)
                for place, name in enumerate(("one", "two", "three"), 1)
            ]
            assert [[message.id for message in state["messages"]] for state in found] == [[*dict.fromkeys(ids)]] * 2
        await saver.aprune(["t", "u"])
        if kind == "talking":
            assert unreferenced(conn) == []
            assert len(await history(saver, "t")) == 1

    async def test_saves_of_one_thread_while_it_is_pruned(
        self, saver: PooledPostgresSaver, conn: psycopg.Connection
    ) -> None:
        config = at("t")
        for number in range(100):
            config, _ = await asyncio.gather(put(saver, config, {"a": [number], "b": number}), saver.aprune(["t"]))
            assert await values_of(saver, config) == {"a": [number], "b": number}
        await saver.aprune(["t"])
        assert unreferenced(conn) == []
        assert len(await history(saver, "t")) == 1
