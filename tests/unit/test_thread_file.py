"""Threads as records, and files of them: nothing is lost, nothing damaged is taken for sound."""

from __future__ import annotations

import json
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.types import INTERRUPT, RESUME

from checkpointer import BlockedTypeError, ThreadFileError, TransferError
from checkpointer.serde import AllowListSerializer
from checkpointer.thread_file import (
    Record,
    ThreadFileWriter,
    list_thread_ids,
    load_records,
    read_thread_file,
    thread_records,
    verify_thread_file,
)
from checkpointer.threads.values import decode, encode
from tests.checkpoints import at, history, put
from tests.stateful import run

SERDE = AllowListSerializer()
NAMES = ("threads.jsonl", "threads.jsonl.zst")

plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(max_size=8)
keys = st.sampled_from(["$type", "$data", "$$type", "$shown", "$", "a", ""]) | st.text(max_size=4)
nested = st.recursive(
    plain | st.sets(st.integers(0, 9)),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(keys, inner, max_size=4)
        | st.dictionaries(st.integers(0, 5), st.text(max_size=3), max_size=3)
    ),
    max_leaves=12,
)


@given(nested)
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    written = json.loads(json.dumps(encode(value, SERDE)))
    back = decode(written, SERDE)
    assert back == value
    assert repr(back) == repr(value) or "{" in repr(value)  # sets have no order; 1 and 1.0 have to stay apart


def test_what_json_can_hold_is_readable_and_the_rest_says_what_it_is() -> None:
    value = {"n": 1, "words": ["a", None, True], "ask": HumanMessage("hi", id="1"), "$type": "mine"}
    written = encode(value, SERDE)
    assert written["n"] == 1
    assert written["words"] == ["a", None, True]
    assert written["$$type"] == "mine"
    assert written["ask"]["$type"] == "msgpack"
    assert "content='hi'" in written["ask"]["$shown"]


async def records_of(saver: InMemorySaver, thread: str) -> list[Record]:
    return [record async for record in thread_records(saver, thread)]


async def conversation(length: int) -> InMemorySaver:
    """A thread named t whose list grows by one message at each checkpoint."""
    saver, config, messages = InMemorySaver(), at("t"), []
    for number in range(length):
        messages.append(HumanMessage("words " * 20, id=str(number)))
        config = await put(saver, config, {"messages": list(messages), "number": number})
    return saver


async def test_records_of_a_growing_list_grow_with_its_length() -> None:
    sizes = {}
    for length in (50, 100):
        source, target = await conversation(length), InMemorySaver()
        records = await records_of(source, "t")
        sizes[length] = len(json.dumps(records))
        assert (await load_records(target, records)).checkpoints == length
        assert await history(target, "t") == await history(source, "t")
    assert sizes[100] < 2.3 * sizes[50]  # the square would be four times


async def test_a_fork_takes_its_values_from_its_own_parent() -> None:
    source, target = InMemorySaver(), InMemorySaver()
    root = await put(source, at("t"), {"list": [1], "other": {"a": 1}})
    first = await source.aget_tuple(root)
    assert first is not None
    for branch in ([1, 2], [1, 3], [7], []):
        ids = {**root["configurable"], "checkpoint_ns": ""}
        await put(source, {"configurable": ids}, {"list": branch})
    await load_records(target, await records_of(source, "t"))
    assert await history(target, "t") == await history(source, "t")


