"""The recovery bench's work: two servers over one database, one of which is killed, or frozen, in the middle of runs.

What is timed ends with the first node that another process begins, by the node's own clock: `time.monotonic()`, which
on Linux is the same in every process.
"""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal

import httpx
import psutil

from tests.bench import served
from tests.bench.http_work import healthy
from tests.bench.processes import Process
from tests.postgres import free_port, fresh_database
from tests.waiting import until

__all__ = ["Fault", "Pair", "Recovery", "open_pair"]

Fault = Literal["SIGKILL", "SIGSTOP"]
_WITHIN_S = 90.0
_COMMITTED = 3
_BEATS = 60


@dataclass(frozen=True)
class Recovery:
    """Seconds from the fault to the first node elsewhere, of each run; how many lost a beat, or have one twice."""

    fault: Fault
    seconds: list[float]
    lost: int
    repeated: int


@dataclass
class _Seat:
    """An address, and the server that is there now."""

    home: Path
    port: int
    process: Process
    client: httpx.AsyncClient
    struck: bool = False


class Pair:
    """Two servers. Runs are started at the first one, which is struck, and go on at the second."""

    def __init__(self, dsn: str, directory: Path) -> None:
        self._dsn = dsn
        self._directory = directory
        self._seats: list[_Seat] = []
        self._numbers = count()

    async def strike(self, fault: Fault, runs: int) -> Recovery:
        """Start runs, strike the server that drives them, and see when and how they go on."""
        victim, other = self._seats
        if victim.struck:
            await self._replace(victim)
        gate = self._directory / f"struck{next(self._numbers)}"
        ids = [await _start(victim.client, gate) for _ in range(runs)]
        for run_id in ids:
            await _under_way(other.client, run_id)
        begun = time.monotonic()
        victim.process.ps.send_signal(signal.Signals[fault])
        victim.struck = True
        gate.touch()
        ended = [await _ended(other.client, run_id) for run_id in ids]
        with suppress(psutil.NoSuchProcess):
            victim.process.ps.kill()
        return _seen(fault, ended, begun, victim.process.ps.pid)

    async def open_seat(self) -> None:
        """One more server."""
        home = self._directory / f"server{len(self._seats)}"
        home.mkdir()
        port = free_port()
        client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False)
        self._seats.append(_Seat(home, port, await self._process(home, port), client))

    async def _replace(self, seat: _Seat) -> None:
        seat.process.stop()
        await seat.client.aclose()
        seat.process = await self._process(seat.home, seat.port)
        seat.client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{seat.port}", timeout=30, trust_env=False)
        seat.struck = False

    async def _process(self, home: Path, port: int) -> Process:
        environment = {"USE_POSTGRES_SAVER": "true", "POSTGRES_CONNECTION_STRING": self._dsn, "PORT": str(port)}
        graphs = str(served.write_graph_file(home))
        process = Process(home, ["serve", "--graphs", graphs], environment)
        await healthy(process, port)
        return process

    async def close(self) -> None:
        """Stop both."""
        for seat in self._seats:
            await seat.client.aclose()
            with suppress(psutil.NoSuchProcess):
                seat.process.ps.resume()
            seat.process.stop()


@asynccontextmanager
async def open_pair(admin_dsn: str, directory: Path) -> AsyncIterator[Pair]:
    """Two servers over a database of their own."""
    async with AsyncExitStack() as stack:
        pair = Pair(stack.enter_context(fresh_database(admin_dsn)), directory)
        stack.push_async_callback(pair.close)
        await pair.open_seat()
        await pair.open_seat()
        yield pair


async def _start(client: httpx.AsyncClient, gate: Path) -> str:
    given = {"beats": [], "wanted": _BEATS, "gate": str(gate)}
    answer = await client.post("/api/invoke/async", json={"workflow": "beats", "input": given})
    answer.raise_for_status()
    return str(answer.json()["runId"])


async def _under_way(client: httpx.AsyncClient, run_id: str) -> None:
    """Wait until some beats are committed, so that there is something to go on from."""

    async def committed() -> bool:
        history = (await client.get(f"/api/runs/{run_id}/history", params={"limit": _COMMITTED})).json()
        return len(history["checkpoints"]) >= _COMMITTED

    await until(committed, timeout_s=_WITHIN_S, what=f"run {run_id} is under way")


async def _ended(client: httpx.AsyncClient, run_id: str) -> dict[str, Any]:
    async def over() -> Any:
        run = (await client.get(f"/api/runs/{run_id}")).json()
        return run if run["status"] in {"completed", "failed", "cancelled"} else None

    found: dict[str, Any] = await until(over, timeout_s=_WITHIN_S, what=f"run {run_id} is over")
    return found


def _seen(fault: Fault, ended: list[dict[str, Any]], begun: float, victim: int) -> Recovery:
    """What the runs' own beats say. One that completed has each beat once, and a first one of another process."""
    seconds: list[float] = []
    lost = repeated = 0
    for run in ended:
        beats = (run.get("output") or {}).get("beats", ())
        elsewhere = [at for pid, at in beats if pid != victim]
        if run["status"] != "completed" or len(beats) < _BEATS:
            lost += 1
        elif len(beats) > _BEATS:
            repeated += 1
        if elsewhere:
            seconds.append(min(elsewhere) - begun)
    return Recovery(fault, seconds, lost, repeated)
