"""A thread that was taken over: its stale writer changes nothing, and nobody else is held up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from prometheus_client import REGISTRY

from checkpointer import PooledPostgresSaver, SaverUnavailableError, open_postgres_saver
from checkpointer.errors import StaleWriterError
from checkpointer.postgres.fence import acquire
from tests.checkpoints import at, checkpoint, everything, put, retries, values_of
from tests.graphs import Gates, chain
from tests.locks import table_locked, writers_wait
from tests.waiting import until


@pytest.fixture
async def saver(postgres_dsn: str) -> AsyncIterator[PooledPostgresSaver]:
    async with open_postgres_saver(postgres_dsn) as opened:
        yield opened


async def take_over(dsn: str, thread: str) -> int:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        return await acquire(conn, thread)


def fenced_so_far() -> float:
    return REGISTRY.get_sample_value("checkpointer_fenced_writes_total") or 0.0


async def test_epochs_begin_at_one_and_rise(postgres_dsn: str) -> None:
    assert [await take_over(postgres_dsn, "t") for _ in range(3)] == [1, 2, 3]
    assert await take_over(postgres_dsn, "other") == 1


async def test_twenty_at_once_get_distinct_epochs(postgres_dsn: str) -> None:
    epochs = await asyncio.gather(*(take_over(postgres_dsn, "t") for _ in range(20)))
    assert sorted(epochs) == list(range(1, 21))


async def test_acquire_takes_part_in_the_callers_transaction(postgres_dsn: str, saver: PooledPostgresSaver) -> None:
    epoch = await take_over(postgres_dsn, "t")
    async with await psycopg.AsyncConnection.connect(postgres_dsn) as conn:
        assert await acquire(conn, "t") == epoch + 1
        await conn.rollback()
    await put(saver, at("t", epoch=epoch), {"a": 1})
    assert await take_over(postgres_dsn, "t") == epoch + 1


async def test_a_current_writer_saves_and_loads(postgres_dsn: str, saver: PooledPostgresSaver) -> None:
    epoch = await take_over(postgres_dsn, "t")
    saved = await put(saver, at("t", epoch=epoch), {"a": [1]})
    await saver.aput_writes(at("t", saved["configurable"]["checkpoint_id"], epoch=epoch), [("a", [2])], "task")
    found = await saver.aget_tuple(at("t", epoch=epoch))
    assert found is not None
    assert found.checkpoint["channel_values"] == {"a": [1]}
    assert found.pending_writes == [("task", "a", [2])]
    assert "__fence_epoch" not in found.metadata


async def test_a_stale_writer_changes_nothing(
    postgres_dsn: str, saver: PooledPostgresSaver, conn: psycopg.Connection
) -> None:
    old = await take_over(postgres_dsn, "t")
    saved = await put(saver, at("t", epoch=old), {"a": [1]})
    new = await take_over(postgres_dsn, "t")
    before, counted = everything(conn), fenced_so_far()
    place = saved["configurable"]["checkpoint_id"]
    for stale in (
        put(saver, at("t", epoch=old), {"a": [2], "b": 3}),
        put(saver, at("t", ns="child:1", epoch=old), {"a": [2]}),
        saver.aput_writes(at("t", place, epoch=old), [("a", [2]), ("__error__", "x")], "task"),
        put(saver, at("t", epoch=new + 1), {"a": [2]}),  # an epoch nobody has
        put(saver, at("never fenced", epoch=1), {"a": [2]}),
    ):
        with pytest.raises(StaleWriterError, match="taken over") as caught:
            await stale
        assert caught.value.thread_id in ("t", "never fenced")
    assert everything(conn) == before
    assert fenced_so_far() == counted + 5
    await put(saver, at("t", epoch=new), {"a": [3]})
    assert await values_of(saver, at("t")) == {"a": [3]}


async def test_a_writer_without_an_epoch_is_not_fenced(postgres_dsn: str, saver: PooledPostgresSaver) -> None:
    await take_over(postgres_dsn, "t")
    await put(saver, at("t"), {"a": 1})
    assert await values_of(saver, at("t")) == {"a": 1}


async def test_stale_and_current_in_the_same_batch(
    postgres_dsn: str, saver: PooledPostgresSaver, conn: psycopg.Connection
) -> None:
    epochs = {str(number): await take_over(postgres_dsn, str(number)) for number in range(40)}
    for number in range(0, 40, 2):
        await take_over(postgres_dsn, str(number))
    answers = await asyncio.gather(
        *(put(saver, at(name, epoch=epoch), {"n": [name]}) for name, epoch in epochs.items()),
        *(put(saver, at(f"unfenced {number}"), {"n": [number]}) for number in range(40)),
        return_exceptions=True,
    )
    assert [isinstance(answer, StaleWriterError) for answer in answers] == [True, False] * 20 + [False] * 40
    threads = {row[0] for rows in everything(conn).values() for row in rows}
    assert threads == {*(str(n) for n in range(1, 40, 2)), *(f"unfenced {n}" for n in range(40))}


async def test_stale_and_current_of_one_thread_in_the_same_moment(
    postgres_dsn: str, saver: PooledPostgresSaver
) -> None:
    """Under one key even: what the stale one carries must not take the current one's place or pull it down."""
    old = await take_over(postgres_dsn, "t")
    new = await take_over(postgres_dsn, "t")
    writes = at("t", "1", epoch=new), at("t", "1", epoch=old)
    answers = await asyncio.gather(
        *(
            saver.aput_writes(writes[number % 2], [("__error__", f"{number % 2}"), ("a", f"{number % 2}")], "task")
            for number in range(40)
        ),
        return_exceptions=True,
    )
    assert [isinstance(answer, StaleWriterError) for answer in answers] == [False, True] * 20
    await put(saver, at("t", epoch=new), {"a": 0})
    async with await psycopg.AsyncConnection.connect(postgres_dsn) as conn:
        cursor = await conn.execute("SELECT blob FROM workflow_checkpoints.checkpoint_writes")
        assert {bytes(row[0]) for row in await cursor.fetchall()} == {saver.serde.dumps_typed("0")[1]}


