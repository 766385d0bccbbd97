"""CHECKPOINT_STORAGE=shared: long lists stored element by element, loaded exactly, never referred to once gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from copy import deepcopy
from typing import Any, Literal
from uuid import UUID

import psycopg
import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from psycopg.rows import dict_row

from checkpointer import PooledPostgresSaver, UnreadableError, open_postgres_saver
from checkpointer.errors import StaleWriterError
from checkpointer.postgres import chunks
from checkpointer.postgres.chunks import ChunkReader, chunk_place, hashes_of, opened, root_hashes
from checkpointer.postgres.fence import acquire
from checkpointer.postgres.group_commit import GroupCommit, Save
from checkpointer.postgres.places import blob_place
from checkpointer.postgres.reencrypt import Changed, reencrypt
from checkpointer.postgres.retention import delete_threads, sweep
from checkpointer.postgres.unshare import unshare
from checkpointer.postgres.worker_connection import WorkerConnection
from checkpointer.serde import AllowListSerializer, Cipher, CompressedSerializer
from tests.checkpoints import SCHEMA, at, checkpoint, everything, history, put, values_of
from tests.locks import writers_wait
from tests.stateful import GRAPHS, run

ONE, TWO = ("one", bytes(range(32))), ("two", bytes(range(32, 64)))
SECRET = "the marker that must not be found"
Open = Callable[..., AbstractAsyncContextManager[PooledPostgresSaver]]


def said(number: int, size: int = 300) -> AIMessage:
    return AIMessage(content=f"{number} " + "x" * size, id=str(number))


def talk(length: int, begin: int = 0) -> list[Any]:
    return [said(number) for number in range(begin, begin + length)]


def sharing(dsn: str, storage: Literal["whole", "shared"] = "shared", **options: Any) -> Any:
    return open_postgres_saver(dsn, storage=storage, **options)


@pytest.fixture
async def saver(postgres_dsn: str) -> AsyncIterator[PooledPostgresSaver]:
    async with sharing(postgres_dsn) as opened_saver:
        yield opened_saver


@pytest.fixture
async def other(postgres_dsn: str) -> AsyncIterator[PooledPostgresSaver]:
    """A saver of another process, as far as what it knows goes."""
    async with sharing(postgres_dsn) as opened_saver:
        yield opened_saver


def present(conn: psycopg.Connection, thread: str) -> dict[bytes, tuple[str, bytes]]:
    """A thread's chunks by hash, as stored."""
    query = f"SELECT hash, type, blob FROM {SCHEMA}.checkpoint_chunks WHERE thread_id = %s"
    return {row[0].bytes: row[1:] for row in conn.execute(query, (thread,))}


def reached(conn: psycopg.Connection, thread: str, cipher: Cipher | None = None) -> set[bytes]:
    """The hashes that a thread's roots lead to, whether they are there or not."""
    columns = ("thread_id", "checkpoint_ns", "channel", "version", "type", "blob")
    query = f"SELECT {', '.join(columns)} FROM {SCHEMA}.checkpoint_blobs WHERE thread_id = %s AND type LIKE 'shared%%'"
    chunks = present(conn, thread)
    found: set[bytes] = set()
    for blob in conn.execute(query, (thread,)).fetchall():
        row = dict(zip(columns, blob, strict=True))
        heads, tail = root_hashes(opened(cipher, row["type"], row["blob"], blob_place(row)))
        found.update(heads, tail)
        for head in heads:
            if head in chunks:
                found.update(hashes_of(opened(cipher, *chunks[head], chunk_place(thread, head))))
    return found


def tidy(conn: psycopg.Connection, thread: str, cipher: Cipher | None = None) -> bool:
    """Whether exactly what is reached is there."""
    return set(present(conn, thread)) == reached(conn, thread, cipher)


def kinds(conn: psycopg.Connection) -> list[str]:
    """How each value is stored."""
    rows = conn.execute(f"SELECT type FROM {SCHEMA}.checkpoint_blobs ORDER BY version").fetchall()
    return ["shared" if row[0].startswith("shared") else "whole" for row in rows]


def generation(conn: psycopg.Connection, thread: str) -> int | None:
    row = conn.execute(f"SELECT generation FROM {SCHEMA}.checkpoint_fences WHERE thread_id = %s", (thread,)).fetchone()
    return row[0] if row else None


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Save]:
    """Every save that goes out, in order."""
    found: list[Save] = []
    submit = GroupCommit.submit_now

    async def noted(self: GroupCommit, item: Save) -> Any:
        found.append(item)
        return await submit(self, item)

    monkeypatch.setattr(GroupCommit, "submit_now", noted)
    return found


