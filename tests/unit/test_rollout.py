"""Which threads begin in PostgreSQL, the memory saver's upkeep, and the file that it is carried over in."""

from __future__ import annotations

import asyncio
import multiprocessing
import stat
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import BaseModel

from checkpointer import CheckpointerSettings, SettingsError, open_saver
from checkpointer import memory as in_memory
from checkpointer.errors import ThreadFileError
from checkpointer.postgres.retention import Keep
from checkpointer.serde import AllowListSerializer
from checkpointer.snapshot import holds_threads, load_snapshot, snapshot_lock, write_snapshot
from checkpointer.thread_file import ThreadFileWriter, read_thread_file
from checkpointer.whereabouts import bucket_of
from tests.checkpoints import at, history, put, values_of


class Invoice(BaseModel):
    """A type of a graph's state, which nobody but that graph knows."""

    number: int


def test_a_bucket_is_the_same_everywhere_and_for_good() -> None:
    """By the definition in `whereabouts.py`: a thread's share must not depend on a release or a process."""
    assert [bucket_of(name) for name in ("a", "conversation-17", "größe", "@acme/t")] == [50, 91, 39, 79]


def test_buckets_are_even_and_a_percentage_is_part_of_every_larger_one() -> None:
    """10 % is about a tenth, and whoever is in it stays in it when the percentage grows."""
    threads = [f"thread-{number}" for number in range(10_000)]
    counts = Counter(map(bucket_of, threads))
    assert set(counts) == set(range(100))
    assert min(counts.values()) > 60
    assert max(counts.values()) < 145
    shares = [{name for name in threads if bucket_of(name) < percent} for percent in (0, 10, 50, 100)]
    assert [len(share) for share in shares] == [0, pytest.approx(1000, rel=0.15), pytest.approx(5000, rel=0.1), 10_000]
    assert all(smaller < larger for smaller, larger in pairwise(shares))


@pytest.mark.parametrize("value", ["-1", "101", "half"])
def test_a_percentage_that_is_none_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the variable and what it got."""
    monkeypatch.setenv("POSTGRES_SAVER_ROLLOUT_PERCENT", value)
    with pytest.raises(SettingsError, match=f"POSTGRES_SAVER_ROLLOUT_PERCENT='{value}'"):
        CheckpointerSettings()


async def _conversation(saver: InMemorySaver, thread: str, turns: int, *, ns: str = "") -> list[str]:
    ids: list[str] = []
    for turn in range(turns):
        config = at(thread, ids[-1] if ids else None, ns=ns)
        saved = await put(saver, config, {"turn": turn, "said": [f"{thread} {turn}"]}, {"run_id": f"run-{turn}"})
        ids.append(saved["configurable"]["checkpoint_id"])
        await saver.aput_writes(saved, [("turn", turn), ("__error__", "no"), ("said", ["x"])], f"task-{turn}", "path")
    return ids


async def test_a_copy_has_all_of_the_thread_and_nothing_in_common_with_it() -> None:
    """Values, parents and writes; deleting the source leaves the copy whole."""
    saver = InMemorySaver()
    await _conversation(saver, "t", 3)
    before = await history(saver, "t")
    in_memory.copy_thread(saver, "t", "copy")
    await saver.adelete_thread("t")
    assert not in_memory.has_thread(saver, "t")
    copied = await history(saver, "copy")
    assert [(each.checkpoint, each.metadata, each.pending_writes) for each in copied] == [
        (each.checkpoint, each.metadata, each.pending_writes) for each in before
    ]


async def test_pruning_keeps_the_last_of_each_namespace_with_what_they_need() -> None:
    """The others go, with the values and writes that only they had."""
    saver = InMemorySaver()
    await _conversation(saver, "t", 4)
    await _conversation(saver, "t", 2, ns="below")
    in_memory.prune_thread(saver, "t", Keep(2))
    left = await history(saver, "t", ns="")
    assert [each.checkpoint["channel_values"]["turn"] for each in left] == [3, 2]
    assert left[1].parent_config is None
    assert len(saver.blobs) == 2 * 4
    assert len(saver.writes) == 4
    in_memory.prune_thread(saver, "t", Keep(1))
    assert [each.checkpoint["channel_values"]["turn"] for each in await history(saver, "t")] == [3, 1]


async def test_pruning_leaves_the_ancestors_that_a_delta_channel_is_made_of() -> None:
    """Its state is a snapshot of an ancestor and the writes since, so the way there stays; a fork beside it goes."""
    saver = InMemorySaver()
    counters = {"counters_since_delta_snapshot": {"messages": [1, 1]}}
    first = await put(saver, at("t"), {"n": 1}, counters)
    await put(saver, first, {"n": 2}, counters)
    last = await put(saver, first, {"n": 3}, counters)
    in_memory.prune_thread(saver, "t", Keep(1))
    left = [each.config["configurable"]["checkpoint_id"] for each in await history(saver, "t")]
    assert left == [last["configurable"]["checkpoint_id"], first["configurable"]["checkpoint_id"]]


async def test_the_checkpoints_of_runs_are_deleted_and_the_thread_with_the_last() -> None:
    """Other threads and runs stay."""
    saver = InMemorySaver()
    await _conversation(saver, "t", 2)
    await put(saver, at("u"), {"n": 1}, {"run_id": "other"})
    in_memory.delete_runs(saver, {"run-0"})
    assert [each.checkpoint["channel_values"]["turn"] for each in await history(saver, "t")] == [1]
    in_memory.delete_runs(saver, {"run-1"})
    assert list(in_memory.thread_ids(saver)) == ["u"]


async def test_what_was_written_is_loaded_again_with_the_records_of_others(tmp_path: Path) -> None:
    """Histories with writes are equal; a type that nobody here knows survives; the file is its owner's alone."""
    saver, path = InMemorySaver(serde=AllowListSerializer()), tmp_path / "memory.jsonl"
    await _conversation(saver, "t", 3)
    await put(saver, at("u"), {"invoice": Invoice(number=7), "nul": "a\x00b"})
    runs = [{"kind": "run", "runId": "1", "input": {"$": None}}]
    assert await write_snapshot(saver, path, runs) == 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    loaded = InMemorySaver(serde=AllowListSerializer())
    assert await load_snapshot(loaded, path) == runs
    assert await history(loaded, "t") == await history(saver, "t")
    knowing = loaded.with_allowlist([(Invoice.__module__, "Invoice")])
    assert await values_of(knowing, at("u")) == {"invoice": Invoice(number=7), "nul": "a\x00b"}
    again = tmp_path / "again.jsonl"
    await write_snapshot(loaded, again, runs)
    assert again.read_bytes() == path.read_bytes()


