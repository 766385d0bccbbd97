"""The graphs that the servers of these tests drive; `langgraph.json` names them by this module.

Every execution of a node is in the journal. A state may hold nodes up: `hold` maps a node to a gate, a file that the
test makes; `work_s` is how long each node takes besides.
"""

from __future__ import annotations

import asyncio
import operator
import os
import signal
import time
from collections.abc import Sequence
from typing import Annotated, Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph.types import RetryPolicy, interrupt

from orchestrator import Workflow
from tests.chaos import faults
from tests.chaos.journal import GATES, execution, is_open
from tests.chaos.streaming import showing

__all__ = ["GATES", "GRAPHS", "LINE", "LONG", "showing"]

LINE = ("one", "two", "three")
LONG = tuple(f"n{number}" for number in range(1, 13))
GRAPHS = ("line", "long", "threaded", "blocking", "deadly", "asking", "flaky", "showing")


class State(TypedDict, total=False):
    hold: dict[str, str]
    work_s: float
    block_s: float
    trace: Annotated[list[str], operator.add]


Builder = StateGraph[State, None, State, State]


def _is_shut(state: State, node: str) -> bool:
    gate = state.get("hold", {}).get(node)
    return gate is not None and not is_open(gate)


def _waiting(node: str) -> Any:
    async def run(state: State, config: RunnableConfig) -> State:
        with execution(node, config):
            while _is_shut(state, node):  # noqa: ASYNC110 - the gate is a file, which another process makes
                await asyncio.sleep(0.01)
            await asyncio.sleep(state.get("work_s", 0))
        return {"trace": [node]}

    return run


def _threaded(node: str) -> Any:
    def run(state: State, config: RunnableConfig) -> State:
        with execution(node, config):
            while _is_shut(state, node):
                time.sleep(0.01)
        return {"trace": [node]}

    return run


async def _block(state: State, config: RunnableConfig) -> State:
    """Hold the event loop up for `block_s`, the first half asleep and the second half computing."""
    with execution("block", config):
        ends = time.monotonic() + state["block_s"]
        time.sleep(state["block_s"] / 2)  # noqa: ASYNC251 - that is the point
        while time.monotonic() < ends:
            pass
    return {"trace": ["block"]}


async def _kill(state: State, config: RunnableConfig) -> State:
    with execution("kill", config):
        os.kill(os.getpid(), signal.SIGKILL)
    return {}


async def _ask(state: State, config: RunnableConfig) -> State:
    with execution("ask", config):
        answer = interrupt({"signal": "approval"})
    return {"trace": [f"ask {answer}"]}


async def _fail(state: State, config: RunnableConfig) -> State:
    with execution("fail", config):
        raise OSError("this fails every time")


def _chain(nodes: Sequence[tuple[str, Any]]) -> Builder:
    builder = StateGraph(State).add_sequence(list(nodes))
    return builder.add_edge(START, nodes[0][0])


def _around(node: str, run: Any) -> Builder:
    return _chain([("before", _waiting("before")), (node, run), ("after", _waiting("after"))])


line = _chain([(node, _waiting(node)) for node in LINE])
long = _chain([(node, _waiting(node)) for node in LONG])
threaded = _chain([(node, _threaded(node)) for node in LINE])
blocking = _around("block", _block)
deadly = _around("kill", _kill)
asking = _around("ask", _ask)
flaky = Workflow(_around("fail", _fail), retry=RetryPolicy(initial_interval=600, retry_on=OSError))
faults.install()
