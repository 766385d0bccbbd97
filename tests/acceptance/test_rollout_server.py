"""A rollout as its operators do it: a server at 0, 10, 50, 100 and again 0 %, stopped and started in between."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import psycopg

from checkpointer.thread_file import verify_thread_file
from checkpointer.whereabouts import bucket_of
from tests.forking import run_holdfast
from tests.servers import Server, serving

_TALK = """
import operator
from typing import Annotated, TypedDict
from langgraph.graph import START, StateGraph

class State(TypedDict, total=False):
    said: Annotated[list[str], operator.add]

def answer(state: State) -> State:
    return {"said": [f"answer to {state['said'][-1]}"]}

graph = StateGraph(State).add_node("answer", answer).add_edge(START, "answer").compile()
"""
_NEW_A_PHASE = 15
_AT_ONCE = 8


async def test_every_thread_goes_on_through_the_whole_rollout(
    postgres_dsn: str, conn: psycopg.Connection, tmp_path: Path
) -> None:
    """75 conversations of up to five turns: each has its whole history each time, in one engine, for good."""
    (tmp_path / "talk.py").write_text(_TALK)
    (tmp_path / "langgraph.json").write_text(json.dumps({"graphs": {"talk": "./talk.py:graph"}}))
    snapshot = tmp_path / "memory.jsonl"
    environment = {
        "USE_POSTGRES_SAVER": "true",
        "POSTGRES_CONNECTION_STRING": postgres_dsn,
        "MEMORY_SNAPSHOT": str(snapshot),
    }
    turns: dict[str, int] = {}
    home: dict[str, str] = {}
    async with serving(tmp_path, environment, "--graphs", "langgraph.json") as server:
        for phase, percent in enumerate((0, 10, 50, 100, 0)):
            await server.start(POSTGRES_SAVER_ROLLOUT_PERCENT=str(percent))
            new = [f"phase {phase} thread {number}" for number in range(_NEW_A_PHASE)]
            turns.update(dict.fromkeys(new, 0))
            runs = await _say(server, turns)
            for thread, run in runs.items():
                assert home.setdefault(thread, run["checkpointer"]) == run["checkpointer"], (thread, percent)
            for thread in new:
                expected = "PostgresSaver" if bucket_of(thread) < percent else "MemorySaver"
                assert home[thread] == expected, (thread, percent)
            in_memory = {thread for thread, place in home.items() if place == "MemorySaver"}
            health = await server.get("/api/health/checkpointer")
            assert health["checkpointer"] == "PostgresSaver"
            assert health["durable"] is False
            assert health["rollout"] == {
                "percent": percent,
                "memoryThreads": len(in_memory),
                "memorySnapshot": True,
            }
            assert await server.stop() == 0
            assert set(verify_thread_file(snapshot).threads) == in_memory
            rows = conn.execute("SELECT DISTINCT thread_id FROM workflow_checkpoints.checkpoints").fetchall()
            assert {row[0] for row in rows} == set(home) - in_memory
        assert 15 < len(in_memory) < 60
        await _end(server, turns, tmp_path, environment)
    assert "Traceback" not in server.log
    assert server.log.count("[Checkpointer] PostgresSaver enabled") == 6


async def _say(server: Server, turns: dict[str, int]) -> dict[str, Any]:
    """Say the next thing in each thread; the run of each, whose output is the whole conversation."""
    room = asyncio.Semaphore(_AT_ONCE)

    async def say(thread: str) -> tuple[str, Any]:
        turns[thread] += 1
        body = {"workflow": "talk", "input": {"said": [f"turn {turns[thread]}"]}, "threadId": thread}
        async with room:
            answer = await server.client.post("/api/invoke", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        run = answer.json()
        numbers = range(1, turns[thread] + 1)
        assert run["output"] == {"said": [text for n in numbers for text in (f"turn {n}", f"answer to turn {n}")]}
        return thread, run

    return dict(await asyncio.gather(*map(say, turns)))


async def _end(server: Server, turns: dict[str, int], directory: Path, environment: dict[str, str]) -> None:
    """Move what is left in memory; it goes on in PostgreSQL."""
    source = f"file:{environment['MEMORY_SNAPSHOT']}"
    command = ["transfer", "--from", source, "--to", "postgres"]
    moved = await asyncio.to_thread(run_holdfast, command, cwd=directory, env={**os.environ, **environment})
    assert moved.returncode == 0, moved.stderr
    await server.start(POSTGRES_SAVER_ROLLOUT_PERCENT="100")
    assert {run["checkpointer"] for run in (await _say(server, turns)).values()} == {"PostgresSaver"}
    health = await server.get("/api/health/checkpointer")
    assert (health["durable"], health["rollout"]["memoryThreads"]) == (True, 0)
    assert await server.stop() == 0
