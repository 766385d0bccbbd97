"""LangGraph's own AsyncPostgresSaver and ours on the same rows: each reads and continues what the other wrote."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg
import pytest
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.serde.types import TASKS
from langgraph.types import Command
from psycopg.rows import dict_row

from checkpointer import PooledPostgresSaver, open_postgres_saver
from checkpointer.serde import CompressedSerializer
from tests.checkpoints import at, everything, history, put
from tests.stateful import GRAPHS, run, sending

Saver = AsyncPostgresSaver


@pytest.fixture
async def ours(postgres_dsn: str) -> AsyncIterator[PooledPostgresSaver]:
    async with open_postgres_saver(postgres_dsn, serde=CompressedSerializer(threshold=64)) as saver:
        yield saver


@pytest.fixture
async def stock(postgres_dsn: str) -> AsyncIterator[Saver]:
    async with await psycopg.AsyncConnection.connect(
        postgres_dsn,
        autocommit=True,
        prepare_threshold=0,
        row_factory=dict_row,
        options="-c search_path=workflow_checkpoints",
    ) as conn:
        yield AsyncPostgresSaver(conn, serde=CompressedSerializer(threshold=64))


async def answers(saver: Saver, thread: str) -> dict[str, Any]:
    """What a saver says of a thread, asked in every way."""
    found = await history(saver, thread)
    channels = sorted({name for one in found for name in one.checkpoint["channel_versions"]})
    result: dict[str, Any] = {"list": found, "latest": await saver.aget_tuple(at(thread))}
    result["by id"] = [await saver.aget_tuple(one.config) for one in found]
    result["deltas"] = [
        await saver.aget_delta_channel_history(config=one.config, channels=channels) for one in [*found, *found[:1]]
    ]
    result["latest delta"] = await saver.aget_delta_channel_history(config=at(thread), channels=channels)
    result["no delta"] = await saver.aget_delta_channel_history(config=at(thread), channels=["no such channel"])
    for source in ("input", "loop", "fork"):
        result[source] = [one async for one in saver.alist(at(thread), filter={"source": source})]
    middle = found[len(found) // 2].config
    for limit in (None, 1, 3):
        result[f"before {limit}"] = [one async for one in saver.alist(at(thread), before=middle, limit=limit)]
    result["nothing before"] = [one async for one in saver.alist(at(thread), before=found[-1].config)]
    return result


def in_order(found: dict[str, Any]) -> dict[str, Any]:
    """Pending writes of a checkpoint have no order of their own beyond each task's."""
    for ones in found.values():
        for one in ones if isinstance(ones, list) else [ones]:
            if hasattr(one, "pending_writes"):
                one.pending_writes.sort(key=repr)
    return found


