"""With keys set nothing of a value is readable, rows are bound to their place, and keys come and go."""

from __future__ import annotations

import operator
from typing import Annotated, Any, TypedDict

import psycopg
import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, Send, interrupt
from psycopg import sql

from checkpointer import CheckpointerSettings, open_postgres_saver, open_saver
from checkpointer.errors import UnreadableError
from checkpointer.serde import Cipher, CompressedSerializer
from tests.checkpoints import SCHEMA, TABLES, at, everything, history, put, values_of

ONE, TWO = ("one", bytes(range(32))), ("two", bytes(range(1, 17)))
MARKER = "MARK"
NUMBER = 7_316_717_653_133


def joined(state: list[str] | None, writes: list[list[str]]) -> list[str]:
    return [*(state or []), *(item for write in writes for item in write)]


class State(TypedDict, total=False):
    text: str
    number: int
    ratio: float
    flag: bool
    items: Annotated[list[str], operator.add]
    messages: Annotated[list[AnyMessage], add_messages]
    delta: Annotated[list[str], DeltaChannel(joined, list[str], snapshot_frequency=2)]
    piece: str


def marked_graph() -> Any:
    """Every kind of value with the marker in it: input, state, message, Send, interrupt, resume, error."""

    def first(state: State) -> dict[str, Any]:
        return {
            "text": f"{MARKER} text",
            "number": NUMBER,
            "ratio": NUMBER + 0.5,
            "flag": True,
            "items": [f"{MARKER} item"],
            "messages": [AIMessage(content=f"{MARKER} message", id="a")],
            "delta": [f"{MARKER} delta"],
        }

    def ask(state: State) -> dict[str, Any]:
        return {"text": interrupt({"question": f"{MARKER} question", "number": NUMBER})}

    def fail(state: State) -> dict[str, Any]:
        raise ValueError(f"{MARKER} error")

    builder = StateGraph(State)
    builder.add_node("first", first)
    builder.add_node("work", lambda state: {"items": [state["piece"]], "delta": [state["piece"]]})
    builder.add_node("ask", ask)
    builder.add_node("fail", fail)
    builder.add_edge(START, "first")
    builder.add_conditional_edges(
        "first", lambda _: [Send("work", {"piece": f"{MARKER} sent {n}"}) for n in range(2)], ["work"]
    )
    builder.add_edge("work", "ask")
    builder.add_edge("ask", "fail")
    return builder


async def run_marked(saver: Any, thread: str) -> Any:
    graph: Any = marked_graph().compile(checkpointer=saver)
    asked = {"messages": [HumanMessage(content=f"{MARKER} input", id="h")], "text": f"{MARKER} input"}
    await graph.ainvoke(asked, at(thread), durability="sync")
    with pytest.raises(ValueError, match=MARKER):
        await graph.ainvoke(Command(resume=f"{MARKER} answer"), at(thread), durability="sync")
    return graph


def in_clear(conn: psycopg.Connection) -> dict[str, int]:
    """How many rows of each table show the marker or the number, in any column, as text or as bytes."""
    found = {}
    number = NUMBER.to_bytes(8, "big").hex()
    for table in TABLES:
        query = sql.SQL(
            "SELECT count(*) FROM {} t WHERE t::text LIKE %s OR t::text LIKE %s OR t::text LIKE %s OR t::text LIKE %s"
        ).format(sql.Identifier(SCHEMA, table))
        patterns = [MARKER, str(NUMBER), MARKER.encode().hex(), number]
        row = conn.execute(query, [f"%{pattern}%" for pattern in patterns]).fetchone()
        assert row is not None
        found[table] = row[0]
    return found


