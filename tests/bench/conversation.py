"""A conversation of any length, saved call by call as LangGraph saves it.

A turn is a user's message and an answer, together about 2 KB of varied text, from a graph with one node. Running the
graph itself for 2,000 turns would take minutes, nearly all of them LangGraph's own work on lists of thousands of
messages; so the calls that a graph makes with `durability="sync"` are made here directly. `run_graph` is that graph:
a test compares the rows of both.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime
from functools import cache
from typing import Any
from uuid import UUID, uuid4

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import Checkpoint
from langgraph.checkpoint.base.id import uuid6
from langgraph.graph import END, START, MessagesState, StateGraph

from tests.bench.contenders import Saver
from tests.bench.workloads import metadata_of

__all__ = ["Conversation", "message", "run_graph"]

_ASKED_CHARS, _ANSWERED_CHARS = 400, 1600
_NODE = "model"
_START = "__start__"
_TRIGGER = f"branch:to:{_NODE}"


class Conversation:
    """One thread; `turn` saves what a graph saves in a turn, one call after the other."""

    def __init__(self, saver: Saver, thread_id: str) -> None:
        self.saver = saver
        self.thread_id = thread_id
        self.turns = 0
        self.messages: list[AnyMessage] = []
        self._step = -1
        self._version: Any = None
        self._versions: dict[str, Any] = {}
        self._seen: dict[str, dict[str, Any]] = {"__input__": {}}
        self._config = self.latest

    @property
    def latest(self) -> RunnableConfig:
        """A config that names the thread and no checkpoint."""
        configurable = {"thread_id": self.thread_id, "checkpoint_ns": ""}
        return {"configurable": configurable, "metadata": {"thread_id": self.thread_id}}

    async def turn(self) -> None:
        """A user's message, and the answer to it."""
        asked, answer = message(2 * self.turns), message(2 * self.turns + 1)
        begun = self.turns > 0
        await self._put([_START], {"messages": self.messages} if begun else {}, start=[asked])
        await self._write(_START, [("messages", [asked]), (_TRIGGER, None)])
        self._seen[_START] = {_START: self._versions[_START]}
        self.messages = [*self.messages, asked]
        await self._put([_START, "messages", _TRIGGER], {"messages": self.messages, _TRIGGER: None})
        await self._write(_NODE, [("messages", [answer])])
        self._seen[_NODE] = {_TRIGGER: self._versions[_TRIGGER]}
        self.messages = [*self.messages, answer]
        await self._put(["messages", _TRIGGER], {"messages": self.messages})
        self.turns += 1

    async def _put(self, changed: list[str], values: dict[str, Any], *, start: list[AnyMessage] | None = None) -> None:
        if start is not None:
            values = {**values, _START: {"messages": start}}
        config, checkpoint, new = self._next(changed, values)
        about = metadata_of(self._step)
        about["source"] = "loop" if start is None else "input"
        saved = await self.saver.aput(config, checkpoint, about, new)
        self._versions |= new
        self._config = {**self.latest, **saved}
        self._step += 1

    def _next(self, changed: list[str], values: dict[str, Any]) -> tuple[RunnableConfig, Checkpoint, dict[str, Any]]:
        """The next checkpoint with its parent's config and its new versions."""
        self._version = self.saver.get_next_version(self._version, None)
        new = dict.fromkeys(changed, self._version)
        checkpoint: Checkpoint = {
            "v": 4,
            "ts": datetime.now(UTC).isoformat(),
            "id": str(uuid6(clock_seq=self._step)),
            "channel_values": values,
            "channel_versions": {**self._versions, **new},
            "versions_seen": {node: dict(versions) for node, versions in self._seen.items()},
            "updated_channels": sorted(channel for channel in changed if channel in values),
        }
        return self._config, checkpoint, new

    async def _write(self, node: str, writes: list[tuple[str, Any]]) -> None:
        await self.saver.aput_writes(self._config, writes, str(uuid4()), f"~__pregel_pull, {node}")

    def one_more(self, number: int) -> tuple[RunnableConfig, Checkpoint, dict[str, Any]]:
        """A checkpoint beside the thread's latest, with one more message than that; what `aput` takes but metadata."""
        values: dict[str, Any] = {"messages": [*self.messages, message(-1 - number)]}
        return self._next(["messages", _TRIGGER], values)


@cache
def message(number: int) -> AnyMessage:
    """The nth message: a user's where n is even, else an answer."""
    chooser = random.Random(number)  # noqa: S311 - the same text every time
    length = _ANSWERED_CHARS if number % 2 else _ASKED_CHARS
    words = chooser.choices(*_vocabulary(), k=length // 4)
    text, identity = " ".join(words)[:length], str(UUID(int=chooser.getrandbits(128), version=4))
    return AIMessage(content=text, id=identity) if number % 2 else HumanMessage(content=text, id=identity)


@cache
def _vocabulary() -> tuple[list[str], list[float]]:
    """Words, and how often each occurs relative to the others: as in prose, the nth 1/n as often as the first."""
    chooser = random.Random(7)  # noqa: S311 - the same words every time
    words = ["".join(chooser.choices("etaoinshrdlucmfw", k=chooser.randint(2, 9))) for _ in range(8000)]
    return words, [1 / rank for rank in range(1, len(words) + 1)]


async def run_graph(saver: Saver, thread_id: str, turns: int) -> None:
    """The conversation's first turns through the graph."""

    async def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [message(len(state["messages"]))]}

    builder = StateGraph(MessagesState)
    builder.add_node(_NODE, answer)
    builder.add_edge(START, _NODE)
    builder.add_edge(_NODE, END)
    graph = builder.compile(checkpointer=saver)
    for number in range(turns):
        asked = MessagesState(messages=[message(2 * number)])
        await graph.ainvoke(asked, {"configurable": {"thread_id": thread_id}}, durability="sync")
