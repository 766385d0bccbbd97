"""A server that only starts runs and workers that do them, each a process; seen as a fleet is."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from tests.chaos.faults import FAULT
from tests.chaos.fleet import Fleet, Row
from tests.chaos.graphs import GATES, GRAPHS
from tests.chaos.journal import JOURNAL, Entry
from tests.servers import Server, Worker
from tests.waiting import until

__all__ = ["Crew", "open_crew", "pids"]


class Crew(Fleet):
    """One server, which does not work, and its workers."""

    def __init__(self, directory: Path, dsn: str) -> None:
        super().__init__(directory, dsn)
        self._directory = directory
        self._environment = {
            "USE_POSTGRES_SAVER": "true",
            "POSTGRES_CONNECTION_STRING": dsn,
            JOURNAL: str(self.journal.path),
            GATES: str(self.gates),
        }

    @property
    def server(self) -> Server:
        """Where runs are started."""
        return self.servers[0]

    @property
    def workers(self) -> list[Worker]:
        """The workers that were added."""
        return [server for server in self.servers if isinstance(server, Worker)]

    def add(self, kind: type[Server], *arguments: str, environment: Mapping[str, str], graphs: bool = True) -> Server:
        """A process to be started, by default with the graphs of these tests."""
        home = self._directory / f"{kind.command}{len(self.servers)}"
        home.mkdir()
        named = {name: f"tests.chaos.graphs:{name}" for name in GRAPHS}
        (home / "langgraph.json").write_text(json.dumps({"graphs": named}))
        given = {**self._environment, FAULT: str(home / "fault"), **environment}
        server = kind(home, given, *(("--graphs", "langgraph.json") if graphs else ()), *arguments)
        self.servers.append(server)
        return server

    async def add_worker(self, *arguments: str, graphs: bool = True, **environment: str) -> Worker:
        """A worker that is at work."""
        worker = self.add(Worker, *arguments, graphs=graphs, environment=environment)
        assert isinstance(worker, Worker)
        await worker.start()
        return worker

    async def invoke_many(self, number: int, workflow: str, state: object, *, at_once: int = 20) -> list[str]:
        """Start so many runs; gives their ids."""
        turn = asyncio.Semaphore(at_once)

        async def start() -> str:
            async with turn:
                return await self.invoke(self.server, workflow, state)

        return await asyncio.gather(*(start() for _ in range(number)))

    def counts(self) -> dict[str, int]:
        """How many runs there are of each status."""
        rows = self.rows("SELECT status, count(*) AS n FROM workflow_metadata GROUP BY status")
        return {row["status"]: row["n"] for row in rows}

    async def all_completed(self, number: int, *, timeout_s: float = 120) -> list[Row]:
        """The rows of all runs there are, so many, once they have completed."""
        await until(
            lambda: self.counts() == {"completed": number}, timeout_s=timeout_s, what=f"{number} runs are completed"
        )
        return self.rows("SELECT * FROM workflow_metadata")

    def by_run(self) -> dict[str, list[Entry]]:
        """What was run of each run, in order."""
        found: dict[str, list[Entry]] = defaultdict(list)
        for entry in self.journal.entries():
            found[entry.run_id].append(entry)
        return found

    def registered(self) -> list[int]:
        """The ids of the queue's workers."""
        return [row["id"] for row in self.rows("SELECT id FROM procrastinate_workers ORDER BY id")]

    def jobs(self) -> list[Row]:
        """The queue's jobs."""
        return self.rows("SELECT * FROM procrastinate_jobs ORDER BY id")

    def logs(self) -> str:
        """What all of them wrote."""
        return "".join(server.log for server in self.servers if server.log_file.exists())


@asynccontextmanager
async def open_crew(
    directory: Path, dsn: str, workers: int, *arguments: str, quiet: bool = True, **environment: str
) -> AsyncIterator[Crew]:
    """A server and so many workers with these arguments, started; what is left of them is killed at the end."""
    crew = Crew(directory, dsn)
    async with AsyncExitStack() as stack:
        stack.enter_context(crew.looking())
        stack.push_async_callback(_close, crew)
        crew.add(Server, "--no-worker", environment=environment)
        await crew.start(crew.server)
        added = [crew.add(Worker, *arguments, environment=environment) for _ in range(workers)]
        await asyncio.gather(*(worker.start() for worker in added))
        yield crew
        assert not quiet or "Traceback" not in crew.logs(), crew.logs()


async def _close(crew: Crew) -> None:
    for server in crew.servers:
        await server.close()


def pids(entries: Sequence[Entry]) -> set[int]:
    """The processes that wrote these."""
    return {entry.pid for entry in entries}