async def test_a_missing_file_is_an_empty_start_and_what_was_said_is_there_the_next_time(tmp_path: Path) -> None:
    """With the flag off, over two lives; the file is written at the end of each."""
    path = tmp_path / "memory.jsonl.zst"
    settings = CheckpointerSettings(memory_snapshot=path)
    async with open_saver(settings) as saver:
        await put(saver, at("t"), {"n": 1})
        assert not path.exists()
    assert holds_threads(path)
    async with open_saver(settings) as saver:
        assert await values_of(saver, at("t")) == {"n": 1}
    async with open_saver(settings, snapshot=False) as saver:
        assert await values_of(saver, at("t")) is None


async def test_a_damaged_file_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    """One flipped byte; the message names the file."""
    path = tmp_path / "memory.jsonl"
    saver = InMemorySaver()
    await put(saver, at("t"), {"text": "hello"})
    await write_snapshot(saver, path)
    damaged = path.read_bytes().replace(b"hello", b"hellp")
    path.write_bytes(damaged)
    with pytest.raises(ThreadFileError, match=str(path)):
        async with open_saver(CheckpointerSettings(memory_snapshot=path)):
            pytest.fail("it was opened")
    assert path.read_bytes() == damaged


async def test_a_stop_that_fails_to_write_leaves_the_last_file(tmp_path: Path) -> None:
    """The file is replaced in one step, or not at all."""
    path = tmp_path / "memory.jsonl"
    saver = InMemorySaver()
    await put(saver, at("t"), {"n": 1})
    await write_snapshot(saver, path)
    before = path.read_bytes()
    with pytest.raises(KeyError):
        await write_snapshot(saver, path, [{"no kind": 1}])
    assert path.read_bytes() == before
    assert not list(tmp_path.glob("*.partial"))  # noqa: ASYNC240


async def test_two_processes_do_not_share_a_file(tmp_path: Path) -> None:
    """The second is told so; it may have the file once the first one is gone, however that ended."""
    path = tmp_path / "memory.jsonl"
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(path, held, release))
    other.start()
    try:
        assert await asyncio.to_thread(held.wait, 60)
        with pytest.raises(SettingsError, match="in use by another process"):
            async with open_saver(CheckpointerSettings(memory_snapshot=path)):
                pytest.fail("it was opened")
    finally:
        other.kill()
        other.join()
    async with open_saver(CheckpointerSettings(memory_snapshot=path)):
        pass


def _hold(path: Path, held: Any, release: Any) -> None:
    with snapshot_lock(path):
        held.set()
        release.wait()


async def test_records_of_others_are_carried_from_life_to_life(tmp_path: Path) -> None:
    """What another part of the system keeps in the file is not lost because the saver does not know it."""
    path = tmp_path / "memory.jsonl"
    with ThreadFileWriter(path) as file:
        file.write({"kind": "run", "runId": "1"})
    async with open_saver(CheckpointerSettings(memory_snapshot=path)) as saver:
        await put(saver, at("t"), {"n": 1})
    assert [record["kind"] for record in read_thread_file(path)] == ["run", "checkpoint"]