async def test_loading_again_and_after_a_part_has_the_same_end() -> None:
    source, target = InMemorySaver(), InMemorySaver()
    await run(source, "sending", "t")
    records = await records_of(source, "t")
    whole = await history(source, "t")
    for part in (1, len(records) // 2, len(records), len(records)):
        await load_records(target, records[:part])
    assert await history(target, "t") == whole
    assert source.writes == target.writes


async def test_a_thread_can_be_renamed_and_loads_carry_extras() -> None:
    source, target = await conversation(3), InMemorySaver()
    loaded = await load_records(target, await records_of(source, "t"), thread_id="u", extra={"__fence_epoch": 3})
    assert loaded.threads == {"u"}
    assert [name async for name in list_thread_ids(target)] == ["u"]
    assert [found.checkpoint for found in await history(target, "u")] == [
        found.checkpoint for found in await history(source, "t")
    ]
    assert [found.metadata for found in await history(target, "u")] == [
        found.metadata for found in await history(source, "t")
    ]


async def test_writes_keep_their_paths_their_order_and_their_index() -> None:
    source, target = InMemorySaver(), InMemorySaver()
    config = await put(source, at("t"), {"n": 1})
    await source.aput_writes(config, [("b", 1), (RESUME, "yes"), ("c", 2)], "task 2", "~a")
    await source.aput_writes(config, [(INTERRUPT, ("q",))], "task 1", "~b")
    await source.aput_writes(config, [("d", 1)], "task 3")
    await load_records(target, await records_of(source, "t"))
    assert target.writes == source.writes
    assert await target.aget_tuple(config) == await source.aget_tuple(config)


@dataclass
class Invoice:
    """A type of the user's."""

    number: int


async def test_a_type_off_the_list_is_refused_and_the_thread_named() -> None:
    listed = AllowListSerializer([(__name__, "Invoice")])
    source = InMemorySaver(serde=listed)
    await put(source, at("its name"), {"invoice": [Invoice(7)]})
    records = await records_of(source, "its name")
    with pytest.raises(TransferError, match=r"'its name'.*Invoice") as caught:
        await load_records(InMemorySaver(serde=AllowListSerializer()), records)
    assert isinstance(caught.value.__cause__, BlockedTypeError)
    target = InMemorySaver(serde=listed)
    await load_records(target, records)
    assert await history(target, "its name") == await history(source, "its name")


def written(path: Path, count: int = 5) -> Path:
    with ThreadFileWriter(path, {"about": "a test"}) as out:
        for number in range(count):
            out.write({"kind": "run", "runId": str(number), "text": "words " * 50, "big": 2**80, "half": "\ud800"})
    return path


@pytest.mark.parametrize("name", NAMES)
def test_a_file_gives_back_every_record_whatever_its_kind(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name)
    records = list(read_thread_file(path))
    assert [record["runId"] for record in records] == ["0", "1", "2", "3", "4"]
    assert records[0]["big"] == 2**80
    assert records[0]["half"] == "\ud800"
    assert verify_thread_file(path).counts == {"run": 5}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == [name]


def same_inside(path: Path, sound: bytes) -> bool:
    """Whether a compressed file has the contents of the sound one."""
    try:
        return zstandard.decompress(path.read_bytes(), 1 << 20) == zstandard.decompress(sound, 1 << 20)
    except zstandard.ZstdError:
        return False


@pytest.mark.parametrize("name", NAMES)
def test_damage_anywhere_is_found(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name)
    sound = path.read_bytes()
    for place in range(0, len(sound), max(1, len(sound) // 60)):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
        if name.endswith(".zst") and same_inside(path, sound):
            continue  # a bit that zstd does not use
        with pytest.raises(ThreadFileError, match=name):
            verify_thread_file(path)
    for length in (0, 10, len(sound) // 2, len(sound) - 2):
        path.write_bytes(sound[:length])
        with pytest.raises(ThreadFileError, match=name):
            verify_thread_file(path)


def test_a_lost_line_and_a_line_too_many_are_found(tmp_path: Path) -> None:
    path = written(tmp_path / "threads.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    for changed in (lines[:2] + lines[3:], [*lines, lines[1]], lines[:-1]):
        path.write_bytes(b"".join(changed))
        with pytest.raises(ThreadFileError):
            verify_thread_file(path)


def test_another_format_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "threads.jsonl"
    for text, says in (
        ('{"kind":"header","format":"holdfast-threads","version":2}\n', "format version 2"),
        ('{"kind":"header","format":"something"}\n', "first line"),
        ("[1]\n", "line 1 is no record"),
        ("hello\n", "line 1"),
    ):
        path.write_text(text)
        with pytest.raises(ThreadFileError, match=says):
            verify_thread_file(path)
    with pytest.raises(ThreadFileError, match="can't be read"):
        verify_thread_file(tmp_path / "none.jsonl")


def test_a_writer_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = written(tmp_path / "threads.jsonl", 3)
    with pytest.raises(TypeError), ThreadFileWriter(path) as out:
        out.write({"kind": "run", "text": object()})
    assert verify_thread_file(path).counts == {"run": 3}
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(ThreadFileError, match="can't be written"), ThreadFileWriter(tmp_path / "no" / "such.jsonl"):
        pass


def test_a_compressed_file_of_two_frames_is_read_to_its_end(tmp_path: Path) -> None:
    path = written(tmp_path / "threads.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    packed = path.with_name("threads.jsonl.zst")
    packed.write_bytes(zstandard.compress(b"".join(lines[:3])) + zstandard.compress(b"".join(lines[3:])))
    assert verify_thread_file(packed).counts == {"run": 5}
