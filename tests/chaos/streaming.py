"""A graph that shows what it does, for watchers: `count` events from each of its nodes.

It pauses after each event, until the test opens the gate 'quick'.
"""

from __future__ import annotations

import asyncio
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph.types import StreamWriter
from typing_extensions import TypedDict

from tests.chaos.journal import execution, is_open

__all__ = ["NODES", "showing"]

NODES = 4


class State(TypedDict, total=False):
    count: int
    pause_s: float


def _showing(node: int) -> Any:
    async def run(state: State, config: RunnableConfig, writer: StreamWriter) -> State:
        with execution(f"n{node}", config):
            for number in range(state["count"]):
                writer({"node": node, "number": number})
                await asyncio.sleep(0 if is_open("quick") else state["pause_s"])
        return {}

    return run


_nodes: list[tuple[str, Any]] = [(f"n{node}", _showing(node)) for node in range(NODES)]
showing = StateGraph(State).add_sequence(_nodes).add_edge(START, "n0")
