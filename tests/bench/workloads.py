"""The work: `ops`, bare saves and loads, and `graph`, whole runs through LangGraph."""

from __future__ import annotations

import asyncio
import gc
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from time import perf_counter, process_time
from typing import Any, Generic, TypeVar
from uuid import uuid4

from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import Checkpoint, CheckpointMetadata
from langgraph.checkpoint.base.id import uuid6
from langgraph.graph import END, START, MessagesState, StateGraph

from tests.bench.contenders import Saver

__all__ = [
    "WORKLOADS",
    "Crowd",
    "Sample",
    "Thread",
    "Workload",
    "history_of",
    "in_a_row",
    "metadata_of",
    "texts",
    "thread_config",
]

SubjectT = TypeVar("SubjectT")

_STEPS = 20
_NODES = 5
_VALUE_CHARS = 1000
_TEXTS = 64
_LONG_ENOUGH_S, _MOST_REPEATS = 0.5, 5
_QUIET_WITHIN_S = 5.0


@dataclass
class Sample:
    """One measurement, in seconds: a wave, what of it this process was busy, each bare save and load."""

    seconds: float = 0.0
    cpu: float = 0.0
    saves: list[float] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)


# What one thread does; given the thread's id and the sample that it adds its calls to.
Thread = Coroutine[Any, Any, None]


@dataclass(frozen=True)
class Crowd(ABC, Generic[SubjectT]):
    """`threads` at a time, the whole `waves` times one after the other; `only` names the one contender that does it."""

    kind: str
    threads: int
    waves: int = 1
    only: str = ""

    @property
    def name(self) -> str:
        """As on the command line: `ops:100`."""
        return f"{self.kind}:{self.threads}"

    @abstractmethod
    def begin(self, subject: SubjectT) -> Callable[[str, Sample], Thread]:
        """Make ready for one time of all the work; what each thread of it is made with."""

    async def measure(self, subject: SubjectT) -> Sample:
        """Do the work again and again until enough time was measured that one hiccup does not decide."""
        sample = Sample()
        repeats = 0
        while repeats == 0 or (sample.seconds < _LONG_ENOUGH_S and repeats < _MOST_REPEATS):
            await self.run(subject, sample)
            repeats += 1
        sample.seconds /= repeats * self.waves
        sample.cpu /= repeats * self.waves
        return sample

    async def run(
        self, subject: SubjectT, sample: Sample, *, watch: AbstractContextManager[object] | None = None
    ) -> None:
        """Do the work once, in threads that are new to the saver, and add its times to the sample.

        What it has set off in the background is waited for, and is in the processor's time only: it belongs to nobody
        else, and nobody waits for it.
        """
        start = self.begin(subject)
        waves = [[start(uuid4().hex, sample) for _ in range(self.threads)] for _ in range(self.waves)]
        gc.collect()
        before = asyncio.all_tasks()
        with watch or nullcontext():
            begun, cpu = perf_counter(), process_time()
            for wave in waves:
                await asyncio.gather(*wave)
            sample.seconds += perf_counter() - begun
            if left := asyncio.all_tasks() - before:
                await asyncio.wait(left, timeout=_QUIET_WITHIN_S)
            sample.cpu += process_time() - cpu


class Workload(Crowd[Saver]):
    """What LangGraph does with a saver: bare calls, or whole graphs."""

    def begin(self, subject: Saver) -> Callable[[str, Sample], Thread]:
        return _KINDS[self.kind](subject)


# What a whole run measures. A single thread is quick and so is repeated; 400 at once are looked at call by call.
WORKLOADS = (
    Workload("ops", 1, waves=8),
    Workload("ops", 100),
    Workload("ops", 400, only="ours"),
    Workload("graph", 1, waves=20),
    Workload("graph", 100),
)


def thread_config(thread_id: str) -> RunnableConfig:
    """A config that names a thread and nothing else."""
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}


