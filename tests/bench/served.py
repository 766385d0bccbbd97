"""The graphs that the processes of the queue and the HTTP bench serve; their `langgraph.json` names this module.

`stamp`    one node, which says when it began: `time.monotonic()`, on Linux the same clock in every process
`noop`     one node that does nothing
`asking`   one node that waits for an answer
`five`     five in a row that add a word to the state
`five_50ms`    five in a row that take 50 ms each
`beats`    one that runs again and again, 50 ms each time, and notes when and in which process; the last time it waits
           for a file, and so until its server was killed
"""

from __future__ import annotations

import asyncio
import json
import operator
import os
import time
from pathlib import Path
from typing import Annotated, Any

from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt
from typing_extensions import TypedDict

__all__ = ["GRAPHS", "NODES", "asking", "beats", "five", "five_50ms", "noop", "stamp", "write_graph_file"]

GRAPHS = ("stamp", "noop", "asking", "five", "five_50ms", "beats")
NODES = 5


class _State(TypedDict, total=False):
    task: str
    began: float
    trace: Annotated[list[str], operator.add]
    wanted: int
    gate: str
    beats: Annotated[list[tuple[int, float]], operator.add]


async def _stamp(state: _State) -> dict[str, Any]:
    return {"began": time.monotonic()}


async def _nothing(state: _State) -> dict[str, Any]:
    return {}


async def _ask(state: _State) -> dict[str, Any]:
    return {"task": str(interrupt("which task?"))}


async def _beat(state: _State) -> dict[str, Any]:
    began = time.monotonic()
    await asyncio.sleep(0.05)
    if len(state["beats"]) == state["wanted"] - 1:
        # Another process opens the gate: there is nothing in this one to wait for.
        while not Path(state["gate"]).exists():  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.01)
    return {"beats": [(os.getpid(), began)]}


def _next_beat(state: _State) -> str:
    return "beat" if len(state["beats"]) < state["wanted"] else END


def _row(pause_s: float) -> StateGraph[Any]:
    """Five nodes in a row, each of which takes its time."""

    def node(number: int) -> Any:
        async def work(state: _State) -> dict[str, Any]:
            if pause_s:
                await asyncio.sleep(pause_s)
            return {"trace": [f"node {number}"]}

        return work

    builder = StateGraph(_State)
    for number in range(NODES):
        builder.add_node(f"node_{number}", node(number))
        builder.add_edge(f"node_{number - 1}" if number else START, f"node_{number}")
    return builder


stamp = StateGraph(_State).add_node("stamp", _stamp).add_edge(START, "stamp")
noop = StateGraph(_State).add_node("noop", _nothing).add_edge(START, "noop")
asking = StateGraph(_State).add_node("asking", _ask).add_edge(START, "asking")
beats = StateGraph(_State).add_node("beat", _beat).add_edge(START, "beat").add_conditional_edges("beat", _next_beat)
five = _row(0.0)
five_50ms = _row(0.05)


def write_graph_file(directory: Path) -> Path:
    """The `langgraph.json` of these graphs."""
    path = directory / "langgraph.json"
    path.write_text(json.dumps({"graphs": {name: f"{__name__}:{name}" for name in GRAPHS}}))
    return path
