"""Runs in every state, and servers' lives in PostgreSQL and in memory, for tests of moving between the two."""

from __future__ import annotations

import operator
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypedDict

import psycopg
from langgraph.graph import START, StateGraph
from langgraph.types import RetryPolicy, interrupt

from checkpointer import CheckpointerSettings, PooledPostgresSaver
from checkpointer.factory import open_postgres
from orchestrator import Graph, Orchestrator, OrchestratorSettings, Run, RunStatus, open_orchestrator
from orchestrator.migrations import ALL_MIGRATIONS
from orchestrator.runs.model import FINAL
from tests.graphs import Gates, asking, chain
from tests.waiting import until
from tests.worlds import status

__all__ = ["Cast", "Places", "column", "opened"]

LATER = RetryPolicy(3600, 1.0, max_interval=3600, max_attempts=5, jitter=False, retry_on=ConnectionError)
# So many that a run hears in one of them that it is to pause.
_MANY = tuple(f"step-{number:02}" for number in range(40))
CASTED = ("running", "pending", "waiting", "acme", "paused", "suspended")


@dataclass
class Stamp:
    """A type of the graph's own: nobody knows it but the process that has the graph."""

    text: str


class Stamped(TypedDict, total=False):
    """A state with a value of that type."""

    stamp: Stamp
    trace: Annotated[list[str], operator.add]


@dataclass
class Places:
    """A database, and a file for what is in memory."""

    checkpointer: CheckpointerSettings
    file: Path

    @property
    def postgres(self) -> OrchestratorSettings:
        """The settings with the flag on."""
        return OrchestratorSettings(**self.checkpointer.model_dump(exclude_unset=True), drain_timeout=0.3)

    @property
    def memory(self) -> OrchestratorSettings:
        """The settings with the flag off."""
        return OrchestratorSettings(memory_snapshot=self.file, drain_timeout=0.3)

    @asynccontextmanager
    async def saver(self) -> AsyncIterator[PooledPostgresSaver]:
        """What the commands work with: the database, and no graphs."""
        async with open_postgres(self.postgres, migrations=ALL_MIGRATIONS) as saver:
            yield saver

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """A plain connection, to look at rows and to change them."""
        async with await psycopg.AsyncConnection.connect(self.postgres.conninfo(), autocommit=True) as conn:
            yield conn


async def column(conn: psycopg.AsyncConnection[Any], name: str, table: str = "workflow_metadata") -> list[Any]:
    """One column of a table, in the order of the runs."""
    query = f"SELECT {name} FROM workflow_checkpoints.{table} ORDER BY run_id"
    return [row[0] for row in await (await conn.execute(query.encode())).fetchall()]


@dataclass
class Cast:
    """Runs in every state that is not the end. `trouble` holds what keeps the suspended one from going on."""

    gates: Gates = field(default_factory=Gates)
    resting: Gates = field(default_factory=Gates)
    trouble: set[str] = field(default_factory=lambda: {"outage"})
    runs: dict[str, Run] = field(default_factory=dict)

    @property
    def graphs(self) -> Mapping[str, Graph]:
        """What the runs are of."""
        return {
            "work": chain(("one", "two", "three"), self.gates),
            "pausing": chain(_MANY, self.resting),
            "asking": asking(),
            "shaky": self._shaky(),
        }

    def _shaky(self) -> StateGraph[Any, None, Any, Any]:
        def stamped(state: Stamped) -> dict[str, Any]:
            return {"stamp": Stamp("a\x00b"), "trace": ["stamped"]}

        def shaky(state: Stamped) -> dict[str, Any]:
            if self.trouble:
                raise ConnectionError("there is an outage")
            return {"trace": [state["stamp"].text]}

        def last(state: Stamped) -> dict[str, Any]:
            return {"trace": [str(interrupt("approval"))]}

        return StateGraph(Stamped).add_sequence([stamped, shaky, last]).add_edge(START, "stamped")

    async def appear(self, o: Orchestrator) -> None:
        """Bring every run into its state."""
        self.gates.open("one")
        self.runs["running"] = await o.start("work", {"text": "running"}, thread_id="busy")
        await until(lambda: "two" in self.gates.reached, what="a run in a node")
        self.runs["pending"] = await o.start("work", {"text": "pending"}, thread_id="busy", idempotency_key="once")
        self.runs["waiting"] = await o.start("asking", {"text": "w"}, idempotency_key="asked")
        self.runs["acme"] = await o.start("asking", {"text": "a"}, thread_id="busy", organization_id="acme")
        self.runs["paused"] = await o.start("pausing", {"text": "p"})
        await until(lambda: self.resting.reached, what="the run that will be paused")
        await o.interrupt(self.runs["paused"].run_id)
        await until(lambda: self._pauses(o), what="the run is paused")
        self.runs["suspended"] = await o.start("shaky", {}, retry=LATER)
        await o.signal(self.runs["suspended"].run_id, "approval", "yes")
        for name, wanted in {
            "waiting": "waiting",
            "acme": "waiting",
            "paused": "paused",
            "suspended": "suspended",
        }.items():
            self.runs[name] = await status(o, self.runs[name], RunStatus(wanted))

    async def _pauses(self, o: Orchestrator) -> bool:
        """Let the run go on by one step, as long as it has not heard that it is to pause."""
        self.resting.open(*self.resting.reached)
        return (await o.poll(self.runs["paused"].run_id)).status is RunStatus.PAUSED

    async def end(self, o: Orchestrator) -> dict[str, Run]:
        """Give every run what it lacks; the runs at their ends."""
        self.gates.open("two", "three")
        self.resting.open(*_MANY)
        self.trouble.clear()
        for name in ("waiting", "acme"):
            await o.signal(self.runs[name].run_id, "go", name)
        for name in ("paused", "suspended"):
            await o.resume(self.runs[name].run_id)
        return {name: await self._over(o, name) for name in CASTED}

    async def _over(self, o: Orchestrator, name: str) -> Run:
        async def over() -> bool:
            return (await o.poll(self.runs[name].run_id)).status in FINAL

        await until(over, timeout_s=30, what=f"the end of {name}")
        return await o.poll(self.runs[name].run_id)

    @staticmethod
    def check(ended: Mapping[str, Run]) -> None:
        """Each run ended as it would have if nothing had been moved."""
        assert {name: str(run.status) for name, run in ended.items()} == dict.fromkeys(CASTED, "completed")
        traces = {name: run.output["trace"] for name, run in ended.items()}
        assert traces == {
            "running": ["one", "two", "three"],
            # A second run on the thread: the state goes on.
            "pending": ["one", "two", "three"] * 2,
            "waiting": ["waiting"],
            "acme": ["acme"],
            "paused": [*_MANY],
            "suspended": ["stamped", "a\x00b", "yes"],
        }


@asynccontextmanager
async def opened(settings: OrchestratorSettings, cast: Cast) -> AsyncIterator[Orchestrator]:
    """An orchestrator with the cast's graphs."""
    async with open_orchestrator(cast.graphs, settings=settings) as orchestrator:
        yield orchestrator