async def test_no_value_is_in_clear(postgres_dsn: str, conn: psycopg.Connection) -> None:
    plain = CompressedSerializer(threshold=10**9)
    async with open_postgres_saver(postgres_dsn, serde=plain, cipher=Cipher([ONE])) as saver:
        graph = await run_marked(saver, "t")
        await saver.acopy_thread("t", "copy")
        assert in_clear(conn) == dict.fromkeys(TABLES, 0)
        kinds = {row[4] for row in everything(conn)["checkpoint_blobs"]}
        kinds |= {row[6] for row in everything(conn)["checkpoint_writes"]}
        assert all(kind.endswith("+gcm.one") for kind in kinds)
        state = await graph.aget_state(at("t"))
        assert state.values["number"] == NUMBER
        assert state.values["delta"] == [f"{MARKER} delta", f"{MARKER} sent 0", f"{MARKER} sent 1"]
        assert state.tasks[0].error is not None
    # and the test would notice: without keys the same run shows it everywhere
    async with open_postgres_saver(postgres_dsn, serde=plain) as saver:
        await run_marked(saver, "open")
    assert all(in_clear(conn).values())


async def test_through_the_settings(checkpointer_settings: CheckpointerSettings, conn: psycopg.Connection) -> None:
    changes = {"checkpoint_encryption_keys": "one:AAECAwQFBgcICQoLDA0ODw==", "checkpoint_compression": "none"}
    settings = CheckpointerSettings(**{**checkpointer_settings.model_dump(), **changes})
    async with open_saver(settings) as saver:
        await run_marked(saver, "t")
    assert in_clear(conn) == dict.fromkeys(TABLES, 0)


async def test_a_row_moved_to_another_place_does_not_decrypt(postgres_dsn: str, conn: psycopg.Connection) -> None:
    async with open_postgres_saver(postgres_dsn, cipher=Cipher([ONE])) as saver:

        async def fresh() -> None:
            conn.execute("TRUNCATE workflow_checkpoints.checkpoints, workflow_checkpoints.checkpoint_blobs")
            conn.execute("TRUNCATE workflow_checkpoints.checkpoint_writes")
            for thread in ("a", "b"):
                saved = await put(saver, at(thread), {"x": [f"{thread} x"], "y": f"{thread} y"})
                await saver.aput_writes(saved, [("x", [f"{thread} w"]), ("y", f"{thread} v")], "task")

        swaps = {
            "a value of another thread": """
                UPDATE {0}.checkpoint_blobs b SET type = a.type, blob = a.blob FROM {0}.checkpoint_blobs a
                 WHERE a.thread_id = 'a' AND b.thread_id = 'b' AND a.channel = 'x' AND b.channel = 'x'""",
            "a value of another channel": """
                UPDATE {0}.checkpoint_blobs b SET type = a.type, blob = a.blob FROM {0}.checkpoint_blobs a
                 WHERE a.thread_id = 'b' AND b.thread_id = 'b' AND a.channel = 'y' AND b.channel = 'x'""",
            "a write of another thread": """
                UPDATE {0}.checkpoint_writes b SET type = a.type, blob = a.blob FROM {0}.checkpoint_writes a
                 WHERE a.thread_id = 'a' AND b.thread_id = 'b' AND a.idx = 0 AND b.idx = 0""",
            "another write of the same task": """
                UPDATE {0}.checkpoint_writes b SET type = a.type, blob = a.blob FROM {0}.checkpoint_writes a
                 WHERE a.thread_id = 'b' AND b.thread_id = 'b' AND a.idx = 1 AND b.idx = 0""",
            "a write as a value": """
                UPDATE {0}.checkpoint_blobs b SET type = a.type, blob = a.blob FROM {0}.checkpoint_writes a
                 WHERE a.thread_id = 'b' AND b.thread_id = 'b' AND a.channel = 'x' AND b.channel = 'x'""",
            "a task of another name": "UPDATE {0}.checkpoint_writes SET task_id = 'other' WHERE thread_id = 'b'",
            "a whole thread under another name": """
                WITH c AS (UPDATE {0}.checkpoints SET thread_id = 'b' || thread_id),
                     b AS (UPDATE {0}.checkpoint_blobs SET thread_id = 'b' || thread_id)
                UPDATE {0}.checkpoint_writes SET thread_id = 'b' || thread_id""",
        }
        for name, swap in swaps.items():
            await fresh()
            conn.execute(swap.format(SCHEMA).encode())
            thread = "bb" if name.startswith("a whole") else "b"
            with pytest.raises(UnreadableError, match="another row"):
                await saver.aget_tuple(at(thread))
            with pytest.raises(UnreadableError):
                await history(saver, thread)
            assert name.startswith("a whole") or await values_of(saver, at("a")) == {"x": ["a x"], "y": "a y"}


