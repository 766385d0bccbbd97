"""What a checkpoint may hold, and that it comes back as it was."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator
from enum import IntEnum, StrEnum
from typing import Any

import psycopg
import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.graph import START, MessagesState, StateGraph

from checkpointer import PooledPostgresSaver, open_postgres_saver
from checkpointer.errors import BlockedTypeError, UnsavableError
from checkpointer.serde import Cipher, CompressedSerializer
from tests.checkpoints import at, everything, put, values_of

KEYS = Cipher([("one", bytes(range(32)))])


class Colour(StrEnum):
    RED = "red"


class Size(IntEnum):
    LARGE = 3


class Name(str):
    pass


class Weight(float):
    pass


@pytest.fixture(params=["clear", "encrypted"])
async def saver(postgres_dsn: str, request: pytest.FixtureRequest) -> AsyncIterator[PooledPostgresSaver]:
    cipher = KEYS if request.param == "encrypted" else None
    async with open_postgres_saver(postgres_dsn, cipher=cipher) as opened:
        yield opened


PRIMITIVES: dict[str, Any] = {
    "none": None,
    "true": True,
    "false": False,
    "zero": 0,
    "minus": -7,
    "largest msgpack": 2**64 - 1,
    "beyond 64 bits": 2**64,
    "beyond double": 12345678901234567890123456789,
    "minus beyond 64 bits": -(2**70),
    "float": 0.1,
    "float without fraction": 3.0,
    "large float": 1e16,
    "minus large float": -1e22,
    "larger float": 1e300,
    "minus nothing": -0.0,
    "tiny": 5e-324,
    "infinite": math.inf,
    "minus infinite": -math.inf,
    "empty": "",
    "nul": "a\x00b",
    "only nul": "\x00",
    "escaped nul": "a\\u0000b",
    "astral": "é 🙂 \ufffe \u2028",
    "long": "x" * 100_000,
    "json": '{"a": [1, "b"]}',
    "enum": Colour.RED,
    "number enum": Size.LARGE,
    "str subclass": Name("n"),
    "float subclass": Weight(1.5),
}
OBJECTS: dict[str, Any] = {
    "empty list": [],
    "empty dict": {},
    "nested": [{"a": [None, True, {"b": [1, 2]}]}],
    "bytes": b"\x00\xff",
    "bytearray": bytearray(b"\x00\xff"),
    "empty bytes": b"",
    "message": AIMessage(content="nul \x00 in a message", id="1", additional_kwargs={"k\x00": "v\x00"}),
    "messages": [HumanMessage(content="x", id="1"), ToolMessage(content="y", tool_call_id="2", id="3")],
    "int keys": {1: "a", 2: "b"},
    "large": [list(range(1000))] * 100,
}


VALUES = {**PRIMITIVES, **OBJECTS}
# An enum, and any subclass, comes back as the plain value, encrypted or not; everything else as what it was.
SUBCLASSES = {"enum", "number enum", "str subclass", "float subclass"}


def differing(found: dict[str, Any]) -> dict[str, Any]:
    """What did not come back as it was."""
    return {
        name: found.get(name)
        for name, value in VALUES.items()
        if name not in found
        or found[name] != value
        or (type(found[name]) is not type(value) and name not in SUBCLASSES)
    }


async def test_every_value_comes_back(saver: PooledPostgresSaver) -> None:
    saved = await put(saver, at("t"), VALUES)
    latest, by_id = await values_of(saver, at("t")), await values_of(saver, saved)
    assert latest is not None
    assert differing(latest) == {}
    assert {name: type(latest[name]) for name in SUBCLASSES} == {
        "enum": str,
        "number enum": int,
        "str subclass": str,
        "float subclass": float,
    }
    listed = [one.checkpoint["channel_values"] async for one in saver.alist(at("t"))]
    assert [latest] == [by_id] == listed


async def test_not_a_number(saver: PooledPostgresSaver) -> None:
    await put(saver, at("t"), {"nan": math.nan})
    found = await values_of(saver, at("t"))
    assert found is not None
    assert math.isnan(found["nan"])


async def test_every_value_comes_back_as_a_pending_write(saver: PooledPostgresSaver) -> None:
    # LangGraph's serializer takes no subclass of float, and rebuilds an enum, which must be on the allow-list.
    writes = [(name, value) for name, value in VALUES.items() if name not in SUBCLASSES]
    saved = await put(saver, at("t"), {"a": 1})
    await saver.aput_writes(saved, writes, "task", "path")
    found = await saver.aget_tuple(at("t"))
    assert found is not None
    assert [(task, name) for task, name, _ in found.pending_writes or []] == [("task", name) for name, _ in writes]
    back = {name: value for _, name, value in found.pending_writes or []}
    assert differing({**VALUES, **back}) == {}


async def test_a_primitive_stays_with_checkpoints_that_did_not_change_it(saver: PooledPostgresSaver) -> None:
    """With encryption, or a NUL in it, its row is the first checkpoint's; every later one refers to it."""
    config = at("t")
    made = empty_checkpoint()
    made["channel_values"] = {"text": "a\x00b", "number": 1, "list": [1]}
    made["channel_versions"] = {"text": "1", "number": "1", "list": "1"}
    config = await saver.aput(config, made, {"step": 0}, dict(made["channel_versions"]))
    for step in range(1, 4):
        later = empty_checkpoint()
        later["channel_values"] = {"text": "a\x00b", "number": 1, "list": [step]}
        later["channel_versions"] = {"text": "1", "number": "1", "list": str(step + 1)}
        config = await saver.aput(config, later, {"step": step}, {"list": str(step + 1)})
    values = [one.checkpoint["channel_values"] async for one in saver.alist(at("t"))]
    assert values == [{"text": "a\x00b", "number": 1, "list": [step or 1]} for step in (3, 2, 1, 0)]


