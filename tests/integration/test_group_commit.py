"""Many saves in one statement: one fate each, bounds, cancelling, closing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import psycopg
import pytest
from prometheus_client import REGISTRY

from checkpointer import PooledPostgresSaver, open_postgres_saver
from checkpointer.errors import SaverClosedError, UnsavableError
from checkpointer.postgres.batching import Limits
from checkpointer.postgres.worker_connection import WorkerConnection
from checkpointer.serde import AllowListSerializer, Cipher, CompressedSerializer
from tests.checkpoints import TABLES, at, checkpoint, everything, put, values_of
from tests.locks import table_locked, writers_wait

GOOD = 200


@pytest.fixture
async def saver(postgres_dsn: str) -> AsyncIterator[PooledPostgresSaver]:
    async with open_postgres_saver(postgres_dsn) as opened:
        yield opened


def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every statement that a writer or reader sends from here on."""
    sent: list[str] = []
    real = WorkerConnection.run

    async def run(self: WorkerConnection, statement: Any, *args: Any, **kwargs: Any) -> Any:
        sent.append(str(statement))
        return await real(self, statement, *args, **kwargs)

    monkeypatch.setattr(WorkerConnection, "run", run)
    return sent


async def poison_channel(saver: PooledPostgresSaver) -> None:
    await put(saver, at("poison"), {"text": "half a pair: \ud83d"})


async def poison_surrogate_id(saver: PooledPostgresSaver) -> None:
    await put(saver, at("poison \ud83d"), {"text": "x"})


async def poison_nul_id(saver: PooledPostgresSaver) -> None:
    await put(saver, at("poi\x00son"), {"text": "x"})


async def poison_nul_namespace(saver: PooledPostgresSaver) -> None:
    await put(saver, at("poison", ns="a\x00b"), {"text": "x"})


async def poison_task(saver: PooledPostgresSaver) -> None:
    await saver.aput_writes(at("poison", "1"), [("text", "x")], "ta\x00sk")


async def poison_size(saver: PooledPostgresSaver) -> None:
    await put(saver, at("poison"), {"data": bytes(300_001)})


async def poison_write_size(saver: PooledPostgresSaver) -> None:
    await saver.aput_writes(at("poison", "1"), [("data", bytes(300_001))], "task")


async def poison_metadata(saver: PooledPostgresSaver) -> None:
    """The server refuses this one itself: jsonb takes no NUL."""
    await put(saver, at("poison"), {"text": "x"}, {"no\x00te": "x"})


async def poison_metadata_surrogate(saver: PooledPostgresSaver) -> None:
    await put(saver, at("poison"), {"text": "x"}, {"note": "\udc00"})


async def poison_metadata_object(saver: PooledPostgresSaver) -> None:
    await put(saver, at("poison"), {"text": "x"}, {"note": object()})


POISONS: list[Callable[[PooledPostgresSaver], Any]] = [
    poison_channel,
    poison_surrogate_id,
    poison_nul_id,
    poison_nul_namespace,
    poison_task,
    poison_size,
    poison_write_size,
    poison_metadata,
    poison_metadata_surrogate,
    poison_metadata_object,
]


