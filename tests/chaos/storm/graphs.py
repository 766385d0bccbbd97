"""What the storm runs.

Every execution of a node has a token of its own. It is in the journal, with the attempt and the place of the node in
its graph, and it goes into the state: so the end tells which execution's work was kept.
"""

from __future__ import annotations

import asyncio
import operator
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any
from uuid import UUID, uuid4, uuid5

from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph.types import RetryPolicy, Send, StreamWriter, interrupt
from typing_extensions import TypedDict

from orchestrator import Workflow, step
from orchestrator.engine.attempt import current_attempt
from orchestrator.runs.model import CHILDREN_SIGNAL
from tests.chaos.journal import execution
from tests.chaos.storm.model import BRANCHES, CHAIN, CHILDREN, SHOWN, mixed

__all__ = ["GRAPHS"]

_FAILURES = 2
_MEGABYTE = 1 << 20
_LEAKED_MEGABYTES = 200


class State(TypedDict, total=False):
    """`value` is what is computed, `trace` who did it: `node token` of each execution that was kept."""

    value: int
    pace_s: float
    place: int
    misdeed: str
    parts: Annotated[list[int], operator.add]
    said: Annotated[list[int], operator.add]
    trace: Annotated[list[str], operator.add]


Builder = StateGraph[State, None, State, State]


@contextmanager
def _execution(node: str, depth: int, config: RunnableConfig) -> Iterator[list[str]]:
    """Note the execution; gives its line of the trace."""
    token = uuid4().hex
    attempt = current_attempt("the storm").run.attempt
    with execution(f"{node} {token} {depth} {attempt}", config):
        yield [f"{node} {token}"]


def _working(node: str, depth: int) -> Any:
    async def run(state: State, config: RunnableConfig) -> State:
        with _execution(node, depth, config) as trace:
            await asyncio.sleep(state.get("pace_s", 0.0))
        return {"value": mixed(state["value"], depth), "trace": trace}

    return run


def _chain(*nodes: tuple[str, Any]) -> Builder:
    return StateGraph(State).add_sequence(list(nodes)).add_edge(START, nodes[0][0])


def _with_ends(node: str, run: Any) -> Builder:
    return _chain(("before", _working("before", 0)), (node, run), ("after", _working("after", 2)))


async def _branch(state: State, config: RunnableConfig) -> State:
    with _execution(f"branch{state['place']}", 1, config) as trace:
        await asyncio.sleep(state["pace_s"])
    return {"parts": [state["value"] ** 2], "trace": trace}


async def _join(state: State, config: RunnableConfig) -> State:
    with _execution("join", 2, config) as trace:
        return {"value": sum(state["parts"]), "trace": trace}


def _spread(state: State) -> list[Send]:
    pace_s = state.get("pace_s", 0.0)
    return [Send("branch", {"value": state["value"] + n, "place": n, "pace_s": pace_s}) for n in range(BRANCHES)]


async def _ask(state: State, config: RunnableConfig) -> State:
    with _execution("ask", 1, config) as trace:
        answer = interrupt({"signal": "approval"})
    return {"value": mixed(state["value"], answer), "trace": trace}


async def _flaky(state: State, config: RunnableConfig) -> State:
    with _execution("flaky", 1, config) as trace:
        if current_attempt("the storm").run.failures < _FAILURES:
            raise OSError("not yet")
    return {"value": mixed(state["value"], 1), "trace": trace}


@step(dispatch="queue", name="storm.double")
async def _double(run_id: str, value: int, pace_s: float) -> dict[str, Any]:
    """Any worker runs this one. Its result has the token of the execution that was kept."""
    token = uuid4().hex
    with execution(f"double {token} 0 0", {"metadata": {"run_id": run_id}, "configurable": {"thread_id": "-"}}):
        await asyncio.sleep(pace_s)
    return {"value": value * 2, "token": token}


