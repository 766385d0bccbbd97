"""Many watchers of one run: `python -m tests.bench.batch_watch` reads a job as JSON, and prints what they saw.

The run's node writes events that say when they were written, by `time.time()`, the same clock for all processes of a
machine. The watchers are in a process of their own, on plain sockets. What is measured is from the node to the
watcher's socket: the way into the database, the notice, the look, and the writing to every socket.
"""

from __future__ import annotations

import asyncio
import json
import operator
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

from langgraph.graph import START, StateGraph
from langgraph.types import StreamWriter
from typing_extensions import TypedDict

__all__ = ["EVENTS", "telling", "watch", "write_graph_file"]

EVENTS = 40
_GO = "go"


class _State(TypedDict, total=False):
    gate: str
    every_s: float
    told: Annotated[int, operator.add]


async def _tell(state: _State, writer: StreamWriter) -> dict[str, Any]:
    # Another process opens the gate: there is nothing in this one to wait for.
    while not Path(state["gate"]).exists():  # noqa: ASYNC110, ASYNC240
        await asyncio.sleep(0.02)
    for _ in range(EVENTS):
        await asyncio.sleep(state["every_s"])
        writer({_GO: time.time()})
    return {"told": EVENTS}


telling = StateGraph(_State).add_node("tell", _tell).add_edge(START, "tell")


def write_graph_file(directory: Path) -> Path:
    """The `langgraph.json` of this graph."""
    path = directory / "langgraph.json"
    path.write_text(
        json.dumps({"graphs": {"telling": f"{__name__.replace('__main__', 'tests.bench.batch_watch')}:telling"}})
    )
    return path


def watch(port: int, path: str, watchers: int, gate: Path) -> list[float]:
    """Seconds from an event to a watcher, of every event and watcher; the gate is opened once all are there."""
    job = json.dumps({"port": port, "path": path, "watchers": watchers, "gate": str(gate)})
    command = [sys.executable, "-m", "tests.bench.batch_watch"]
    printed = subprocess.run(command, input=job, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: list[float] = json.loads(printed)
    if len(found) != watchers * EVENTS:
        raise AssertionError(f"{watchers} watchers saw {len(found)} events, not {watchers * EVENTS}")
    return found


async def _work(port: int, path: str, watchers: int, gate: str) -> list[float]:
    there = asyncio.Semaphore(0)
    delays: list[float] = []
    tasks = [asyncio.create_task(_watcher(port, path, there, delays)) for _ in range(watchers)]
    for _ in range(watchers):
        await there.acquire()
    Path(gate).touch()  # noqa: ASYNC240 - a moment, before anything is measured
    await asyncio.gather(*tasks)
    return delays


async def _watcher(port: int, path: str, there: asyncio.Semaphore, delays: list[float]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: text/event-stream\r\n\r\n".encode())
    is_there = False
    while line := await reader.readline():
        if not line.startswith(b"data:"):
            continue
        now = time.time()
        event = json.loads(line[5:])
        if not is_there:
            is_there = True
            there.release()
        if event["kind"] == "custom":
            delays.append(now - event["payload"][_GO])
        elif event["kind"] == "state" and event["status"] in ("completed", "failed"):
            break
    writer.close()


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_work(**json.load(sys.stdin)))))
