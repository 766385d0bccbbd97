"""The HTTP bench's work: the same graphs through `POST /api/invoke`, and by `graph.ainvoke` on a saver beside."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any
from uuid import uuid4

import httpx
from langchain_core.runnables import RunnableConfig
from pydantic import SecretStr

from checkpointer.factory import open_saver
from orchestrator import OrchestratorSettings
from tests.bench import served
from tests.bench.http_client import Job, Saw, ask
from tests.bench.processes import CpuClock, Process, started
from tests.postgres import free_port, fresh_database

__all__ = ["LOADS", "Load", "Measured", "Site", "healthy", "open_site"]

_HEALTHY_WITHIN_S = 60.0
_LOOK_EVERY_S = 0.005
_EXPECTED = '"status":"completed"'


@dataclass(frozen=True)
class Load:
    """Runs of a graph, so many of them at once."""

    workflow: str
    at_once: int
    runs: int
    title: str

    @property
    def name(self) -> str:
        """Such as `five:16`."""
        return f"{self.workflow}:{self.at_once}"

    @property
    def connections(self) -> int:
        """Those that there is a run for."""
        return min(self.at_once, self.runs)


LOADS = (
    Load("five", 1, 60, "no-op nodes, one at a time"),
    Load("five", 16, 200, "no-op nodes, 16 at once"),
    Load("five", 100, 400, "no-op nodes, 100 at once"),
    Load("five_50ms", 100, 400, "50 ms nodes, 100 at once"),
)


@dataclass(frozen=True)
class Measured:
    """A load over HTTP and beside it, and seconds on processors over HTTP: of client, server, PostgreSQL."""

    saw: Saw
    ainvoke_s: float
    cpu: Mapping[str, float]


@dataclass
class Site:
    """A server with its database; `graphs` are the same ones, compiled with a saver of this process."""

    dsn: str
    databases: Sequence[str]
    directory: Path
    postmaster: int
    graphs: Mapping[str, Any]
    servers: list[tuple[Process, int]] = field(default_factory=list)
    numbers: count[int] = field(default_factory=count)

    @asynccontextmanager
    async def served(self, *, profile: Path | None = None) -> AsyncIterator[float]:
        """A further server, as the one that is asked; gives the seconds from its start until it was healthy."""
        home = self.directory / f"server{next(self.numbers)}"
        home.mkdir()
        port = free_port()
        environment = {"USE_POSTGRES_SAVER": "true", "POSTGRES_CONNECTION_STRING": self.dsn, "PORT": str(port)}
        command = ("serve", "--graphs", str(served.write_graph_file(home)))
        begun = perf_counter()
        with started(home, *command, environment=environment, profile=profile) as process:
            await healthy(process, port)
            elapsed = perf_counter() - begun
            self.servers.append((process, port))
            yield elapsed
            self.servers.remove((process, port))

    @property
    def resident_mib(self) -> float:
        """What of the server is resident now."""
        return float(self.servers[-1][0].ps.memory_info().rss / 2**20)

    async def ask(self, load: Load) -> Saw:
        """The load over HTTP."""
        body = f'{{"workflow":"{load.workflow}","input":{{"task":"begin"}}}}'
        return await self._ask("POST", "/api/invoke", body, _EXPECTED, load)

    async def ask_alive(self, load: Load) -> Saw:
        """As many requests that have nothing done: the most that this client gets out of this server."""
        return await self._ask("GET", "/api/health/live", "", "alive", load)

    async def _ask(self, method: str, path: str, body: str, expected: str, load: Load) -> Saw:
        _, port = self.servers[-1]
        job = Job(port, method, path, body, expected, load.connections, load.runs)
        return await asyncio.to_thread(ask, job)

    async def measure(self, load: Load, *, http_first: bool) -> Measured:
        """The load over HTTP and by `ainvoke`, one after the other."""
        before_s = 0.0 if http_first else await self.invoke(load)
        clock = CpuClock(self.postmaster, server=[process for process, _ in self.servers[-1:]])
        saw = await self.ask(load)
        spent = clock.spent()
        cpu = {"client": saw.busy, "server": spent["server"], "PostgreSQL": spent["PostgreSQL"]}
        return Measured(saw, await self.invoke(load) if http_first else before_s, cpu)

    async def invoke(self, load: Load) -> float:
        """The load by `graph.ainvoke`, with the durability that the server's attempts have; seconds."""
        graph = self.graphs[load.workflow]
        left = iter(range(load.runs))

        async def one_after_the_other() -> None:
            for _ in left:
                thread: RunnableConfig = {"configurable": {"thread_id": uuid4().hex}}
                output = await graph.ainvoke({"task": "begin"}, thread, durability="sync")
                if len(output["trace"]) != served.NODES:
                    raise AssertionError(f"a run ended with {len(output['trace'])} entries")

        begun = perf_counter()
        await asyncio.gather(*(one_after_the_other() for _ in range(load.connections)))
        return perf_counter() - begun


@asynccontextmanager
async def open_site(admin_dsn: str, directory: Path, postmaster: int) -> AsyncIterator[Site]:
    """A database for servers, and a saver with the same settings on a database of its own."""
    async with AsyncExitStack() as stack:
        dsn, beside = (stack.enter_context(fresh_database(admin_dsn)) for _ in range(2))
        settings = OrchestratorSettings(use_postgres_saver=True, postgres_connection_string=SecretStr(beside))
        saver = await stack.enter_async_context(open_saver(settings))
        graphs = {load.workflow: getattr(served, load.workflow).compile(checkpointer=saver) for load in LOADS}
        yield Site(dsn, (dsn, beside), directory, postmaster, graphs)


async def healthy(process: Process, port: int) -> None:
    """Wait until the server answers. Raises `AssertionError` after a minute, `RuntimeError` where it ended."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        ends = time.monotonic() + _HEALTHY_WITHIN_S
        while time.monotonic() < ends:
            process.check()
            try:
                if (await client.get("/api/health")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(_LOOK_EVERY_S)
    raise AssertionError(f"the server was not healthy in {_HEALTHY_WITHIN_S:g} s: {process.log[-2000:]}")