async def _step(state: State, config: RunnableConfig) -> State:
    run_id = current_attempt("the storm").run.run_id
    with _execution("step", 1, config) as trace:
        calls = [_double(run_id, state["value"] + n, state["pace_s"]) for n in range(2)]
        done = await asyncio.gather(*calls)
    return {
        "value": sum(each["value"] for each in done),
        "trace": [*trace, *(f"double {each['token']}" for each in done)],
    }


async def _spawn(state: State, config: RunnableConfig) -> State:
    attempt = current_attempt("the storm")
    assert attempt.client is not None
    with _execution("spawn", 0, config) as trace:
        for number in range(CHILDREN):
            payload = {"value": state["value"] + number, "pace_s": state["pace_s"]}
            await attempt.client.start_child(attempt.run, "chain", payload, run_id=_child(attempt.run.run_id, number))
    return {"trace": trace}


async def _gather(state: State, config: RunnableConfig) -> State:
    attempt = current_attempt("the storm")
    with _execution("gather", 1, config) as trace:
        while await attempt.store.await_children(attempt.run.run_id):
            interrupt({"signal": CHILDREN_SIGNAL})
        children = [await attempt.store.get(_child(attempt.run.run_id, number)) for number in range(CHILDREN)]
    return {"value": sum(child.output["value"] for child in children), "trace": trace}


def _child(run_id: str, number: int) -> str:
    return str(uuid5(UUID(run_id), str(number)))


async def _say(state: State, config: RunnableConfig) -> State:
    """A turn of a conversation: the thread's state has those that were before."""
    with _execution("say", 0, config) as trace:
        await asyncio.sleep(state.get("pace_s", 0.0))
    return {"value": mixed(state.get("value", 0), state["said"][-1]), "trace": trace}


async def _answer(state: State, config: RunnableConfig) -> State:
    with _execution("answer", 1, config) as trace:
        return {"value": mixed(state["value"], len(state["said"])), "trace": trace}


async def _show(state: State, config: RunnableConfig, writer: StreamWriter) -> State:
    with _execution("show", 1, config) as trace:
        for number in range(SHOWN):
            writer({"number": number, "token": trace[0]})
            await asyncio.sleep(state["pace_s"])
    return {"value": mixed(state["value"], 1), "trace": trace}


async def _misbehave(state: State, config: RunnableConfig) -> State:
    """Raise, hold the event loop up for `pace_s`, or take a megabyte every hundredth of `pace_s`."""
    with _execution("misbehave", 1, config) as trace:
        if state["misdeed"] == "raise":
            raise ValueError("this fails every time")
        if state["misdeed"] == "block":
            time.sleep(state["pace_s"])  # noqa: ASYNC251 - that is the point
        taken: list[bytes] = []
        while state["misdeed"] == "leak" and len(taken) < _LEAKED_MEGABYTES:
            taken.append(bytes(_MEGABYTE))
            await asyncio.sleep(state["pace_s"] / _LEAKED_MEGABYTES)
    return {"value": mixed(state["value"], 1), "trace": trace}


chain = _chain(*((f"n{n}", _working(f"n{n}", n)) for n in range(CHAIN)))
fan = (
    StateGraph(State)
    .add_node("split", _working("split", 0))
    .add_node("branch", _branch)
    .add_node("join", _join)
    .add_edge(START, "split")
    .add_conditional_edges("split", _spread, ["branch"])
    .add_edge("branch", "join")
)
asking = _with_ends("ask", _ask)
flaky = Workflow(_with_ends("flaky", _flaky), retry=RetryPolicy(0.2, 1.0, max_attempts=5, retry_on=OSError))
stepping = _with_ends("step", _step)
family = _chain(("spawn", _spawn), ("gather", _gather), ("after", _working("after", 2)))
talk = _chain(("say", _say), ("answer", _answer))
showing = _with_ends("show", _show)
misbehaving = _with_ends("misbehave", _misbehave)
GRAPHS = ("chain", "fan", "asking", "flaky", "stepping", "family", "talk", "showing", "misbehaving")