async def test_an_empty_checkpoint(saver: PooledPostgresSaver) -> None:
    made = empty_checkpoint()
    await saver.aput(at("t"), made, {}, {})
    found = await saver.aget_tuple(at("t"))
    assert found is not None
    assert found.checkpoint == made
    assert found.pending_writes == []
    assert found.parent_config is None


async def test_metadata_comes_back(saver: PooledPostgresSaver) -> None:
    about = {"step": -1, "source": "input", "user": {"id": 2**40, "tags": ["é", None, 1.5]}, "big": 2**70}
    await put(saver, at("t"), {"a": 1}, about)
    found = await saver.aget_tuple(at("t"))
    assert found is not None
    assert found.metadata == {"parents": {}, **about}
    assert [one async for one in saver.alist(at("t"), filter={"user": {"id": 2**40}})] == [found]
    assert [one async for one in saver.alist(at("t"), filter={"step": 2})] == []


async def test_a_lone_surrogate_is_refused_and_the_channel_named(saver: PooledPostgresSaver) -> None:
    for text in ("\ud83d", "a\udc00b", "\x00\ud800"):
        with pytest.raises(UnsavableError, match="'draft'"):
            await put(saver, at("t"), {"draft": text})


async def test_every_id_is_checked(saver: PooledPostgresSaver, conn: psycopg.Connection) -> None:
    for bad in ("a\x00b", "\ud800"):
        with pytest.raises(UnsavableError, match="thread_id"):
            await put(saver, at(bad), {})
        with pytest.raises(UnsavableError, match="checkpoint_ns"):
            await put(saver, at("t", ns=bad), {})
        with pytest.raises(UnsavableError, match="checkpoint_id"):
            await put(saver, at("t", bad), {})
        with pytest.raises(UnsavableError, match="channel"):
            await put(saver, at("t"), {bad: [1]})
        with pytest.raises(UnsavableError, match="task_id"):
            await saver.aput_writes(at("t", "1"), [("a", 1)], bad)
        with pytest.raises(UnsavableError, match="task_path"):
            await saver.aput_writes(at("t", "1"), [("a", 1)], "task", bad)
        with pytest.raises(UnsavableError, match="channel"):
            await saver.aput_writes(at("t", "1"), [(bad, 1)], "task")
        with pytest.raises(UnsavableError, match="target_thread_id"):
            await saver.acopy_thread("t", bad)
    assert not any(everything(conn).values())