class TestOneFateEach:
    @pytest.mark.parametrize("poison", POISONS, ids=lambda poison: poison.__name__)
    async def test_one_poison_save_among_200_good_ones(
        self,
        saver: PooledPostgresSaver,
        postgres_dsn: str,
        conn: psycopg.Connection,
        monkeypatch: pytest.MonkeyPatch,
        poison: Callable[[PooledPostgresSaver], Any],
    ) -> None:
        for module in ("serde", "postgres.codec"):
            monkeypatch.setattr(f"checkpointer.{module}.MAX_VALUE_BYTES", 300_000)
        async with table_locked(postgres_dsn):
            good = [
                asyncio.create_task(put(saver, at(f"good {number}"), {"number": number, "list": [number]}))
                for number in range(GOOD // 2)
            ]
            bad = asyncio.create_task(poison(saver))
            good += [
                asyncio.create_task(put(saver, at(f"good {number}"), {"number": number, "list": [number]}))
                for number in range(GOOD // 2, GOOD)
            ]
            await writers_wait(postgres_dsn)
        answers = await asyncio.gather(*good, return_exceptions=True)
        assert [answer for answer in answers if isinstance(answer, BaseException)] == []
        with pytest.raises(UnsavableError):
            await bad
        found = await asyncio.gather(*(values_of(saver, at(f"good {number}")) for number in range(GOOD)))
        assert found == [{"number": number, "list": [number]} for number in range(GOOD)]
        threads = {row[0] for rows in everything(conn).values() for row in rows}
        assert threads == {f"good {number}" for number in range(GOOD)}

    @pytest.mark.parametrize("mode", ["plain", "compressed", "encrypted"])
    async def test_two_gigabytes_among_200_good_ones(self, postgres_dsn: str, mode: str) -> None:
        """Refused before anything is made of them: all zeros, they take no memory until they are looked at."""
        serde = CompressedSerializer() if mode == "compressed" else AllowListSerializer()
        cipher = Cipher([("one", bytes(32))]) if mode == "encrypted" else None
        async with open_postgres_saver(postgres_dsn, serde=serde, cipher=cipher) as saver:
            bad = asyncio.create_task(put(saver, at("poison"), {"data": bytes(2 << 30)}))
            await asyncio.gather(*(put(saver, at(str(number)), {"n": [number]}) for number in range(GOOD)))
            with pytest.raises(UnsavableError, match=r"2,147,483,648 bytes.*outside the state"):
                await bad
            with pytest.raises(UnsavableError, match=r"2,147,483,648 bytes"):
                await saver.aput_writes(at("poison", "1"), [("data", bytes(2 << 30))], "task")
            found = await asyncio.gather(*(values_of(saver, at(str(number))) for number in range(GOOD)))
            assert found == [{"n": [number]} for number in range(GOOD)]

    async def test_several_poisons_in_one_batch(self, saver: PooledPostgresSaver, postgres_dsn: str) -> None:
        async with table_locked(postgres_dsn):
            tasks = [
                asyncio.create_task(put(saver, at(str(number)), {"n": number}, {"k" if number % 7 else "k\x00": 1}))
                for number in range(100)
            ]
            await writers_wait(postgres_dsn)
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        refused = [number for number, answer in enumerate(answers) if isinstance(answer, Exception)]
        assert refused == list(range(0, 100, 7))
        assert [number for number in range(100) if await values_of(saver, at(str(number))) is None] == refused

    async def test_what_every_save_would_hit_is_not_split(
        self, saver: PooledPostgresSaver, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await put(saver, at("before"), {"a": 1})
        conn.execute("ALTER TABLE workflow_checkpoints.checkpoints RENAME TO elsewhere")
        sent = statements(monkeypatch)
        answers = await asyncio.gather(*(put(saver, at(str(n)), {"n": n}) for n in range(100)), return_exceptions=True)
        assert all(isinstance(answer, Exception) for answer in answers)
        assert len(sent) <= 10

    async def test_cancelling_one_saver_of_a_batch(self, saver: PooledPostgresSaver, postgres_dsn: str) -> None:
        async with table_locked(postgres_dsn):
            tasks = [asyncio.create_task(put(saver, at(str(number)), {"n": number})) for number in range(60)]
            await writers_wait(postgres_dsn, 1)
            for task in tasks[::3]:
                task.cancel()
            gone = await asyncio.gather(*tasks[::3], return_exceptions=True)  # at once, not when the batch is done
            assert all(isinstance(answer, asyncio.CancelledError) for answer in gone)
        kept = [number for number in range(60) if number % 3]
        await asyncio.gather(*(tasks[number] for number in kept))
        assert await asyncio.gather(*(values_of(saver, at(str(n))) for n in kept)) == [{"n": n} for n in kept]

    async def test_the_same_checkpoint_twice_in_a_batch_keeps_the_last(
        self, saver: PooledPostgresSaver, postgres_dsn: str
    ) -> None:
        await put(saver, at("first"), {"a": 1})
        twice = [checkpoint({"n": number}, checkpoint_id="same") for number in range(20)]
        async with table_locked(postgres_dsn):
            holder = asyncio.create_task(put(saver, at("holder"), {"a": 1}))
            other = asyncio.create_task(put(saver, at("other holder"), {"a": 1}))
            await writers_wait(postgres_dsn)
            tasks = [
                asyncio.create_task(saver.aput(at("t"), made, {"step": step}, dict(made["channel_versions"])))
                for step, made in enumerate(twice)
            ]
        await asyncio.gather(holder, other, *tasks)
        found = await saver.aget_tuple(at("t"))
        assert found is not None
        assert found.checkpoint["channel_values"] == {"n": 19}
        assert found.metadata["step"] == 19

    async def test_the_same_write_twice(self, saver: PooledPostgresSaver, postgres_dsn: str) -> None:
        """Ordinary writes stay as first saved, special ones are replaced: one batch or two."""
        for batched in (True, False):
            config = at(f"thread {batched}", "1")
            await put(saver, at(f"thread {batched}"), {"a": 1})
            made = checkpoint({"a": 1}, checkpoint_id="1")
            await saver.aput(at(f"thread {batched}"), made, {}, dict(made["channel_versions"]))

            async def write(value: str, to: Any = config) -> None:
                await saver.aput_writes(to, [("a", value), ("__error__", value)], "task")

            if batched:
                async with table_locked(postgres_dsn):
                    both = [asyncio.create_task(put(saver, at(f"holder {n}"), {"a": 1})) for n in range(2)]
                    await writers_wait(postgres_dsn)
                    both += [asyncio.create_task(write(value)) for value in ("first", "second")]  # type: ignore[arg-type]
                await asyncio.gather(*both)
            else:
                await write("first")
                await write("second")
            found = await saver.aget_tuple(config)
            assert found is not None
            assert sorted(found.pending_writes or []) == [("task", "__error__", "second"), ("task", "a", "first")]


class TestBounds:
    async def test_the_queue_stays_within_its_bounds(self, postgres_dsn: str) -> None:
        limits = Limits(queue_items=5, queue_bytes=20_000, batch_items=3, batch_bytes=5_000)
        async with open_postgres_saver(postgres_dsn, limits=limits) as saver:
            queue: Sequence[Any] = saver._group_commit._queue
            longest = 0

            async def watched(number: int) -> None:
                nonlocal longest
                await put(saver, at(str(number)), {"n": number, "data": bytes([number % 256]) * (number * 10)})
                longest = max(longest, len(queue))

            before = batches()
            await asyncio.gather(*(watched(number) for number in range(300)))
            assert longest <= 5
            assert batches() - before >= 100
            for number in range(300):
                assert await values_of(saver, at(str(number))) == {
                    "n": number,
                    "data": bytes([number % 256]) * (number * 10),
                }

    async def test_a_save_larger_than_any_bound_goes_alone(self, postgres_dsn: str) -> None:
        limits = Limits(queue_items=5, queue_bytes=1000, batch_items=3, batch_bytes=500)
        async with open_postgres_saver(postgres_dsn, limits=limits) as saver:
            large = bytes(range(256)) * 400
            await asyncio.gather(
                *(put(saver, at(str(number)), {"data": large + bytes([number])}) for number in range(20))
            )
            for number in range(20):
                assert await values_of(saver, at(str(number))) == {"data": large + bytes([number])}

    async def test_cancelled_while_waiting_for_room(self, postgres_dsn: str) -> None:
        async with open_postgres_saver(postgres_dsn, limits=Limits(queue_items=2, batch_items=1)) as saver:
            async with table_locked(postgres_dsn):
                tasks = [asyncio.create_task(put(saver, at(str(number)), {"n": number})) for number in range(50)]
                await writers_wait(postgres_dsn)
                for task in tasks[10:40]:
                    task.cancel()
                await asyncio.gather(*tasks[10:40], return_exceptions=True)
            await asyncio.gather(*tasks[:10], *tasks[40:])
            saved = [number for number in range(50) if await values_of(saver, at(str(number)))]
            assert saved == [*range(10), *range(40, 50)]


class TestClosing:
    async def test_close_drains(self, postgres_dsn: str) -> None:
        async with open_postgres_saver(postgres_dsn) as saver, table_locked(postgres_dsn):
            tasks = [asyncio.create_task(put(saver, at(str(number)), {"n": number})) for number in range(200)]
            await writers_wait(postgres_dsn)
        await asyncio.gather(*tasks)
        async with open_postgres_saver(postgres_dsn) as saver:
            assert [n for n in range(200) if await values_of(saver, at(str(n))) != {"n": n}] == []

    async def test_who_waits_for_room_at_close_gets_an_answer(self, postgres_dsn: str) -> None:
        few = Limits(queue_items=3, batch_items=2)
        async with open_postgres_saver(postgres_dsn, limits=few) as saver, table_locked(postgres_dsn):
            tasks = [asyncio.create_task(put(saver, at(str(number)), {"n": number})) for number in range(40)]
            await writers_wait(postgres_dsn)
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        async with open_postgres_saver(postgres_dsn) as again:
            for number, answer in enumerate(answers):
                found = await values_of(again, at(str(number)))
                if isinstance(answer, SaverClosedError):
                    assert found is None
                else:
                    assert not isinstance(answer, BaseException)
                    assert found == {"n": number}

    async def test_after_close(self, postgres_dsn: str) -> None:
        async with open_postgres_saver(postgres_dsn) as saver:
            await put(saver, at("t"), {"a": 1})
        with pytest.raises(SaverClosedError, match="save"):
            await put(saver, at("t"), {"a": 2})
        with pytest.raises(SaverClosedError, match="save"):
            await saver.aput_writes(at("t", "1"), [("a", 1)], "task")
        with pytest.raises(SaverClosedError, match="load"):
            await saver.aget_tuple(at("t"))


class TestBatches:
    async def test_a_hundred_loads_share_statements(
        self, saver: PooledPostgresSaver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await asyncio.gather(*(put(saver, at(str(number)), {"n": number}) for number in range(100)))
        sent = statements(monkeypatch)
        found = await asyncio.gather(*(values_of(saver, at(str(number))) for number in range(100)))
        assert found == [{"n": number} for number in range(100)]
        assert 1 <= len(sent) <= 4

    async def test_a_hundred_saves_share_statements(
        self, saver: PooledPostgresSaver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sent = statements(monkeypatch)
        await asyncio.gather(*(put(saver, at(str(number)), {"n": number}) for number in range(100)))
        assert 1 <= len(sent) <= 6

    async def test_a_lone_save_is_one_statement(
        self, saver: PooledPostgresSaver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sent = statements(monkeypatch)
        await put(saver, at("t"), {"n": [1], "m": [2]})
        assert len(sent) == 1

    async def test_latest_by_id_and_unknown_in_one_batch(self, saver: PooledPostgresSaver) -> None:
        first = await put(saver, at("t"), {"n": 1})
        await put(saver, first, {"n": 2})
        asked = [at("t"), first, at("t", "no such id"), at("no such thread"), at("t", ns="no such ns"), at("a\x00b")]
        found = await asyncio.gather(*(values_of(saver, config) for config in asked * 5))
        assert found == [{"n": 2}, {"n": 1}, None, None, None, None] * 5

    async def test_nothing_is_left_behind(self, saver: PooledPostgresSaver, conn: psycopg.Connection) -> None:
        await asyncio.gather(*(put(saver, at(str(number)), {"n": [number]}) for number in range(100)))
        assert len(saver._group_commit._queue) == 0
        rows = everything(conn)
        assert [len(rows[table]) for table in TABLES] == [100, 100, 0]


def batches() -> float:
    return REGISTRY.get_sample_value("checkpointer_batch_saves_count") or 0.0
