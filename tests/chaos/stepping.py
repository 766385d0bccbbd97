"""The graphs of `test_steps.py`: a node that calls two steps in a row, which wait at their gates."""

from __future__ import annotations

from langgraph.types import RetryPolicy

from orchestrator import Workflow
from tests.chaos import faults
from tests.stepping import Stepping, calling, gated, held

__all__ = ["blocked", "stepping"]


async def node(state: Stepping) -> Stepping:
    first = await gated(state["journal"], "first")
    return {"out": [first, await gated(state["journal"], "second")]}


def plain(state: Stepping) -> Stepping:
    first = held(state["journal"], "first").result()
    return {"out": [first, held(state["journal"], "second").result()]}


stepping = Workflow(calling(node), retry=RetryPolicy(max_attempts=1))
blocked = Workflow(calling(plain), retry=RetryPolicy(max_attempts=1))
faults.install()
