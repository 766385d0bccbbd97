"""A graph whose state holds the user's own types runs unchanged: it names them to the saver when it is compiled."""

from __future__ import annotations

import dataclasses
import enum
import sys
from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from pydantic import BaseModel
from typing_extensions import TypedDict

from checkpointer import BlockedTypeError, CheckpointerSettings, open_saver


class Colour(enum.Enum):
    """An enum of the user's."""

    RED = "red"


class Invoice(BaseModel):
    """A pydantic model of the user's."""

    number: int
    colour: Colour = Colour.RED


@dataclasses.dataclass
class Line:
    """A dataclass of the user's."""

    text: str


class State(TypedDict, total=False):
    """What the graph declares, and one channel that says nothing of its type."""

    invoices: list[Invoice]
    line: Line | None
    anything: Any


CONFIG: RunnableConfig = {"configurable": {"thread_id": "one"}}


def graph(saver: BaseCheckpointSaver[Any]) -> Any:
    """One node that fills the state."""

    async def fill(state: State) -> State:
        return {"invoices": [Invoice(number=7)], "line": Line("x"), "anything": state.get("anything")}

    builder = StateGraph(State)
    builder.add_node("fill", fill)
    builder.add_edge(START, "fill")
    builder.add_edge("fill", END)
    return builder.compile(checkpointer=saver)


async def test_declared_types_load(checkpointer_settings: CheckpointerSettings) -> None:
    async with open_saver(checkpointer_settings) as saver:
        await graph(saver).ainvoke({}, CONFIG)
    async with open_saver(checkpointer_settings) as saver:
        state = await graph(saver).aget_state(CONFIG)
        assert state.values == {"invoices": [Invoice(number=7)], "line": Line("x"), "anything": None}


async def test_a_type_that_is_not_declared_is_refused_until_it_is_allowed(
    checkpointer_settings: CheckpointerSettings,
) -> None:
    async with open_saver(checkpointer_settings) as saver:
        await graph(saver).ainvoke({"anything": Hidden(1)}, CONFIG)
    async with open_saver(checkpointer_settings) as saver:
        with pytest.raises(BlockedTypeError, match=r"CHECKPOINT_ALLOWED_MODULES=.*test_custom_types\.Hidden"):
            await graph(saver).aget_state(CONFIG)
    allowing = checkpointer_settings.model_copy(update={"checkpoint_allowed_modules": f"{__name__}:Hidden"})
    async with open_saver(allowing) as saver:
        assert (await graph(saver).aget_state(CONFIG)).values["anything"] == Hidden(1)


@dataclasses.dataclass
class Hidden:
    """A type that no schema names."""

    number: int


def test_this_module_can_be_found_by_name() -> None:
    assert sys.modules[__name__].Hidden is Hidden
