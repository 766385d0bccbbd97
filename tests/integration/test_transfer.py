"""Threads moved between savers of every kind: equal histories, resumable, refused where they are others."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import Any

import psycopg
import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.serde.types import TASKS
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.types import Command, Send

from checkpointer import PooledPostgresSaver, ThreadFileError, TransferError, open_postgres_saver
from checkpointer.serde import Cipher, CompressedSerializer
from checkpointer.thread_file import list_thread_ids
from checkpointer.transfer import Transferred, export_threads, import_threads, transfer_threads
from tests.checkpoints import at, checkpoint, put
from tests.locks import writers_wait
from tests.servers import HOLDFAST, ROOT
from tests.stateful import GRAPHS, run
from tests.threads import LISTED, made_up, told

Saver = BaseCheckpointSaver[Any]
SEEDS = range(12)
KEYS = "one:" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVoxMjM0NTY="


@pytest.fixture
async def postgres(postgres_dsn: str) -> AsyncIterator[PooledPostgresSaver]:
    """Ours, with all that it can do to values: shared lists, compression, encryption."""
    serde = CompressedSerializer(LISTED, threshold=64)
    async with open_postgres_saver(postgres_dsn, serde=serde, storage="shared", cipher=Cipher.parse(KEYS)) as saver:
        yield saver


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[AsyncSqliteSaver]:
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "threads.db")) as saver:
        saver.serde = LISTED
        yield saver


@pytest.fixture
async def stock(empty_dsn: str) -> AsyncIterator[AsyncPostgresSaver]:
    async with AsyncPostgresSaver.from_conn_string(empty_dsn, serde=LISTED) as saver:
        await saver.setup()
        yield saver


def memory() -> InMemorySaver:
    return InMemorySaver(serde=LISTED)


async def filled(seeds: Sequence[int] = SEEDS) -> InMemorySaver:
    """Threads of every graph, and made-up ones."""
    saver = memory()
    for kind in GRAPHS:
        await run(saver, kind, kind)
    for seed in seeds:
        await made_up(saver, f"made up {seed}", seed)
    return saver


async def names_of(saver: Saver) -> list[str]:
    return sorted([name async for name in list_thread_ids(saver)])


async def assert_equal(one: Saver, other: Saver) -> None:
    names = await names_of(one)
    assert await names_of(other) == names
    for name in names:
        assert await told(other, name) == await told(one, name), name


async def resume(saver: Saver) -> Any:
    """Answer the question that the thread of Sends waits with."""
    graph = GRAPHS["sending"].compile(checkpointer=saver)
    return await graph.ainvoke(Command(resume="the answer"), at("sending"), durability="sync")


async def test_from_memory_to_sqlite_to_postgres_and_back_to_memory(
    sqlite: AsyncSqliteSaver, postgres: PooledPostgresSaver
) -> None:
    first, last, short_cut = await filled(), memory(), memory()
    for source, target in ((first, sqlite), (sqlite, postgres), (postgres, last), (sqlite, short_cut)):
        done = await transfer_threads(source, target)
        assert done.refused == {}
        assert done.copied == len(GRAPHS) + len(SEEDS)
    await assert_equal(first, last)
    await assert_equal(first, short_cut)
    assert (await transfer_threads(first, postgres)).equal == len(GRAPHS) + len(SEEDS)
    assert (await resume(last))["text"] == "the answer"
    assert (await resume(postgres))["text"] == "the answer"


class Killed(Exception):
    """What ends a transfer in the middle here."""


class _CutOff(InMemorySaver):
    """A saver whose process is killed after so many saves."""

    left = 0

    def _count(self) -> None:
        if not self.left:
            raise Killed
        self.left -= 1

    async def aput(self, *args: Any, **kwargs: Any) -> Any:
        self._count()
        return await super().aput(*args, **kwargs)

    async def aput_writes(self, *args: Any, **kwargs: Any) -> None:
        self._count()
        await super().aput_writes(*args, **kwargs)


@pytest.mark.parametrize("by_file", [False, True], ids=["direct", "file"])
async def test_cut_off_after_any_save_and_run_again_has_the_same_end(tmp_path: Path, by_file: bool) -> None:
    source, path = memory(), tmp_path / "threads.jsonl"
    await run(source, "sending", "sending", times=1)
    await made_up(source, "made up", 1, length=6)
    await export_threads(source, path)

    async def move(target: Saver) -> Transferred:
        return await (
            import_threads(path, target) if by_file else transfer_threads(source, target, await names_of(source))
        )

    whole = _CutOff(serde=LISTED)
    whole.left = 10_000
    await move(whole)
    saves = 10_000 - whole.left
    assert saves > 20
    for number in range(0, saves, 3):
        target = _CutOff(serde=LISTED)
        target.left = number
        with pytest.raises(Killed):
            await move(target)
        target.left = 10_000
        assert (await move(target)).refused == {}
        assert target.storage == whole.storage
        assert target.writes == whole.writes
        assert (await move(target)).copied == 0


def started(*arguments: str) -> Popen[bytes]:
    """`holdfast transfer` as a process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return Popen([*HOLDFAST, "transfer", *arguments], stdout=DEVNULL, stderr=DEVNULL, env=environment)


