"""What the batch bench measures with: worker processes over a database, and batches that they work on."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from pydantic import SecretStr

from orchestrator import Orchestrator, OrchestratorSettings, RunStatus, open_orchestrator
from orchestrator.batches.flow import build_batch
from orchestrator.engine.graphs import Graph
from orchestrator.opening import Role
from orchestrator.workflows import build_extraction
from tests.bench.processes import Process, started
from tests.postgres import fresh_database
from tests.waiting import until

__all__ = ["Crew", "open_crew"]

_WITHIN_S = 60.0
_BATCH_WITHIN_S = 1800.0


@dataclass
class Crew:
    """`holdfast worker` processes, and an orchestrator here that only starts batches."""

    dsn: str
    api: Orchestrator
    corpora: Path
    workers: list[Process] = field(default_factory=list)

    async def batch(self, name: str, number: int) -> float:
        """Seconds of a batch over the corpus `name`, from its start until it is known to be over."""
        begun = time.perf_counter()
        run = await self.api.start("batch", {"paths": [name]})
        ended = await self.api.wait_for(run, timeout=_BATCH_WITHIN_S)
        elapsed = time.perf_counter() - begun
        if ended.status is not RunStatus.COMPLETED:
            raise AssertionError(f"a batch is {ended.status}: {ended.error}")
        if ended.output["knowledge"]["documents"] != number:
            raise AssertionError(f"{ended.output['knowledge']['documents']} of {number} documents came through")
        return elapsed

    async def analyze(self) -> None:
        """Let the server know what its tables hold, as it does by itself after a while."""
        async with await psycopg.AsyncConnection.connect(self.dsn, autocommit=True) as conn:
            await conn.execute("VACUUM ANALYZE")

    def peak_mib(self) -> float:
        """The most that was resident in a worker since it started."""
        return max(_peak_bytes(worker) for worker in self.workers) / 2**20


@asynccontextmanager
async def open_crew(
    admin_dsn: str, directory: Path, corpora: Path, *, workers: int, profile: Path | None = None
) -> AsyncIterator[Crew]:
    """A crew of so many workers at work on a database of its own; documents are read from below `corpora`."""
    async with AsyncExitStack() as stack:
        dsn = stack.enter_context(fresh_database(admin_dsn))
        settings = OrchestratorSettings(use_postgres_saver=True, postgres_connection_string=SecretStr(dsn))
        graphs: dict[str, Graph] = {"batch": build_batch(documents=corpora), "extraction": build_extraction()}
        role = Role("serve --no-worker", works=False)
        api = await stack.enter_async_context(open_orchestrator(graphs, settings=settings, role=role))
        crew = Crew(dsn, api, corpora)
        environment = {
            "USE_POSTGRES_SAVER": "true",
            "POSTGRES_CONNECTION_STRING": dsn,
            "DOCUMENTS_DIR": str(corpora),
        }
        for number in range(workers):
            kept = profile if number == 0 else None
            home = directory / f"worker{number}"
            home.mkdir(parents=True)
            crew.workers.append(stack.enter_context(started(home, "worker", environment=environment, profile=kept)))
        await until(lambda: _at_work(crew), timeout_s=_WITHIN_S, what="the workers work")
        yield crew


async def _at_work(crew: Crew) -> bool:
    for worker in crew.workers:
        worker.check()
    async with await psycopg.AsyncConnection.connect(crew.dsn) as conn:
        query = "SELECT count(*) FROM workflow_checkpoints.workflow_runner WHERE kind = 'worker'"
        row = await (await conn.execute(query)).fetchone()
    return row is not None and int(row[0]) >= len(crew.workers)


def _peak_bytes(worker: Process) -> float:
    status = Path(f"/proc/{worker.ps.pid}/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return float(worker.ps.memory_info().rss)
