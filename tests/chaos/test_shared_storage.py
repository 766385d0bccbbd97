"""Shared lists while another process prunes them without pause, and while the saving process is killed.

    HOLDFAST_CHAOS_SECONDS=120 pytest tests/chaos/test_shared_storage.py    for as long as one likes

Run as a module, this is a child: it begins when a line comes in, says that it is ready, and works until it is told to
stop. The line holds how much it may do before it waits for that; 0 for as much as it can.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import sys
import threading
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from langgraph.checkpoint.base import CheckpointTuple

from checkpointer import PooledPostgresSaver, open_postgres_saver
from checkpointer.postgres.chunks import hashes_of, root_hashes
from tests.checkpoints import SCHEMA, at, checkpoint, history, put, values_of
from tests.postgres import own_cluster

pytestmark = pytest.mark.chaos

ROOT = Path(__file__).parents[2]
SECONDS = float(os.environ.get("HOLDFAST_CHAOS_SECONDS", "6"))  # before a fixture clears the environment
THREADS = [f"t{number}" for number in range(4)]
TURNS, KILLS = 280, 7
# So many turns further than is heard of may a conversation be, so that a slow listener does not miss all of it.
AHEAD = 20


def digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def element(rng: random.Random, size: int = 300) -> dict[str, Any]:
    return {"role": rng.choice(("human", "ai")), "text": rng.randbytes(size // 2).hex(), "edits": 0}


def edit(rng: random.Random, items: list[Any]) -> None:
    """What happens to a conversation: it grows, is edited, cut, and goes back to what it was."""
    kind = rng.random()
    place = rng.randrange(len(items) + 1)
    if kind < 0.6:
        items.extend(element(rng) for _ in range(rng.randint(1, 4)))
    elif kind < 0.75:
        items.insert(place, element(rng))
    elif kind < 0.9 and place < len(items):
        items[place]["edits"] = 1 - items[place]["edits"]  # every second time it is as it was before
    else:
        del items[place : place + rng.randint(1, 10)]
    if len(items) > 300:
        del items[: rng.randint(1, 250)]


def verify(found: CheckpointTuple) -> None:
    """A checkpoint says itself what it must load."""
    assert digest(found.checkpoint["channel_values"]) == found.metadata["digest"], found.config  # type: ignore[typeddict-item]


class Child:
    """What the child processes do."""

    def __init__(self, saver: PooledPostgresSaver, most: int) -> None:
        self.saver = saver
        self.most = most or sys.maxsize
        self.stopped = threading.Event()
        self.done = 0

    def wait_for_the_end(self) -> None:
        """Another line says so."""
        sys.stdin.readline()
        self.stopped.set()

    async def save(self) -> None:
        """Long threads, loaded back now and then, and begun anew from what was loaded."""
        await asyncio.gather(*(self._save(thread) for thread in THREADS))

    async def _save(self, thread: str) -> None:
        rng = random.Random(thread)  # noqa: S311 - the same every time
        items = [element(rng) for _ in range(100)]
        old = [list(items)]
        config: Any = at(thread)
        while not self.stopped.is_set():
            edit(rng, items)
            values = {"messages": items, "notes": items[::2]}
            config = await put(self.saver, config, values, {"digest": digest(values)})
            self.done += 1
            if self.done % 7 == 0:
                found = await self.saver.aget_tuple(at(thread))
                assert found is not None
                assert found.config == config
                verify(found)
                items = found.checkpoint["channel_values"]["messages"]
            if self.done % 50 == 0:
                old.append(json.loads(json.dumps(items)))
                items = json.loads(json.dumps(rng.choice(old)))  # back to elements that were pruned since

    async def prune(self) -> None:
        """Now one thread, now all; what stays must load."""
        rng = random.Random("prune")  # noqa: S311 - the same every time
        while not self.stopped.is_set():
            for thread in THREADS:
                if rng.random() < 0.5:
                    await self.saver.aprune([thread])
                else:
                    await self.saver.aprune([thread], strategy="keep_last", keep_last=rng.randint(1, 5))
                self.done += 1
                if self.done % 20 == 0:
                    for found in await history(self.saver, thread):
                        verify(found)

    async def talk(self) -> None:
        """One conversation of so many turns, continued wherever it is; says what was acknowledged."""
        rng = random.Random()  # noqa: S311 - anything
        found = await self.saver.aget_tuple(at("talk"))
        messages = found.checkpoint["channel_values"]["messages"] if found is not None else []
        version: Any = found.checkpoint["channel_versions"]["messages"] if found is not None else None
        config: Any = found.config if found is not None else at("talk")
        while len(messages) < TURNS:
            messages.append(element(rng, 2000))
            values = {"messages": messages}
            made = checkpoint(values)
            version = self.saver.get_next_version(version, None)
            made["channel_versions"] = {"messages": version}
            about: Any = {"digest": digest(values)}
            config = await self.saver.aput(config, made, about, {"messages": version})
            print(config["configurable"]["checkpoint_id"], digest(values), len(messages), flush=True)
            self.done += 1
            if self.done == self.most and len(messages) < TURNS:
                await asyncio.Event().wait()


async def child(role: str, dsn: str) -> None:
    most = int(sys.stdin.readline())
    async with open_postgres_saver(dsn, storage="shared", setup="verify") as saver:
        work = Child(saver, most)
        print("ready", flush=True)
        threading.Thread(target=work.wait_for_the_end, daemon=True).start()
        await getattr(work, role)()
    print(work.done, flush=True)


async def start(role: str, dsn: str) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.chaos.test_shared_storage", role, dsn, cwd=ROOT, stdin=PIPE, stdout=PIPE
    )


async def say(process: Process, most: int = 0) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{most}\n".encode())
    await process.stdin.drain()


async def lines(process: Process) -> AsyncIterator[str]:
    """Whole lines only: the last one of a process that was killed may be cut."""
    assert process.stdout is not None
    while (line := await process.stdout.readline()).endswith(b"\n"):
        yield line.decode()


async def finish(process: Process) -> int:
    """Tell it to stop; gives how much it did."""
    await say(process)
    said = [line async for line in lines(process)]
    assert await process.wait() == 0
    return int(said[-1])


@asynccontextmanager
async def children(*started: Awaitable[Process]) -> AsyncIterator[list[Process]]:
    processes = [await one for one in started]
    try:
        yield processes
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
                await process.communicate()


def dangling(conn: psycopg.Connection) -> list[Any]:
    """References to elements that are not there."""
    missing = []
    for thread, blob in conn.execute(f"SELECT thread_id, blob FROM {SCHEMA}.checkpoint_blobs WHERE type = 'shared'"):
        rows = conn.execute(f"SELECT hash, type, blob FROM {SCHEMA}.checkpoint_chunks WHERE thread_id = %s", (thread,))
        there = {row[0].bytes: row for row in rows}
        heads, tail = root_hashes(blob)
        inner = [one for head in heads if head in there for one in hashes_of(there[head][2])]
        missing += [(thread, one) for one in (*heads, *tail, *inner) if one not in there]
    return missing


async def test_one_process_saves_and_one_prunes_without_pause(postgres_dsn: str, conn: psycopg.Connection) -> None:
    async with (
        children(start("save", postgres_dsn), start("prune", postgres_dsn)) as processes,
        open_postgres_saver(postgres_dsn) as reader,
    ):
        for process in processes:
            await say(process)
        for process in processes:
            assert await anext(lines(process)) == "ready\n"
        ends = time.monotonic() + SECONDS
        looked = 0
        while time.monotonic() < ends or not is_swept(conn):
            assert [process.returncode for process in processes] == [None, None]
            for thread in THREADS:
                for found in await history(reader, thread):
                    verify(found)
                    looked += 1
        saved, pruned = [await finish(process) for process in processes]
        for thread in THREADS:
            for found in await history(reader, thread):
                verify(found)
    assert dangling(conn) == []
    row = conn.execute(f"SELECT sum(generation) FROM {SCHEMA}.checkpoint_fences").fetchone()
    assert row is not None
    print(f"{saved} saves, {pruned} prunings, {row[0]} sweeps, {looked} checkpoints looked at in {SECONDS:g} s")
    assert min(saved, pruned, looked) >= len(THREADS)


def is_swept(conn: psycopg.Connection) -> bool:
    """Whether each thread was swept several times."""
    row = conn.execute(f"SELECT count(*) FROM {SCHEMA}.checkpoint_fences WHERE generation >= 2").fetchone()
    return row == (len(THREADS),)


async def test_a_conversation_whose_process_is_killed_again_and_again(
    postgres_dsn: str, conn: psycopg.Connection
) -> None:
    acknowledged: dict[str, str] = {}
    turns = 0
    kills = 0
    async with children(start("talk", postgres_dsn)) as processes:
        while turns < TURNS:
            process = processes[-1]
            if kills < KILLS:
                processes.append(await start("talk", postgres_dsn))  # imports while this one works
            more = random.randint(1, 3 * TURNS // KILLS // 2)  # noqa: S311 - any moment
            await say(process, more + AHEAD if kills < KILLS else 0)
            heard = 0
            async for line in lines(process):
                if len(parts := line.split()) != 3:
                    continue
                name, said, length = parts
                assert int(length) > turns
                acknowledged[name], turns = said, int(length)
                heard += 1
                if heard == more and kills < KILLS and turns < TURNS:
                    await asyncio.sleep(random.uniform(0, 0.01))  # noqa: S311 - any moment of a save
                    process.kill()
                    kills += 1
            await process.wait()
            assert process.returncode in (0, -9)
    assert kills >= TURNS // (3 * TURNS // KILLS // 2 + AHEAD)
    async with open_postgres_saver(postgres_dsn) as reader:
        await verify_all(reader, acknowledged)
    assert dangling(conn) == []


async def verify_all(saver: PooledPostgresSaver, acknowledged: dict[str, str]) -> None:
    for name, said in acknowledged.items():
        found = await saver.aget_tuple(at("talk", name))
        assert found is not None
        assert digest(found.checkpoint["channel_values"]) == said


if __name__ == "__main__":
    asyncio.run(child(*sys.argv[1:]))


async def test_a_server_that_comes_back_without_acknowledged_commits_breaks_no_thread() -> None:
    """What such a server lost is lost, as with any saver; what is saved after that loads."""
    lossy = "-c fsync=off -c synchronous_commit=off -c wal_writer_delay=10s"
    items = [{"text": f"{number} " + "x" * 400} for number in range(51)]
    with own_cluster(lossy) as cluster:
        async with open_postgres_saver(cluster.dsn(), storage="shared") as saver:
            await put(saver, at("t"), {"items": items[:10]})
            async with saver.pool.connection() as conn:
                await conn.execute("CHECKPOINT")  # so far it is on disk
            await put(saver, at("t"), {"items": items[:50]})
            cluster.restart("immediate")
            config = await put(saver, at("t"), {"items": items})
            assert (await values_of(saver, config)) == {"items": items}