async def test_killed_in_the_middle_and_run_again(
    postgres_dsn: str, conn: psycopg.Connection, tmp_path: Path, sqlite: AsyncSqliteSaver
) -> None:
    for kind in GRAPHS:
        await run(sqlite, kind, kind)
    with conn.transaction():  # so it comes to its first pending writes
        conn.execute("LOCK TABLE workflow_checkpoints.checkpoint_writes IN EXCLUSIVE MODE")
        process = started("--from", f"sqlite:{tmp_path / 'threads.db'}", "--to", postgres_dsn)
        try:
            await writers_wait(postgres_dsn)
        finally:
            process.kill()
            process.wait()
        there = conn.execute("SELECT count(*) FROM workflow_checkpoints.checkpoints").fetchone()
    assert there is not None
    assert there[0] > 0
    async with open_postgres_saver(postgres_dsn) as target:
        done = await transfer_threads(sqlite, target)
        assert (done.refused, done.threads) == ({}, len(GRAPHS))
        one, other = memory(), memory()
        await transfer_threads(target, one)
        await transfer_threads(sqlite, other)
        await assert_equal(other, one)


async def test_a_thread_that_went_on_at_the_target_is_refused_unless_overwritten(sqlite: AsyncSqliteSaver) -> None:
    source = await filled(seeds=[1, 2])
    await transfer_threads(source, sqlite)
    await resume(sqlite)
    await resume(source)  # both went on, each by itself
    await run(source, "talking", "talking", times=1)  # this one only here
    await made_up(sqlite, "made up 9", 9)  # this one only there
    before = await told(sqlite, "sending")
    done = await transfer_threads(source, sqlite)
    assert list(done.refused) == ["sending"]
    assert "went on at the target" in done.refused["sending"]
    assert (done.copied, done.equal) == (1, len(GRAPHS))
    assert await told(sqlite, "sending") == before
    done = await transfer_threads(source, sqlite, overwrite=True)
    assert (done.refused, done.copied) == ({}, 1)
    for name in await names_of(source):
        there, here = memory(), memory()
        await transfer_threads(sqlite, there, [name])
        await transfer_threads(source, here, [name])
        await assert_equal(here, there)
    assert "made up 9" in await names_of(sqlite)


@pytest.mark.parametrize("what", ["value", "metadata", "write", "parent"])
async def test_a_thread_that_differs_at_the_target_is_refused(what: str, tmp_path: Path) -> None:
    saver, other, path = memory(), memory(), tmp_path / "threads.jsonl.zst"
    made = checkpoint({"list": [1], "n": 1})
    for one in (saver, other):
        changed = {**made, "channel_values": {"list": [2] if what == "value" and one is other else [1], "n": 1}}
        about: Any = {"step": 2 if what == "metadata" and one is other else 1}
        parent = "0" if what == "parent" and one is other else None
        config = await one.aput(at("t", parent), changed, about, made["channel_versions"])  # type: ignore[arg-type]
        await one.aput_writes(config, [("n", 2 if what == "write" and one is other else 1)], "task")
    await export_threads(saver, path)
    for move in (transfer_threads(saver, other), import_threads(path, other)):
        done = await move
        assert "differs at the target" in done.refused["t"]
        assert made["id"] in done.refused["t"]
    assert (await import_threads(path, other, overwrite=True)).copied == 1
    await assert_equal(saver, other)


async def test_to_langgraphs_own_postgres_and_back(stock: AsyncPostgresSaver) -> None:
    first, last = memory(), memory()
    for kind in GRAPHS:
        await run(first, kind, kind)
    await put(first, at("holds a NUL"), {"text": "a\0b"})
    done = await transfer_threads(first, stock)
    assert list(done.refused) == ["holds a NUL"]
    assert "can't be saved at checkpoint" in done.refused["holds a NUL"]
    await transfer_threads(stock, last)
    await first.adelete_thread("holds a NUL")
    await assert_equal(first, last)
    assert (await resume(stock))["text"] == "the answer"


async def test_checkpoints_from_before_version_4(postgres: PooledPostgresSaver, sqlite: AsyncSqliteSaver) -> None:
    first, last = memory(), memory()
    config = await put(first, at("old"), {"n": 1, "list": [1]}, {"writes": {"node": 1}})
    await first.aput_writes(config, [(TASKS, Send("node", 1)), (TASKS, Send("node", 2))], "task", "~a")
    ids = {**config["configurable"], "checkpoint_ns": ""}
    await put(first, {"configurable": ids}, {"n": 2}, {"writes": {"node": 2}})
    for source, target in ((first, sqlite), (sqlite, postgres), (postgres, last), (first, last)):
        done = await transfer_threads(source, target)
        assert done.refused == {}
    assert [len(one.pending_writes or ()) async for one in last.alist(at("old"))] == [0, 2]


async def test_any_other_saver_will_do() -> None:
    hidden = await filled(seeds=[3])

    class Unknown(BaseCheckpointSaver[Any]):
        """Shows nothing but LangGraph's API."""

        async def aget_tuple(self, config: Any) -> Any:
            return await hidden.aget_tuple(config)

        async def alist(self, config: Any, **kwargs: Any) -> AsyncIterator[Any]:
            async for one in hidden.alist(config, **kwargs):
                yield one

    last = memory()
    assert (await transfer_threads(Unknown(serde=LISTED), last)).refused == {}
    await assert_equal(hidden, last)


async def test_a_file_moves_threads_too(postgres: PooledPostgresSaver, tmp_path: Path) -> None:
    first, path = await filled(seeds=range(6)), tmp_path / "threads.jsonl.zst"
    done = await export_threads(first, path)
    assert done.threads == len(GRAPHS) + 6
    assert (await import_threads(path, postgres)).refused == {}
    last = memory()
    await transfer_threads(postgres, last)
    await assert_equal(first, last)
    assert (await import_threads(path, postgres, ["sending", "none"])).refused.keys() == {"none"}
    with pytest.raises(TransferError, match="'none' is not in the source"):
        await export_threads(first, path, ["none"])
    sound = path.read_bytes()
    path.write_bytes(sound[: len(sound) // 2])
    empty = memory()
    with pytest.raises(ThreadFileError):
        await import_threads(path, empty)
    assert await names_of(empty) == []