class Unlisted(list[Any]):
    """A list of the application's own."""


def mixed(number: int) -> Any:
    size = 300
    made = (None, b"\0" * size, "\0" + "s" * size, {"a": [1, {"b": None}]}, ["nested"] * 40, 2**64 - 1, -(2**63), 0.5)
    return (*made, True, "", b"", {}, [], said(number))[number % 14]


VALUES: dict[str, list[Any]] = {
    "messages": [
        kind(content=f"{number} " + "x" * size, id=str(number), **more)
        for number, size in enumerate((10, 300, 3000) * 8)
        for kind, more in ((HumanMessage, {}), (AIMessage, {}), (ToolMessage, {"tool_call_id": "1"}))
    ],
    "dicts": [{"id": number, "text": "x" * 300, "nested": {"list": [number, None, "\0"]}} for number in range(100)],
    "mixed": ["begin" * 3000, *(mixed(number) for number in range(70))],
    "duplicates": [said(number % 3) for number in range(100)],
    "all the same": ["x" * 300] * 1000,
    "bytes": [bytes([number]) * 300 for number in range(100)],
    "nothing but None after a long one": ["x" * 9000, *[None] * 30],
    "very long": [f"{number} " + "x" * 300 for number in range(3000)],
    "large elements": [f"{number} " * 100_000 for number in range(8)],
}