async def test_ids_that_are_not_strings(saver: PooledPostgresSaver) -> None:
    config: Any = {"configurable": {"thread_id": 7}}
    await put(saver, {"configurable": {"thread_id": 7, "checkpoint_ns": ""}}, {"a": 1})
    assert await values_of(saver, config) == {"a": 1}
    assert await values_of(saver, at("7")) == {"a": 1}


async def test_a_type_off_the_list_is_refused_at_load(saver: PooledPostgresSaver) -> None:
    saved = await put(saver, at("t"), {"colours": [Colour.RED]})
    with pytest.raises(BlockedTypeError, match="Colour"):
        await values_of(saver, saved)
    allowing = saver.with_allowlist([(Colour.__module__, "Colour")])
    assert await values_of(allowing, saved) == {"colours": [Colour.RED]}


@pytest.mark.parametrize("direction", ["save", "load"])
async def test_large_values_are_serialized_beside_the_loop(
    postgres_dsn: str, monkeypatch: pytest.MonkeyPatch, direction: str
) -> None:
    used: set[int] = set()

    class Watched(CompressedSerializer):
        def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
            if direction == "save":
                used.add(threading.get_ident())
            return super().dumps_typed(obj)

        def loads_typed(self, data: tuple[str, bytes]) -> Any:
            if direction == "load":
                used.add(threading.get_ident())
            return super().loads_typed(data)

    here = threading.get_ident()
    # not compressible, so that it is large as it is stored, too
    large = [b"".join(hash((n, m)).to_bytes(8, "big", signed=True) for m in range(100)) for n in range(200)]
    async with open_postgres_saver(postgres_dsn, serde=Watched()) as saver:
        await put(saver, at("t"), {"list": large})
        assert await values_of(saver, at("t")) == {"list": large}
        assert used
        assert here not in used
        used.clear()
        await put(saver, at("small"), {"list": [1]})
        await values_of(saver, at("small"))
        assert used == {here}


async def test_a_slow_serializer_does_not_stop_the_others(postgres_dsn: str) -> None:
    """While a large value is being serialized, other runs save and load."""
    begun, may_end = threading.Event(), threading.Event()

    class Slow(CompressedSerializer):
        def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
            if isinstance(obj, list) and len(obj) > 10_000:
                begun.set()
                assert may_end.wait(60)
            return super().dumps_typed(obj)

    async with open_postgres_saver(postgres_dsn, serde=Slow()) as saver:
        large = asyncio.create_task(put(saver, at("large"), {"list": list(range(20_000))}))
        assert await asyncio.to_thread(begun.wait, 60)
        await asyncio.gather(*(put(saver, at(str(n)), {"list": [n]}) for n in range(50)))
        assert not large.done()
        may_end.set()
        await large


async def test_nul_survives_in_a_graph(saver: PooledPostgresSaver) -> None:
    class State(MessagesState):
        text: str

    def answer(state: State) -> dict[str, Any]:
        return {"messages": [AIMessage(content=f"{state['text']}\x00!", id="a")], "text": state["text"] + "\x00end"}

    graph: Any = StateGraph(State).add_node("answer", answer).add_edge(START, "answer").compile(checkpointer=saver)
    asked = {"messages": [HumanMessage(content="q\x00", id="q")], "text": "t\x00"}
    done = await graph.ainvoke(asked, at("t"))
    assert done["text"] == "t\x00\x00end"
    state = await graph.aget_state(at("t"))
    assert state.values == done
    assert [message.content for message in state.values["messages"]] == ["q\x00", "t\x00\x00!"]


async def test_a_hundred_megabytes(postgres_dsn: str) -> None:
    """Beyond a batch's bounds, beyond TOAST's first step; and it is not slow."""
    data = bytes(range(256)) * 400_000
    async with open_postgres_saver(postgres_dsn) as saver:
        started = time.monotonic()
        await put(saver, at("t"), {"data": data})
        found = await values_of(saver, at("t"))
        assert found is not None
        assert found["data"] == data
        assert time.monotonic() - started < 100