@pytest.mark.parametrize("first", ["stale", "current"])
async def test_a_key_that_stale_and_current_have_in_common_is_the_current_ones(
    postgres_dsn: str, saver: PooledPostgresSaver, conn: psycopg.Connection, first: str
) -> None:
    old = await take_over(postgres_dsn, "t")
    new = await take_over(postgres_dsn, "t")
    async with table_locked(postgres_dsn):
        tasks = [asyncio.create_task(put(saver, at(f"holder {n}"), {"n": n})) for n in range(2)]
        await writers_wait(postgres_dsn)
        for epoch, value in ((old, "stale"), (new, "current"))[:: 1 if first == "stale" else -1]:
            write = saver.aput_writes(at("t", "1", epoch=epoch), [("a", value), ("__error__", value)], "task")
            tasks.append(asyncio.create_task(write))  # type: ignore[arg-type]
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(answer) for answer in answers if isinstance(answer, BaseException)] == [StaleWriterError]
    rows = conn.execute("SELECT blob FROM workflow_checkpoints.checkpoint_writes").fetchall()
    assert rows == [(saver.serde.dumps_typed("current")[1],)] * 2


@pytest.mark.parametrize("commits", [True, False])
async def test_a_write_that_meets_an_open_takeover_waits_for_it(
    postgres_dsn: str, saver: PooledPostgresSaver, conn: psycopg.Connection, commits: bool
) -> None:
    old = await take_over(postgres_dsn, "t")
    await put(saver, at("t", epoch=old), {"a": [1]})
    before, waited = everything(conn), retries()
    async with await psycopg.AsyncConnection.connect(postgres_dsn) as taker:
        await acquire(taker, "t")
        late = asyncio.create_task(put(saver, at("t", epoch=old), {"a": [2]}))
        await until(lambda: retries() > waited + 1, what="the write met the takeover")
        # meanwhile nobody else is held up, by the same writers
        async with asyncio.timeout(20):
            await asyncio.gather(*(put(saver, at(f"n{number}"), {"n": number}) for number in range(50)))
            epoch = await take_over(postgres_dsn, "neighbour")
            await put(saver, at("neighbour", epoch=epoch), {"n": 1})
        assert not late.done()
        assert everything(conn, thread="t") == {
            table: [row for row in rows if row[0] == "t"] for table, rows in before.items()
        }
        if commits:
            await taker.commit()
        else:
            await taker.rollback()
    if commits:
        with pytest.raises(StaleWriterError):
            await late
        assert await values_of(saver, at("t")) == {"a": [1]}
    else:
        await late
        assert await values_of(saver, at("t")) == {"a": [2]}