@pytest.mark.parametrize("kind", GRAPHS)
async def test_both_say_the_same_of_the_same_rows(
    ours: PooledPostgresSaver, stock: Saver, conn: psycopg.Connection, kind: str
) -> None:
    writers: dict[str, Saver] = {"ours": ours, "stock": stock}
    for name, writer in writers.items():
        graph = await run(writer, kind, name)
        past = (await history(writer, name, ns=""))[2].config
        await graph.aupdate_state(past, {"number": 100})  # a fork
        before = everything(conn)
        mine, theirs = in_order(await answers(ours, name)), in_order(await answers(stock, name))
        for question, answer in theirs.items():
            assert mine[question] == answer, (name, question)
        assert everything(conn) == before
    # each thread has the same shape, whoever wrote it
    shapes = [
        [
            (one.metadata["step"], sorted(one.checkpoint["channel_values"]), len(one.pending_writes or []))
            for one in found
        ]
        for found in [await history(ours, name, ns="") for name in writers]
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("kind", GRAPHS)
async def test_each_continues_the_others_thread(ours: PooledPostgresSaver, stock: Saver, kind: str) -> None:
    """Turn by turn on one thread; the state is what one saver alone would have."""
    savers: list[Saver] = [ours, stock]
    for turn in range(4):
        for thread, saver in (("shared", savers[turn % 2]), ("alone", ours)):
            graph = GRAPHS[kind].compile(checkpointer=saver)
            await graph.ainvoke({"number": turn}, at(thread), durability="sync")
        if kind == "sending":
            for thread, saver in (("shared", savers[(turn + 1) % 2]), ("alone", ours)):
                graph = GRAPHS[kind].compile(checkpointer=saver)
                await graph.ainvoke(Command(resume=f"answer {turn}"), at(thread), durability="sync")
    for saver in savers:
        graph = GRAPHS[kind].compile(checkpointer=saver)
        shared, alone = await graph.aget_state(at("shared")), await graph.aget_state(at("alone"))
        assert (shared.values, shared.next) == (alone.values, alone.next)


async def test_the_rows_are_the_same(ours: PooledPostgresSaver, stock: Saver, conn: psycopg.Connection) -> None:
    """Type, place and bytes of each value; keys of the JSON."""
    values = {"text": "x", "none": None, "number": 1.5, "yes": True, "list": ["x" * 100], "empty": "", "bytes": b"\x00"}
    made = empty_checkpoint()
    made["channel_values"] = values
    made["channel_versions"] = dict.fromkeys(values, "1")
    savers: list[Saver] = [ours, stock]
    for thread, saver in zip("ab", savers, strict=True):
        saved = await saver.aput(at(thread), made, {"step": 1, "source": "loop"}, dict(made["channel_versions"]))
        await saver.aput_writes(saved, [("list", [1]), ("__interrupt__", "i"), ("text", "t")], "task", "path")
    for rows in everything(conn).values():
        assert rows
        assert sorted(row[1:] for row in rows if row[0] == "a") == sorted(row[1:] for row in rows if row[0] == "b")


class TestOlderVersions:
    """Checkpoints of before version 4 keep what was sent to tasks as writes under their parent."""

    async def make(self, saver: Saver, version: int) -> Any:
        first, second = empty_checkpoint(), empty_checkpoint()
        first["v"] = second["v"] = version
        config = await saver.aput(at("t"), first, {}, {})
        await saver.aput_writes(config, [(TASKS, "send-1"), (TASKS, "send-2"), ("other", 1)], task_id="task-1")
        await saver.aput_writes(config, [(TASKS, "send-3")], task_id="task-2")
        second["channel_values"] = {"a": 1, "b": [2]}
        second["channel_versions"] = {"a": "1", "b": "2"}
        return await saver.aput(config, second, {}, {"a": "1", "b": "2"})

    @pytest.mark.parametrize("version", [1, 2, 3, 4])
    async def test_pending_sends_are_attached(self, ours: PooledPostgresSaver, stock: Saver, version: int) -> None:
        writers: list[Saver] = [ours, stock]
        for writer in writers:
            config = await self.make(writer, version)
            mine, theirs = await ours.aget_tuple(config), await stock.aget_tuple(config)
            assert mine == theirs
            assert mine is not None
            sent = {TASKS: ["send-1", "send-2", "send-3"]} if version < 4 else {}
            assert mine.checkpoint["channel_values"] == {"a": 1, "b": [2], **sent}
            assert (TASKS in mine.checkpoint["channel_versions"]) == (version < 4)
            assert await history(ours, "t") == await history(stock, "t")
            first = (await history(ours, "t"))[-1]
            assert TASKS not in first.checkpoint["channel_values"]
            await ours.adelete_thread("t")

    @pytest.mark.parametrize("version", [1, 2, 3])
    async def test_pruning_keeps_them(self, ours: PooledPostgresSaver, version: int) -> None:
        config = await self.make(ours, version)
        before = await ours.aget_tuple(config)
        config = await put(ours, config, {"a": 1})
        await ours.aprune(["t"], strategy="keep_last", keep_last=2)
        assert await ours.aget_tuple((before or (await history(ours, "t"))[0]).config) == before

    @pytest.mark.parametrize("version", [1, 2, 3])
    @pytest.mark.parametrize("writer", ["ours", "stock"])
    async def test_a_graph_of_then_goes_on(
        self, ours: PooledPostgresSaver, stock: Saver, conn: psycopg.Connection, version: int, writer: str
    ) -> None:
        """Stopped before the tasks that were sent; made into what that version would have saved; continued."""
        saver: Saver = ours if writer == "ours" else stock
        stopping = sending().compile(checkpointer=saver, interrupt_before=["work"])
        await stopping.ainvoke({"number": 0}, at("t"), durability="sync")
        conn.execute("DELETE FROM workflow_checkpoints.checkpoint_blobs WHERE channel = '__pregel_tasks'")
        conn.execute(
            """
            UPDATE workflow_checkpoints.checkpoints
               SET checkpoint = jsonb_set(checkpoint, '{v}', %s::text::jsonb) #- '{channel_versions,__pregel_tasks}'
            """,
            (version,),
        )
        graph = sending().compile(checkpointer=ours)
        state = await graph.aget_state(at("t"))
        assert state.next == ("work", "work", "work")
        await graph.ainvoke(None, at("t"), durability="sync")
        done = await graph.ainvoke(Command(resume="yes"), at("t"), durability="sync")
        assert (done["items"], done["text"]) == (["a1", "b1", "c1"], "yes")
        assert (await sending().compile(checkpointer=stock).aget_state(at("t"))).values == done


async def test_rows_as_other_versions_wrote_them(ours: PooledPostgresSaver, conn: psycopg.Connection) -> None:
    """No channel_values in the JSON, an `empty` value, a NULL blob, numbers as versions, values in `json`."""
    conn.execute(
        """
        INSERT INTO workflow_checkpoints.checkpoints (thread_id, checkpoint_id, checkpoint, metadata) VALUES ('t', '1',
        '{"v": 1, "id": "1", "ts": "2024-01-01", "channel_versions": {"a": 2, "b": 3, "c": 1.5, "d": "4"},
          "versions_seen": {}, "pending_sends": []}', '{}');
        INSERT INTO workflow_checkpoints.checkpoint_blobs (thread_id, channel, version, type, blob) VALUES
        ('t', 'a', '2', 'json', '{"x": [1]}'), ('t', 'b', '3', 'empty', NULL), ('t', 'c', '1.5', 'null', NULL),
        ('t', 'd', '4', 'bytes', NULL), ('t', 'a', '1', 'json', '"older"');
        """
    )
    found = await ours.aget_tuple(at("t"))
    assert found is not None
    assert found.checkpoint["channel_values"] == {"a": {"x": [1]}, "c": None, "d": b""}
    assert found.metadata == {}
    assert await history(ours, "t") == [found]


async def test_many_pages(ours: PooledPostgresSaver, stock: Saver) -> None:
    """More checkpoints than a page, in several threads and namespaces, some under the same id."""

    async def fill(number: int) -> None:
        config = at(f"t{number % 3}", ns="" if number % 2 else "inner")
        made = empty_checkpoint()
        made["id"] = f"{number // 4:06}"
        made["channel_values"] = {"n": number}
        made["channel_versions"] = {"n": str(number)}
        await ours.aput(config, made, {"step": number % 7}, {"n": str(number)})

    await asyncio.gather(*(fill(number) for number in range(400)))
    order: Callable[[Any], Any] = lambda one: (  # noqa: E731
        one.checkpoint["id"],
        one.config["configurable"]["thread_id"],
        one.config["configurable"]["checkpoint_ns"],
    )
    questions: list[dict[str, Any]] = [
        {"config": None},
        {"config": None, "limit": 50},
        {"config": None, "limit": 51},
        {"config": None, "limit": 0},
        {"config": None, "filter": {"step": 3}},
        {"config": {"configurable": {"thread_id": "t1"}}},
        {"config": at("t1", ns="inner")},
        {"config": at("t1"), "before": at("t1", "000050")},
        {"config": at("t1", "000050")},
        {"config": at("t2"), "filter": {"step": 3}, "before": at("t1", "000050"), "limit": 2},
    ]
    for question in questions:
        mine = [one async for one in ours.alist(**question)]
        theirs = [one async for one in stock.alist(**question)]
        assert [one.checkpoint["id"] for one in mine] == [one.checkpoint["id"] for one in theirs]
        if question.get("limit") is None:
            assert sorted(map(repr, mine)) == sorted(map(repr, theirs))
        assert len(set(map(order, mine))) == len(mine)
