"""Processes whose clocks differ take turns on a thread: the latest checkpoint is the one that was saved last."""

from __future__ import annotations

import operator
import time
from typing import Annotated
from uuid import UUID

import pytest
from langgraph.checkpoint.base import id as langgraph_ids
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from checkpointer import CheckpointerSettings, open_saver
from checkpointer.postgres.ids import stay_after

_HOUR_NS = 3600 * 10**9


class State(TypedDict):
    said: Annotated[list[int], operator.add]


class _Clock:
    """Stands for the module `time` where LangGraph makes its ids."""

    def __init__(self, offset_ns: int) -> None:
        self._offset_ns = offset_ns

    def time_ns(self) -> int:
        return time.time_ns() + self._offset_ns


def _in_another_process(monkeypatch: pytest.MonkeyPatch, offset_ns: int) -> None:
    """What a process knows that was just started, with a clock that is wrong by so much."""
    monkeypatch.setattr(langgraph_ids, "_last_v6_timestamp", None)
    monkeypatch.setattr(langgraph_ids, "time", _Clock(offset_ns))


@pytest.mark.parametrize("hours", [(1, 0, 0), (0, -1, 0), (-1, 1, -1)])
async def test_turns_of_processes_whose_clocks_differ(
    checkpointer_settings: CheckpointerSettings, monkeypatch: pytest.MonkeyPatch, hours: tuple[int, ...]
) -> None:
    async with open_saver(checkpointer_settings) as saver:
        graph = StateGraph(State).add_node("node", lambda state: {}).add_edge(START, "node").compile(saver)
        for turn, offset in enumerate(hours):
            _in_another_process(monkeypatch, offset * _HOUR_NS)
            values = await graph.ainvoke({"said": [turn]}, {"configurable": {"thread_id": "talk"}})
            assert values["said"] == list(range(turn + 1))
        ids = [
            found.config["configurable"]["checkpoint_id"]
            async for found in graph.aget_state_history({"configurable": {"thread_id": "talk"}})
        ]
        assert len(ids) == 3 * len(hours)
        assert ids == sorted(ids, reverse=True)


def test_ids_grow_past_what_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    _in_another_process(monkeypatch, _HOUR_NS)
    ahead = [langgraph_ids.uuid6(clock_seq=step) for step in range(3)]
    _in_another_process(monkeypatch, 0)
    stay_after(str(ahead[-1]))
    later = [langgraph_ids.uuid6(clock_seq=-2) for _ in range(3)]
    assert [*ahead, *later] == sorted([*ahead, *later])
    stay_after(str(ahead[0]))
    assert langgraph_ids.uuid6() > later[-1]


@pytest.mark.parametrize(
    "strange", ["", "not an id", "0", str(UUID(int=2**128 - 1)), "1ef4f797-8335-1428-8001-8a1503f9b875"]
)
def test_ids_of_others_change_nothing(monkeypatch: pytest.MonkeyPatch, strange: str) -> None:
    _in_another_process(monkeypatch, 0)
    stay_after(strange)
    assert langgraph_ids._last_v6_timestamp is None