async def test_a_takeover_waits_for_a_write_that_is_committing(
    postgres_dsn: str, saver: PooledPostgresSaver, conn: psycopg.Connection
) -> None:
    epoch = await take_over(postgres_dsn, "t")
    async with await psycopg.AsyncConnection.connect(postgres_dsn) as blocker:
        # an uncommitted row under the same key: the write has checked its fence and waits at the insert
        await blocker.execute(
            "INSERT INTO workflow_checkpoints.checkpoints (thread_id, checkpoint_id, checkpoint)"
            " VALUES ('t', '1', '{}')"
        )
        made = checkpoint({"a": [1]}, checkpoint_id="1")
        write = asyncio.create_task(saver.aput(at("t", epoch=epoch), made, {}, dict(made["channel_versions"])))

        def waiting(number: int) -> bool:
            query = (
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            )
            row = conn.execute(query).fetchone()
            return row is not None and bool(row[0] >= number)

        await until(lambda: waiting(1))
        takeover = asyncio.create_task(take_over(postgres_dsn, "t"))
        await until(lambda: waiting(2))
        assert not takeover.done()
        await blocker.rollback()
    await write
    assert await takeover == epoch + 1
    assert await values_of(saver, at("t")) == {"a": [1]}


async def test_a_takeover_that_never_ends_is_named(postgres_dsn: str) -> None:
    async with open_postgres_saver(postgres_dsn, retry_for_s=0.3) as saver:
        epoch = await take_over(postgres_dsn, "t")
        async with await psycopg.AsyncConnection.connect(postgres_dsn) as taker:
            await acquire(taker, "t")
            with pytest.raises(SaverUnavailableError, match="taking the thread over") as caught:
                await put(saver, at("t", epoch=epoch), {"a": 1})
            assert 0.3 <= caught.value.tried_for_s < 20  # by default it would be 30


class TestDelete:
    async def test_is_final_for_a_fenced_writer(
        self, postgres_dsn: str, saver: PooledPostgresSaver, conn: psycopg.Connection
    ) -> None:
        epoch = await take_over(postgres_dsn, "t")
        saved = await put(saver, at("t", epoch=epoch), {"a": [1]})
        await saver.adelete_thread("t")
        with pytest.raises(StaleWriterError):
            await put(saver, at("t", epoch=epoch), {"a": [2]})
        place = at("t", saved["configurable"]["checkpoint_id"], epoch=epoch)
        with pytest.raises(StaleWriterError):
            await saver.aput_writes(place, [("a", [2])], "task")
        assert not any(everything(conn).values())

    async def test_the_id_can_be_used_anew(self, postgres_dsn: str, saver: PooledPostgresSaver) -> None:
        old = await take_over(postgres_dsn, "t")
        await saver.adelete_thread("t")
        new = await take_over(postgres_dsn, "t")
        assert new > old
        await put(saver, at("t", epoch=new), {"a": [3]})
        with pytest.raises(StaleWriterError):
            await put(saver, at("t", epoch=old), {"a": [2]})
        assert await values_of(saver, at("t")) == {"a": [3]}
        await saver.adelete_thread("t")
        await put(saver, at("t"), {"a": 4})  # without a fence, too
        assert await values_of(saver, at("t")) == {"a": 4}

    async def test_beside_live_saves_leaves_all_or_nothing(
        self, postgres_dsn: str, saver: PooledPostgresSaver, conn: psycopg.Connection
    ) -> None:
        for round_number in range(10):
            name = f"t{round_number}"
            epoch = await take_over(postgres_dsn, name)
            saves = [asyncio.create_task(put(saver, at(name, epoch=epoch), {"a": [n]})) for n in range(20)]
            await saver.adelete_thread(name)
            answers = await asyncio.gather(*saves, return_exceptions=True)
            assert {type(answer) for answer in answers if isinstance(answer, BaseException)} <= {StaleWriterError}
            assert not any(everything(conn, thread=name).values())


async def test_a_graph_that_was_taken_over_stops(
    postgres_dsn: str, saver: PooledPostgresSaver, conn: psycopg.Connection
) -> None:
    """LangGraph carries the epoch along, from the config of the call to every save."""
    gates = Gates()
    gates.open("one")
    graph: Any = chain(gates=gates).compile(checkpointer=saver)
    old = await take_over(postgres_dsn, "t")
    first = asyncio.create_task(graph.ainvoke({"text": "x"}, at("t", epoch=old), durability="sync"))
    await until(lambda: "two" in gates.reached)
    new = await take_over(postgres_dsn, "t")
    before = everything(conn)
    gates.open("two", "three")
    with pytest.raises(StaleWriterError):
        await first
    assert everything(conn) == before
    done = await graph.ainvoke(None, at("t", epoch=new), durability="sync")
    assert done["trace"] == ["one", "two", "three"]
