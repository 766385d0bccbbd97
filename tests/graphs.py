"""Graphs for tests: a chain of steps that leaves a trace, with gates that a test opens."""

from __future__ import annotations

import asyncio
import operator
import os
from collections import defaultdict
from collections.abc import Sequence
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

__all__ = ["Gates", "State", "asking", "chain", "failing"]


class State(TypedDict, total=False):
    """What the test graphs keep: which step ran in which process."""

    text: str
    trace: Annotated[list[str], operator.add]
    pids: Annotated[list[int], operator.add]


class Gates:
    """Steps that wait until the test lets them pass; `reached` says which ones are waiting, or have."""

    def __init__(self) -> None:
        self._open: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.reached: list[str] = []
        self.running = 0
        self.most_running = 0

    def open(self, *steps: str) -> None:
        """Let the steps pass, now and later."""
        for step in steps:
            self._open[step].set()

    async def wait(self, step: str) -> None:
        """Wait in a step until it is opened."""
        self.reached.append(step)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await self._open[step].wait()
        finally:
            self.running -= 1


def chain(
    steps: Sequence[str] = ("one", "two", "three"), gates: Gates | None = None
) -> StateGraph[State, None, State, State]:
    """`steps` in a row; each appends its name to the trace, and waits at its gate where there are gates."""
    builder = StateGraph(State)
    previous = START
    for step in steps:
        builder.add_node(step, _step(step, gates))
        builder.add_edge(previous, step)
        previous = step
    builder.add_edge(previous, END)
    return builder


def _step(name: str, gates: Gates | None) -> Any:
    async def step(state: State) -> dict[str, Any]:
        if gates is not None:
            await gates.wait(name)
        return {"trace": [name], "pids": [os.getpid()]}

    return step


def failing(error: BaseException) -> StateGraph[State, None, State, State]:
    """One node, `broken`, that raises."""

    def broken(state: State) -> dict[str, Any]:
        raise error

    return StateGraph(State).add_node("broken", broken).add_edge(START, "broken")


def asking() -> StateGraph[State, None, State, State]:
    """One node, `ask`, that waits for a human."""

    def ask(state: State) -> dict[str, Any]:
        return {"trace": [str(interrupt({"question": "go on?"}))]}

    return StateGraph(State).add_node("ask", ask).add_edge(START, "ask")