def metadata_of(step: int) -> CheckpointMetadata:
    """What LangGraph says about a checkpoint of its loop."""
    return {"source": "loop", "step": step, "parents": {}}


def history_of(saver: Saver, steps: int) -> list[Checkpoint]:
    """Checkpoints such as a small agent leaves: one channel with about 1 KB in it, the others empty."""
    checkpoints: list[Checkpoint] = []
    version: Any = None
    for step in range(steps):
        version = saver.get_next_version(version, None)
        checkpoints.append(
            {
                "v": 4,
                "ts": datetime.now(UTC).isoformat(),
                "id": str(uuid6(clock_seq=step)),
                "channel_values": {"messages": [{"role": "assistant", "content": texts()[step % _TEXTS]}]},
                "channel_versions": {"__start__": version, "messages": version, "branch:to:model": version},
                "versions_seen": {
                    "__input__": {},
                    "__start__": {"__start__": version},
                    "model": {"branch:to:model": version},
                },
                "updated_channels": ["messages"],
            }
        )
    return checkpoints


@cache
def texts() -> list[str]:
    """Texts of about 1 KB that compress as prose does."""
    chooser = random.Random(7)  # noqa: S311 - the same texts every time
    words = ["".join(chooser.choices("etaoinshrdlucmfw", k=chooser.randint(2, 9))) for _ in range(400)]
    return [" ".join(chooser.choices(words, k=_VALUE_CHARS))[:_VALUE_CHARS] for _ in range(_TEXTS)]


def _ops(saver: Saver) -> Callable[[str, Sample], Thread]:
    """Each thread: save, load the latest, twenty times. What is saved is made before the clock starts."""
    return lambda thread_id, sample: _save_and_load(saver, thread_id, history_of(saver, _STEPS), sample)


async def _save_and_load(saver: Saver, thread_id: str, history: list[Checkpoint], sample: Sample) -> None:
    latest = config = thread_config(thread_id)
    for step, checkpoint in enumerate(history):
        new = {"messages": checkpoint["channel_versions"]["messages"]}
        begun = perf_counter()
        config = await saver.aput(config, checkpoint, metadata_of(step), new)
        saved = perf_counter()
        found = await saver.aget_tuple(latest)
        loaded = perf_counter()
        sample.saves.append(saved - begun)
        sample.loads.append(loaded - saved)
        if found is None or found.checkpoint["channel_values"] != checkpoint["channel_values"]:
            raise AssertionError(f"{type(saver).__name__} did not load what it had saved")


def _graph(saver: Saver) -> Callable[[str, Sample], Thread]:
    """Each thread: five nodes in a row, each of which appends a message of 1 KB and is saved before the next."""
    nodes = {f"node_{number}": _node(number) for number in range(_NODES)}
    graph = in_a_row(StateGraph(MessagesState), nodes).compile(checkpointer=saver)

    async def run(thread_id: str, sample: Sample) -> None:
        config: RunnableConfig = {"configurable": {"thread_id": thread_id}}
        begin = MessagesState(messages=[HumanMessage(content="begin")])
        result = await graph.ainvoke(begin, config, durability="sync")
        if len(result["messages"]) != 1 + _NODES:
            raise AssertionError(f"a run on {type(saver).__name__} ended with {len(result['messages'])} messages")

    return run


def in_a_row(builder: StateGraph[Any], nodes: Mapping[str, Any]) -> StateGraph[Any]:
    """The builder with these nodes, one after the other."""
    previous = START
    for name, node in nodes.items():
        builder.add_node(name, node)
        builder.add_edge(previous, name)
        previous = name
    builder.add_edge(previous, END)
    return builder


def _node(number: int) -> Any:
    async def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(content=texts()[number])]}

    return node


_KINDS: dict[str, Callable[[Saver], Callable[[str, Sample], Thread]]] = {"ops": _ops, "graph": _graph}