class TestValues:
    @pytest.mark.parametrize("cipher", [None, Cipher([ONE])], ids=["plain", "encrypted"])
    @pytest.mark.parametrize("name", VALUES)
    async def test_come_back_exactly(
        self, postgres_dsn: str, conn: psycopg.Connection, name: str, cipher: Cipher | None
    ) -> None:
        items = VALUES[name]
        async with sharing(postgres_dsn, cipher=cipher) as saver, sharing(postgres_dsn, cipher=cipher) as other:
            whole = CompressedSerializer().loads_typed(CompressedSerializer().dumps_typed(items))
            saved = await put(saver, at("t"), {"items": items, "more": [*items, "y" * 300]})
            assert kinds(conn) == ["shared", "shared"]
            for reader in (saver, other):
                for config in (saved, at("t")):
                    values = await values_of(reader, config)
                    assert values is not None
                    assert values == {"items": whole, "more": [*whole, "y" * 300]}
                    assert [type(item) for item in values["items"]] == [type(item) for item in whole]
                [listed] = await history(reader, "t")
                assert listed.checkpoint["channel_values"]["items"] == whole
            assert tidy(conn, "t", cipher)

    async def test_a_change_in_place_is_seen(self, saver: PooledPostgresSaver, conn: psycopg.Connection) -> None:
        items: list[Any] = [{"text": "x" * 300, "number": number, "deep": [[number]]} for number in range(100)]
        expected = []
        config: RunnableConfig = at("t")
        for step in range(10):
            items[step * 7]["deep"][0].append("changed")
            items[50]["text"] = f"{step}" * 300
            expected.append(deepcopy(items))
            config = await put(saver, config, {"items": items})
        listed = await history(saver, "t")
        assert [found.checkpoint["channel_values"]["items"] for found in reversed(listed)] == expected
        assert len(present(conn, "t")) < 100 + 10 * 5  # and the others are stored once

    @pytest.mark.parametrize(
        "value",
        [tuple(talk(20)), Unlisted(talk(20)), {"items": talk(20)}, ["tiny"] * 1000, talk(7), [0.5] * 5000, "x" * 9000],
        ids=["tuple", "subclass", "dict", "tiny", "few", "numbers", "string"],
    )
    async def test_stay_whole(self, postgres_dsn: str, conn: psycopg.Connection, value: Any) -> None:
        async with sharing(postgres_dsn) as saver, sharing(postgres_dsn, "whole") as whole:
            await put(saver, at("t"), {"value": value, "list": [1]})
            await put(whole, at("whole"), {"value": value, "list": [1]})
            assert await values_of(saver, at("t")) == await values_of(whole, at("whole"))
        assert "shared" not in kinds(conn)
        assert present(conn, "t") == {}
        assert generation(conn, "t") is None

    async def test_a_conversation_grows_by_what_is_new(
        self, saver: PooledPostgresSaver, conn: psycopg.Connection, sent: list[Save]
    ) -> None:
        config: RunnableConfig = at("t")
        for length in range(10, 200):
            config = await put(saver, config, {"items": talk(length)})
        assert max(len(save.chunks) for save in sent[1:]) <= 2  # the new one, and a node
        assert await values_of(saver, at("t")) == {"items": talk(199)}
        row = conn.execute(f"SELECT max(length(blob)) FROM {SCHEMA}.checkpoint_blobs").fetchone()
        assert row is not None
        assert row[0] < 2000

    @pytest.mark.parametrize(
        "odd",
        [object(), "\ud800", 2**70, {1, 2}, (1, 2), {"a": float("inf")}],
        ids=["object", "surrogate", "integer", "set", "tuple", "infinity"],
    )
    async def test_an_odd_element_ends_as_it_would_in_a_whole_list(self, postgres_dsn: str, odd: Any) -> None:
        outcomes = []
        for mode in ("whole", "shared"):
            async with sharing(postgres_dsn, mode) as saver:
                await put(saver, at(mode), {"items": talk(20)})
                try:
                    await put(saver, at(mode), {"items": [*talk(20), odd]})
                except Exception as exc:
                    outcomes.append(repr(exc))
                found = await values_of(saver, at(mode))
                assert found is not None
                outcomes.append(repr(found["items"][20:]))
        assert outcomes[: len(outcomes) // 2] == outcomes[len(outcomes) // 2 :]


class TestProcesses:
    async def test_a_hundred_threads_are_loaded_in_a_constant_number_of_statements(
        self, saver: PooledPostgresSaver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await asyncio.gather(*(put(saver, at(f"{n}"), {"items": talk(150, n), "more": talk(9)}) for n in range(100)))
        statements: list[str] = []
        execute = WorkerConnection.run

        async def counted(self: WorkerConnection, statement: str, params: Any, *, timeout_s: float) -> Any:
            statements.append(statement)
            return await execute(self, statement, params, timeout_s=timeout_s)

        monkeypatch.setattr(WorkerConnection, "run", counted)
        counts = []
        for number in (1, 10, 100):
            statements.clear()
            found = await asyncio.gather(*(values_of(saver, at(f"{n}")) for n in range(number)))
            assert found == [{"items": talk(150, n), "more": talk(9)} for n in range(number)]
            counts.append(len(statements))
        assert counts == [3, 3, 3]

    async def test_a_process_that_loaded_sends_what_is_new(
        self, saver: PooledPostgresSaver, other: PooledPostgresSaver, sent: list[Save]
    ) -> None:
        saved = await put(saver, at("t"), {"items": talk(150)})
        assert await values_of(other, saved) == {"items": talk(150)}
        await put(other, saved, {"items": talk(151)})
        assert len(sent[-1].chunks) == 1
        assert await values_of(saver, at("t")) == {"items": talk(151)}

    async def test_a_process_that_knows_nothing_sends_everything(
        self, saver: PooledPostgresSaver, other: PooledPostgresSaver, sent: list[Save], conn: psycopg.Connection
    ) -> None:
        saved = await put(saver, at("t"), {"items": talk(150)})
        before = set(present(conn, "t"))
        await put(other, saved, {"items": talk(150)})
        assert len(sent[-1].chunks) == len(before)
        assert set(present(conn, "t")) == before
        assert len(await history(saver, "t")) == 2

    async def test_many_at_once_on_one_thread(
        self, saver: PooledPostgresSaver, other: PooledPostgresSaver, conn: psycopg.Connection
    ) -> None:
        """Namespaces of a thread share its chunks."""
        places = [at("t", ns=f"n{number}") for number in range(60)]
        for round_number in range(3):
            await asyncio.gather(
                *(
                    put((saver, other)[(n + round_number) % 2], place, {"items": talk(20 + n + round_number)})
                    for n, place in enumerate(places)
                ),
                other.aprune(["t"]),
            )
            found = await asyncio.gather(*(values_of(saver, place) for place in places))
            assert found == [{"items": talk(20 + n + round_number)} for n in range(60)]
        await saver.aprune(["t"])
        assert reached(conn, "t") <= set(present(conn, "t"))

    async def test_the_setting_may_be_switched_within_a_thread(
        self, postgres_dsn: str, conn: psycopg.Connection
    ) -> None:
        config: RunnableConfig = at("t")
        modes: list[Literal["whole", "shared"]] = ["whole", "shared", "shared", "whole", "shared"]
        for number, mode in enumerate(modes):
            async with sharing(postgres_dsn, mode) as saver:
                if number:
                    assert await values_of(saver, at("t")) == {"items": talk(19 + number)}
                config = await put(saver, config, {"items": talk(20 + number)})
        assert kinds(conn) == modes
        for mode in ("whole", "shared"):
            async with sharing(postgres_dsn, mode) as saver:
                lengths = [len(found.checkpoint["channel_values"]["items"]) for found in await history(saver, "t")]
                assert lengths == [24, 23, 22, 21, 20]


class TestPruning:
    async def test_what_goes_and_what_stays(self, saver: PooledPostgresSaver, conn: psycopg.Connection) -> None:
        config: RunnableConfig = at("t")
        for number in range(10):
            about = {"run_id": "odd" if number % 2 else "even"}
            config = await put(saver, config, {"items": talk(100, 10 * number), "more": talk(20, 1000)}, about)
        await put(saver, at("other"), {"items": talk(100)})
        others = present(conn, "other")

        async def begins() -> list[str]:
            assert tidy(conn, "t")
            assert present(conn, "other") == others
            return [found.checkpoint["channel_values"]["items"][0].id for found in await history(saver, "t")]

        assert await begins() == [f"{10 * number}" for number in reversed(range(10))]
        await saver.aprune(["t"], strategy="keep_last", keep_last=6)
        assert await begins() == ["90", "80", "70", "60", "50", "40"]
        await saver.adelete_for_runs(["odd"])
        assert await begins() == ["80", "60", "40"]
        await saver.aprune(["t"])
        assert await begins() == ["80"]
        assert await values_of(saver, at("t")) == {"items": talk(100, 80), "more": talk(20, 1000)}
        await saver.adelete_thread("t")
        assert present(conn, "t") == {}
        assert everything(conn, thread="t") == {"checkpoints": [], "checkpoint_blobs": [], "checkpoint_writes": []}
        await put(saver, at("t"), {"items": talk(100, 80)})
        assert await begins() == ["80"]

    async def test_a_saver_that_knows_what_another_one_swept(
        self, saver: PooledPostgresSaver, other: PooledPostgresSaver, conn: psycopg.Connection, sent: list[Save]
    ) -> None:
        first = await put(saver, at("t"), {"items": talk(100)})
        await put(saver, first, {"items": talk(100, 200)})
        before = generation(conn, "t")
        await other.aprune(["t"])
        assert generation(conn, "t") == (before or 0) + 1
        assert tidy(conn, "t")
        sent.clear()
        await put(saver, at("t"), {"items": talk(100)})  # it sent them all, long ago
        assert [save.generation for save in sent] == [before, None]
        assert [save.chunks for save in sent[:1]] == [[]]
        assert len(sent[1].chunks) > 100
        assert reached(conn, "t") <= set(present(conn, "t"))
        assert await values_of(saver, at("t")) == await values_of(other, at("t")) == {"items": talk(100)}
        sent.clear()
        await put(saver, at("t"), {"items": talk(101)})
        assert [len(save.chunks) for save in sent] == [1]  # and it knows them again

    async def test_a_sweep_that_is_open_holds_up_its_own_thread_only(
        self, postgres_dsn: str, saver: PooledPostgresSaver, conn: psycopg.Connection
    ) -> None:
        first = await put(saver, at("t"), {"items": talk(100)})
        await put(saver, first, {"items": talk(100, 200)})
        await put(saver, at("other"), {"items": talk(100)})
        conn.execute(
            f"DELETE FROM {SCHEMA}.checkpoint_blobs WHERE thread_id = 't' AND version = ("
            f"SELECT min(version) FROM {SCHEMA}.checkpoint_blobs WHERE thread_id = 't')"
        )
        async with await psycopg.AsyncConnection.connect(postgres_dsn, row_factory=dict_row) as sweeping:
            assert await sweep(sweeping, SCHEMA, None, "t") > 100
            late = asyncio.create_task(put(saver, at("t"), {"items": talk(100)}))
            for number in range(20):
                async with asyncio.timeout(30):
                    await put(saver, at("other"), {"items": talk(101 + number)})
                    await put(saver, at("t"), {"small": number})  # neither shared nor fenced
            assert not late.done()
            assert len(await values_of(saver, at("t")) or {}) == 1
        await late
        assert await values_of(saver, late.result()) == {"items": talk(100)}
        assert reached(conn, "t") <= set(present(conn, "t"))

    async def test_a_list_that_is_pruned_between_the_statements_of_its_load(
        self, saver: PooledPostgresSaver, other: PooledPostgresSaver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = await put(saver, at("t"), {"items": talk(100)})
        lists = ChunkReader.lists
        pruned = asyncio.Event()

        async def prune_first(self: ChunkReader, execute: Any, roots: Any) -> Any:
            if not pruned.is_set():
                pruned.set()
                await put(other, first, {"items": talk(100, 200)})
                await other.aprune(["t"])
            return await lists(self, execute, roots)

        monkeypatch.setattr(ChunkReader, "lists", prune_first)
        assert await values_of(saver, at("t")) == {"items": talk(100, 200)}
        assert await values_of(saver, first) is None

    async def test_a_page_that_is_pruned_between_the_statements_of_its_load(
        self, saver: PooledPostgresSaver, other: PooledPostgresSaver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = at("t")
        for number in range(5):
            config = await put(saver, config, {"items": talk(100, 100 * number)})
        lists = ChunkReader.lists
        pruned = asyncio.Event()

        async def prune_first(self: ChunkReader, execute: Any, roots: Any) -> Any:
            if not pruned.is_set():
                pruned.set()
                await other.aprune(["t"], strategy="keep_last", keep_last=2)
            return await lists(self, execute, roots)

        monkeypatch.setattr(ChunkReader, "lists", prune_first)
        listed = [found.checkpoint["channel_values"] for found in await history(saver, "t")]
        assert pruned.is_set()
        assert listed == [{"items": talk(100, 400)}, {"items": talk(100, 300)}]

    async def test_a_seed_that_is_pruned_between_the_statements_of_its_load(
        self, saver: PooledPostgresSaver, other: PooledPostgresSaver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = await put(saver, at("t"), {"a": talk(100)})
        about: Any = {"counters_since_delta_snapshot": {"a": (1, 1)}}
        made = checkpoint({})
        made["channel_versions"] = {"a": "9"}
        child = await saver.aput(first, made, about, {})
        assert (await saver.aget_delta_channel_history(config=child, channels=["a"]))["a"]["seed"] == talk(100)
        lists = ChunkReader.lists
        pruned = asyncio.Event()

        async def prune_first(self: ChunkReader, execute: Any, roots: Any) -> Any:
            if not pruned.is_set():
                pruned.set()
                await put(other, child, {"a": talk(100, 200)})
                await other.aprune(["t"])
            return await lists(self, execute, roots)

        monkeypatch.setattr(ChunkReader, "lists", prune_first)
        found = await saver.aget_delta_channel_history(config=child, channels=["a"])
        assert pruned.is_set()
        assert found == {"a": {"writes": []}}

    async def test_a_thread_that_is_deleted_while_its_first_list_is_saved(
        self,
        postgres_dsn: str,
        saver: PooledPostgresSaver,
        conn: psycopg.Connection,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The deletion finds no row to raise, and the list is there before it deletes."""
        items = talk(20)
        saving: list[asyncio.Task[Any]] = []
        async with await psycopg.AsyncConnection.connect(postgres_dsn, row_factory=dict_row) as deleting:
            execute = deleting.execute

            async def save_first(query: Any, *args: Any, **kwargs: Any) -> Any:
                if b"DELETE FROM" in query and not saving:
                    saving.append(asyncio.create_task(put(saver, at("t"), {"items": items})))
                    waits = asyncio.create_task(writers_wait(postgres_dsn))
                    await asyncio.wait([saving[0], waits], return_when=asyncio.FIRST_COMPLETED)
                    waits.cancel()
                return await execute(query, *args, **kwargs)

            monkeypatch.setattr(deleting, "execute", save_first)
            await delete_threads(deleting, SCHEMA, ["t"])
        await asyncio.gather(*saving)
        await put(saver, at("t"), {"items": [*items, said(99)]})
        assert reached(conn, "t") <= set(present(conn, "t"))
        assert await values_of(saver, at("t")) == {"items": [*items, said(99)]}


class TestCopies:
    @pytest.mark.parametrize("cipher", [None, Cipher([ONE])], ids=["plain", "encrypted"])
    async def test_a_copy_stands_alone(
        self, postgres_dsn: str, conn: psycopg.Connection, cipher: Cipher | None
    ) -> None:
        async with sharing(postgres_dsn, cipher=cipher) as saver, sharing(postgres_dsn, cipher=cipher) as other:
            config: RunnableConfig = at("t")
            for number in range(5):
                config = await put(saver, config, {"items": talk(100 + number)})
            before = [found.checkpoint for found in await history(saver, "t")]
            await put(saver, at("copy"), {"items": talk(30)})
            await saver.acopy_thread("t", "copy")
            await saver.adelete_thread("t")
            assert [found.checkpoint for found in await history(other, "copy")][-5:] == before
            saved = await put(saver, at("copy"), {"items": talk(120)})
            await put(other, saved, {"items": talk(121)})
            assert await values_of(saver, at("copy")) == {"items": talk(121)}
            await other.aprune(["copy"])
            assert tidy(conn, "copy", cipher)
            await put(saver, at("copy"), {"items": talk(105)})
            assert await values_of(other, at("copy")) == {"items": talk(105)}
            assert present(conn, "t") == {}

    async def test_the_seed_of_a_delta_channel(self, postgres_dsn: str, conn: psycopg.Connection) -> None:
        """A channel that was a plain list before it became one."""
        found = []
        for mode in ("whole", "shared"):
            async with sharing(postgres_dsn, mode) as saver:
                config = await put(saver, at(mode), {"a": talk(100), "b": talk(30, 50)})
                await saver.aput_writes(config, [("a", [said(1000)])], "task")
                made = checkpoint({})
                made["channel_versions"] = {"a": "9", "b": "9"}
                about: Any = {"counters_since_delta_snapshot": {"a": (1, 1), "b": (1, 1)}}
                config = await saver.aput(config, made, about, {})
                await saver.aprune([mode])
                found.append(await saver.aget_delta_channel_history(config=config, channels=["a", "b"]))
        assert found[0] == found[1]
        assert found[1]["a"]["seed"] == talk(100)
        assert tidy(conn, "shared")


class TestEncryption:
    async def test_equal_content_does_not_show_across_threads(
        self, postgres_dsn: str, conn: psycopg.Connection
    ) -> None:
        items = [f"{SECRET} {number}" * 10 for number in range(100)]
        async with sharing(postgres_dsn) as plain:
            await put(plain, at("a"), {"items": items})
            await put(plain, at("b"), {"items": items})
        assert set(present(conn, "a")) == set(present(conn, "b"))
        unkeyed = set(present(conn, "a"))
        serde = CompressedSerializer(threshold=10**9)
        async with sharing(postgres_dsn, serde=serde, cipher=Cipher([ONE])) as saver:
            for thread in ("c", "d"):
                await put(saver, at(thread), {"items": items})
                assert await values_of(saver, at(thread)) == {"items": items}
        hashes = [set(present(conn, thread)) for thread in ("c", "d")]
        assert not hashes[0] & hashes[1]
        assert not unkeyed & (hashes[0] | hashes[1])
        for table in ("checkpoints", "checkpoint_blobs", "checkpoint_writes", "checkpoint_chunks"):
            rows = conn.execute(f"SELECT t::text FROM {SCHEMA}.{table} t WHERE thread_id IN ('c', 'd')").fetchall()
            for (text,) in rows:
                assert SECRET not in text
                assert SECRET.encode().hex() not in text
                assert not any(digest.hex() in text for digest in hashes[0]) or table == "checkpoint_chunks"

    @pytest.mark.parametrize("kind", ["msgpack", "node"])
    async def test_a_row_that_was_moved_does_not_decrypt(
        self, postgres_dsn: str, conn: psycopg.Connection, kind: str
    ) -> None:
        async with sharing(postgres_dsn, cipher=Cipher([ONE])) as saver:
            for thread in ("a", "b"):
                await put(saver, at(thread), {"items": talk(400)})
            rows = [(digest, *row) for digest, row in present(conn, "a").items() if row[0].startswith(kind)]
            target, source = rows[0], rows[1]
            conn.execute(
                f"UPDATE {SCHEMA}.checkpoint_chunks SET type = %s, blob = %s WHERE thread_id = 'a' AND hash = %s",
                (*source[1:], UUID(bytes=target[0])),
            )
            with pytest.raises(UnreadableError, match="another row"):
                await values_of(saver, at("a"))
            assert await values_of(saver, at("b")) == {"items": talk(400)}
            # nor in another thread
            conn.execute(
                f"UPDATE {SCHEMA}.checkpoint_chunks SET type = %s, blob = %s WHERE thread_id = 'b' AND type LIKE %s",
                (*source[1:], f"{kind}%"),
            )
            with pytest.raises(UnreadableError, match="another row"):
                await values_of(saver, at("b"))

    async def test_switched_on_rotated_and_off_again(self, postgres_dsn: str, conn: psycopg.Connection) -> None:
        lengths = {f"t{number}": 20 + 30 * number for number in range(8)}

        async def changed(saver: PooledPostgresSaver, cipher: Cipher, *, seal: bool) -> Changed:
            pages = reencrypt(saver.pool, SCHEMA, CompressedSerializer(), cipher, seal=seal)
            return [Changed(), *[page async for page in pages]][-1]

        async def verify(saver: PooledPostgresSaver) -> None:
            """They load, go on, and what was pruned since does no harm."""
            found = await asyncio.gather(*(values_of(saver, at(thread)) for thread in lengths))
            assert found == [{"items": talk(length)} for length in lengths.values()]
            for thread in lengths:
                await put(saver, at(thread), {"items": talk(lengths[thread] + 3)})
                lengths[thread] += 3
            await saver.aprune(list(lengths)[:4])
            found = await asyncio.gather(*(values_of(saver, at(thread)) for thread in lengths))
            assert found == [{"items": talk(length)} for length in lengths.values()]

        def sealed() -> set[str]:
            rows = conn.execute(
                f"SELECT DISTINCT coalesce(substring(type FROM '[+]gcm[.](.*)$'), '') FROM {SCHEMA}.checkpoint_chunks"
            )
            return {row[0] for row in rows}

        async with sharing(postgres_dsn) as saver:
            await asyncio.gather(*(put(saver, at(thread), {"items": talk(lengths[thread])}) for thread in lengths))
        old, both, new = Cipher([ONE]), Cipher([TWO, ONE]), Cipher([TWO])
        async with sharing(postgres_dsn, cipher=old) as saver:
            await verify(saver)
            assert sealed() == {"", "one"}
            assert (await changed(saver, old, seal=True)).chunks > 500
            assert sealed() == {"one"}
            await verify(saver)
        async with sharing(postgres_dsn, cipher=both) as saver:
            await verify(saver)
            await asyncio.gather(changed(saver, both, seal=True), verify(saver))
            await changed(saver, both, seal=True)
            assert sealed() == {"two"}
        async with sharing(postgres_dsn, cipher=new) as saver:
            await verify(saver)
            await changed(saver, new, seal=False)
            assert sealed() == {""}
        async with sharing(postgres_dsn) as saver:
            await verify(saver)
            await saver.aprune(list(lengths))
            assert all(tidy(conn, thread) for thread in lengths)


@asynccontextmanager
async def stock_saver(dsn: str) -> AsyncIterator[AsyncPostgresSaver]:
    async with await psycopg.AsyncConnection.connect(
        dsn, autocommit=True, row_factory=dict_row, options=f"-c search_path={SCHEMA}"
    ) as conn:
        yield AsyncPostgresSaver(conn, serde=CompressedSerializer())


class TestUnsharing:
    @pytest.fixture
    def _short(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Even short lists are shared."""
        monkeypatch.setattr(chunks, "_FEWEST_ELEMENTS", 1)
        monkeypatch.setattr(chunks, "_SMALL_ELEMENT", 0)
        monkeypatch.setattr(chunks, "_RUN_AT_LEAST", 2)
        monkeypatch.setattr(chunks, "_RUN_AT_MOST", 3)

    @pytest.mark.usefixtures("_short")
    async def test_the_stock_saver_continues_every_thread(self, postgres_dsn: str, conn: psycopg.Connection) -> None:
        async with sharing(postgres_dsn) as saver:
            for kind in GRAPHS:
                await run(saver, kind, kind)
            await put(saver, at("mixed"), {"items": VALUES["mixed"], "long": VALUES["very long"]})
            before = {kind: await history(saver, kind) for kind in (*GRAPHS, "mixed")}
            assert "shared" in kinds(conn)
            assert "whole" in kinds(conn)
        async with sharing(postgres_dsn, "whole") as whole:

            async def live() -> None:
                for number in range(20):
                    await put(whole, at("live"), {"items": talk(100 + number)})
                    await whole.aprune(["live"])
                    await whole.acopy_thread("talking", f"copy {number}")

            progress, _ = await asyncio.gather(self.unshare_all(whole, None), live())
            assert progress == sorted(progress)
            await self.unshare_all(whole, None)  # what was copied meanwhile
            assert await self.unshare_all(whole, None) == []
            assert {kind: await history(whole, kind) for kind in before} == before
        assert set(kinds(conn)) == {"whole"}
        assert conn.execute(f"SELECT * FROM {SCHEMA}.checkpoint_chunks").fetchall() == []
        async with stock_saver(postgres_dsn) as stock:
            for kind in before:
                assert [found.checkpoint for found in await history_of(stock, kind)] == [
                    found.checkpoint for found in before[kind]
                ]
            for kind in (*GRAPHS, "copy 0", "copy 19"):
                await run(stock, "talking" if kind.startswith("copy") else kind, kind)

    @pytest.mark.parametrize("serde", [CompressedSerializer(), AllowListSerializer()], ids=["zstd", "plain"])
    @pytest.mark.parametrize("cipher", [None, Cipher([ONE])], ids=["clear", "encrypted"])
    async def test_values_are_those_that_would_have_been_stored_whole(
        self, postgres_dsn: str, conn: psycopg.Connection, serde: Any, cipher: Cipher | None
    ) -> None:
        async with sharing(postgres_dsn, serde=serde, cipher=cipher) as saver:
            for name, items in VALUES.items():
                await put(saver, at(name), {"items": items})
        async with sharing(postgres_dsn, "whole", serde=serde, cipher=cipher) as whole:
            await self.unshare_all(whole, cipher, serde)
            assert set(kinds(conn)) == {"whole"}
            for name, items in VALUES.items():
                assert await values_of(whole, at(name)) == {"items": items}
                await put(whole, at(f"whole {name}"), {"items": items})
                if cipher is None:
                    rows = conn.execute(
                        f"SELECT DISTINCT type FROM {SCHEMA}.checkpoint_blobs WHERE thread_id IN (%s, %s)",
                        (name, f"whole {name}"),
                    ).fetchall()
                    assert len(rows) == 1
        assert conn.execute(f"SELECT * FROM {SCHEMA}.checkpoint_chunks").fetchall() == []

    @staticmethod
    async def unshare_all(
        saver: PooledPostgresSaver, cipher: Cipher | None, serde: object = CompressedSerializer()
    ) -> list[int]:
        return [changed async for changed in unshare(saver.pool, SCHEMA, serde, cipher)]


class TestFences:
    async def take_over(self, dsn: str, thread: str) -> int:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
            return await acquire(conn, thread)

    async def test_a_thread_with_chunks_was_never_taken_over(
        self, postgres_dsn: str, saver: PooledPostgresSaver
    ) -> None:
        await put(saver, at("t"), {"items": talk(20)})
        with pytest.raises(StaleWriterError):
            await put(saver, at("t", epoch=1), {"items": talk(21)})
        await saver.aprune(["t"])
        await saver.adelete_thread("t")
        with pytest.raises(StaleWriterError):
            await put(saver, at("t", epoch=1), {"items": talk(21)})
        assert await self.take_over(postgres_dsn, "t") == 1
        assert await self.take_over(postgres_dsn, "never saved") == 1
        await put(saver, at("t", epoch=1), {"items": talk(21)})
        assert await values_of(saver, at("t")) == {"items": talk(21)}

    async def test_a_stale_writer_changes_nothing(
        self, postgres_dsn: str, saver: PooledPostgresSaver, other: PooledPostgresSaver, conn: psycopg.Connection
    ) -> None:
        old = await self.take_over(postgres_dsn, "t")
        first = await put(saver, at("t", epoch=old), {"items": talk(100)})
        await put(saver, at("t", epoch=old), {"items": talk(100, 200)})
        new = await self.take_over(postgres_dsn, "t")
        await other.aprune(["t"])
        before = everything(conn), present(conn, "t"), generation(conn, "t")
        for items in (talk(100), talk(101, 200), talk(50, 900)):  # swept, known and new, and all new
            with pytest.raises(StaleWriterError):
                await put(saver, at("t", epoch=old), {"items": items})
        assert (everything(conn), present(conn, "t"), generation(conn, "t")) == before
        await put(other, at("t", epoch=new), {"items": talk(100)})
        assert await values_of(saver, at("t")) == {"items": talk(100)}
        assert await values_of(saver, first) is None

    async def test_a_deleted_thread_locks_its_fenced_writer_out(
        self, postgres_dsn: str, saver: PooledPostgresSaver, other: PooledPostgresSaver, conn: psycopg.Connection
    ) -> None:
        epoch = await self.take_over(postgres_dsn, "t")
        await put(saver, at("t", epoch=epoch), {"items": talk(100)})
        await other.adelete_thread("t")
        with pytest.raises(StaleWriterError):
            await put(saver, at("t", epoch=epoch), {"items": talk(101)})
        assert present(conn, "t") == {}
        await put(saver, at("t"), {"items": talk(101)})  # without an epoch it may
        assert await values_of(other, at("t")) == {"items": talk(101)}


async def history_of(saver: AsyncPostgresSaver, thread: str) -> list[Any]:
    return [found async for found in saver.alist({"configurable": {"thread_id": thread}})]