async def test_a_copy_decrypts_and_a_copied_row_does_not(postgres_dsn: str, conn: psycopg.Connection) -> None:
    async with open_postgres_saver(postgres_dsn, cipher=Cipher([ONE])) as saver:
        await put(saver, at("t"), {"x": [1], "y": "2"})
        await saver.acopy_thread("t", "copy")
        assert await values_of(saver, at("copy")) == {"x": [1], "y": "2"}
    async with open_postgres_saver(postgres_dsn) as saver:
        before = everything(conn)
        with pytest.raises(UnreadableError, match="CHECKPOINT_ENCRYPTION_KEYS"):
            await saver.acopy_thread("t", "another")
        assert everything(conn) == before


async def test_keys_come_and_go_over_the_same_threads(postgres_dsn: str) -> None:
    """Off, on, rotated, off: one thread written under each, and read under all that know its keys."""
    eras: list[Cipher | None] = [None, Cipher([ONE]), Cipher([TWO, ONE]), Cipher([TWO]), Cipher([ONE, TWO])]
    config: Any = at("t")
    written: list[dict[str, Any]] = []
    for era, cipher in enumerate(eras):
        async with open_postgres_saver(postgres_dsn, cipher=cipher) as saver:
            values = {"text": f"era {era}", "list": [era], "same": None, "nul": "\x00"}
            config = await put(saver, config, values)
            await saver.aput_writes(config, [("text", f"write {era}")], "task")
            written.insert(0, values)
    async with open_postgres_saver(postgres_dsn, cipher=Cipher([ONE, TWO])) as saver:
        found = await history(saver, "t")
        assert [one.checkpoint["channel_values"] for one in found] == written
        assert [one.pending_writes for one in found] == [[("task", "text", f"write {n}")] for n in (4, 3, 2, 1, 0)]
    for keys, missing in ((None, "is not set"), (Cipher([TWO]), "'one'"), (Cipher([ONE]), "'two'")):
        async with open_postgres_saver(postgres_dsn, cipher=keys) as saver:
            with pytest.raises(UnreadableError, match=missing):
                await history(saver, "t")


async def test_a_graph_goes_on_when_encryption_is_switched(postgres_dsn: str) -> None:
    class Counting(TypedDict, total=False):
        number: int
        name: str
        seen: Annotated[list[int], operator.add]

    def count(state: Counting) -> dict[str, Any]:
        return {"number": state.get("number", 0) + 1, "seen": [state.get("number", 0)]}

    builder: Any = StateGraph(Counting).add_node("count", count).add_edge(START, "count")
    expected: list[int] = []
    for step, cipher in enumerate((None, Cipher([ONE]), Cipher([TWO, ONE]), Cipher([ONE, TWO]), Cipher([ONE, TWO]))):
        async with open_postgres_saver(postgres_dsn, cipher=cipher) as saver:
            graph = builder.compile(checkpointer=saver)
            # the name is written once, in clear, and carried through every later checkpoint
            await graph.ainvoke(Counting(name="first") if step == 0 else Counting(seen=[]), at("t"))
            expected.append(step)
            state = await graph.aget_state(at("t"))
            assert state.values == {"number": step + 1, "name": "first", "seen": expected}
            numbers = [found.values.get("number") async for found in graph.aget_state_history(at("t"))]
            assert numbers[0::3] == list(range(step + 1, 0, -1))
