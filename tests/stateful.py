"""Graphs that keep every kind of state: messages, Sends, an open question, a graph inside, DeltaChannels."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Annotated, Any, TypedDict

from langchain_core.messages import AIMessage, AnyMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, Send, interrupt

from tests.checkpoints import at

__all__ = ["GRAPHS", "run", "sending"]


class State(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]
    text: str
    number: int
    items: Annotated[list[str], operator.add]
    piece: str


def say(name: str) -> Any:
    def node(state: State) -> dict[str, Any]:
        count = state.get("number", 0) + 1
        return {"messages": [AIMessage(content=name, id=f"{name} {count}")], "number": count, "text": name}

    return node


def talking() -> Any:
    """Three nodes in a row."""
    builder = StateGraph(State).add_sequence([(name, say(name)) for name in ("one", "two", "three")])
    return builder.add_edge(START, "one")


def sending() -> Any:
    """A node that sends pieces to another, and one that waits for a human."""

    def ask(state: State) -> dict[str, Any]:
        return {"text": str(interrupt("go on?"))}

    builder = StateGraph(State)
    builder.add_node("split", lambda state: {"number": state.get("number", 0) + 1})
    builder.add_node("work", lambda state: {"items": [state["piece"]]})
    builder.add_node("ask", ask)
    builder.add_edge(START, "split")
    pieces = ("a", "b", "c")
    builder.add_conditional_edges(
        "split", lambda state: [Send("work", {"piece": f"{piece}{state['number']}"}) for piece in pieces], ["work"]
    )
    builder.add_edge("work", "ask")
    return builder


def nested(*, own_memory: bool) -> Any:
    """A graph with a graph inside; its state ends with the call, or outlives it."""
    inner = talking().compile(checkpointer=True if own_memory else None)
    builder = StateGraph(State).add_node("before", say("before")).add_node("inner", inner)
    return builder.add_edge(START, "before").add_edge("before", "inner")


def joined(state: list[str] | None, writes: Sequence[list[str]]) -> list[str]:
    return [*(state or []), *(item for write in writes for item in write)]


class Delta(TypedDict, total=False):
    often: Annotated[list[str], DeltaChannel(joined, list[str], snapshot_frequency=2)]
    rarely: Annotated[list[str], DeltaChannel(joined, list[str], snapshot_frequency=4)]
    sometimes: Annotated[list[str], DeltaChannel(joined, list[str], snapshot_frequency=3)]
    number: int


def delta() -> Any:
    """Three nodes, each adding to one of three DeltaChannels."""

    def node(name: str) -> Any:
        return lambda state: {name: [f"{name} {state.get('number', 0)}"], "number": state.get("number", 0) + 1}

    names = ("often", "rarely", "sometimes")
    return StateGraph(Delta).add_sequence([(f"add {name}", node(name)) for name in names]).add_edge(START, "add often")


GRAPHS: dict[str, Any] = {
    "talking": talking(),
    "sending": sending(),
    "nested": nested(own_memory=False),
    "nested with its own memory": nested(own_memory=True),
    "delta": delta(),
}


async def run(saver: BaseCheckpointSaver[Any], kind: str, thread: str, times: int = 3) -> Any:
    """Run the graph some times on a thread, answering what it asks; leaves the last question open."""
    graph = GRAPHS[kind].compile(checkpointer=saver)
    for number in range(times):
        await graph.ainvoke({"number": number}, at(thread), durability="sync")
        if kind == "sending" and number < times - 1:
            await graph.ainvoke(Command(resume=f"answer {number}"), at(thread), durability="sync")
    return graph
