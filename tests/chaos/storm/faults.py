"""Does what the schedule says: strikes, waits, lifts. Processes are ended by the ids they were started with."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic

import psycopg

from tests.chaos.storm.load import Load
from tests.chaos.storm.schedule import Fault, Kind
from tests.chaos.storm.system import System, fake_clock
from tests.servers import Server

__all__ = ["Blow", "Faults"]

_HOUR_S = 3600
_SLOW_S = 0.05
_TERMINATED = 3
_MISBEHAVING = 3
_TAKE_AGAIN_EVERY_S = 0.05
_WAIT_FOR_RUNS_S = 5.0
_LOOK_EVERY_S = 0.02


@dataclass
class Blow:
    """A fault as it struck. `since` is when its runs could go on elsewhere, or again; times are monotonic seconds.

    `pid` is the process that was hit: what it does later is no recovery.
    """

    fault: Fault
    since: float = field(default_factory=monotonic)
    lifted: float = 0.0
    hit: set[str] = field(default_factory=set)
    pid: int | None = None
    skipped: str | None = None


class Faults:
    """Strikes `system`, with `load` to send runs that misbehave."""

    def __init__(self, system: System, load: Load) -> None:
        self._system = system
        self._load = load
        self._ways: dict[Kind, Callable[[Blow], Awaitable[None]]] = {
            Kind.KILL_WORKER: self._kill_worker,
            Kind.FREEZE_WORKER: self._freeze_worker,
            Kind.KILL_API: self._kill_api,
            Kind.FREEZE_API: self._freeze_api,
            Kind.CRASH_POSTGRES: self._crash_postgres,
            Kind.CUT: self._cut,
            Kind.SILENCE: self._silence,
            Kind.SLOW: self._slow,
            Kind.NO_CONNECTIONS: self._take_connections,
            Kind.TERMINATE: self._terminate,
            Kind.WRONG_CLOCK: self._wrong_clock,
            Kind.FULL_DISK: self._fill_disk,
            Kind.RAISE: self._misbehave,
            Kind.BLOCK: self._misbehave,
            Kind.LEAK: self._misbehave,
        }

    async def strike(self, fault: Fault) -> Blow:
        """Do it, and lift it again."""
        blow = Blow(fault)
        await self._ways[fault.kind](blow)
        blow.lifted = monotonic()
        return blow

    async def _running(self, pid: int | None = None) -> set[str]:
        """The runs that a blow will hit: those under way, or those of a process; it waits a while for there to be one.

        They are asked for right before the blow. One that ends in between is not counted as hit.
        """
        ends = monotonic() + _WAIT_FOR_RUNS_S
        while True:
            found = await asyncio.to_thread(self._system.running_on, pid)
            if found or monotonic() > ends:
                return found
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _kill_worker(self, blow: Blow) -> None:
        worker = self._system.workers[blow.fault.victim]
        await self._kill(blow, worker)
        await asyncio.sleep(blow.fault.lasts_s)
        await worker.start()

    async def _kill(self, blow: Blow, server: Server) -> None:
        blow.pid = server.pid
        blow.hit = await self._running(server.pid)
        blow.since = monotonic()
        await server.kill()

    async def _freeze_worker(self, blow: Blow) -> None:
        worker = self._system.workers[blow.fault.victim]
        blow.pid = worker.pid
        blow.hit = await self._running(worker.pid)
        await self._freeze(blow, worker)

    async def _freeze(self, blow: Blow, server: Server) -> None:
        blow.since = monotonic()
        os.kill(server.pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(blow.fault.lasts_s)
        finally:
            os.kill(server.pid, signal.SIGCONT)

    async def _kill_api(self, blow: Blow) -> None:
        blow.hit = await self._running()
        blow.since = monotonic()
        await self._system.api.kill()
        await asyncio.sleep(blow.fault.lasts_s)
        await self._system.api.start()

    async def _freeze_api(self, blow: Blow) -> None:
        blow.hit = await self._running()
        await self._freeze(blow, self._system.api)

    async def _crash_postgres(self, blow: Blow) -> None:
        blow.hit = await self._running()
        await asyncio.to_thread(self._system.cluster.stop, "immediate")
        await asyncio.sleep(blow.fault.lasts_s)
        await asyncio.to_thread(self._system.cluster.start)
        blow.since = monotonic()

    async def _cut(self, blow: Blow) -> None:
        blow.hit = await self._running()
        self._system.proxy.refuse()
        await asyncio.sleep(blow.fault.lasts_s)
        self._system.proxy.accept()
        blow.since = monotonic()

    async def _silence(self, blow: Blow) -> None:
        blow.hit = await self._running()
        self._system.proxy.deafen()
        await asyncio.sleep(blow.fault.lasts_s)
        self._system.proxy.hear()
        blow.since = monotonic()

    async def _slow(self, blow: Blow) -> None:
        blow.hit = await self._running()
        self._system.proxy.slow(_SLOW_S)
        blow.since = monotonic()
        await asyncio.sleep(blow.fault.lasts_s)
        self._system.proxy.slow(0)

    async def _take_connections(self, blow: Blow) -> None:
        """Take all connections that are left, and most of those that are in use."""
        blow.hit = await self._running()
        await asyncio.to_thread(self._hold_connections, blow.fault.lasts_s)
        blow.since = monotonic()

    def _hold_connections(self, seconds: float) -> None:
        ends = monotonic() + seconds
        held = [self._connect()]
        try:
            self._take_all(held)
            _terminate_some(held[0], 0.0, 1000)
            while monotonic() < ends:
                self._take_all(held)
                # psycopg's own pause: the thread is only here to hold what it has.
                held[0].execute("SELECT pg_sleep(%s)", [_TAKE_AGAIN_EVERY_S])
        finally:
            for conn in held:
                conn.close()

    def _take_all(self, held: list[psycopg.Connection]) -> None:
        with suppress(psycopg.OperationalError):
            while True:
                held.append(self._connect())

    def _connect(self) -> psycopg.Connection:
        return psycopg.connect(self._system.dsn, autocommit=True)

    async def _terminate(self, blow: Blow) -> None:
        blow.hit = await self._running()
        await asyncio.to_thread(self._terminate_three, blow.fault.draw)
        blow.since = monotonic()

    def _terminate_three(self, draw: float) -> None:
        with self._connect() as conn:
            _terminate_some(conn, draw, _TERMINATED)

    async def _wrong_clock(self, blow: Blow) -> None:
        """Let a worker go on with a wrong clock, then kill it: others go on with what it wrote."""
        clock = fake_clock(_HOUR_S if blow.fault.draw < 0.5 else -_HOUR_S)
        if clock is None:
            blow.skipped = "libfaketime is not installed"
            return
        worker = self._system.workers[blow.fault.victim]
        try:
            await worker.stop()
        except subprocess.TimeoutExpired:
            self._load.problems.append(f"a worker did not stop in good order; see {worker.log_file}")
            await worker.kill()
        await worker.start(**clock)
        await asyncio.sleep(blow.fault.lasts_s)
        await self._kill(blow, worker)
        await worker.start()

    async def _fill_disk(self, blow: Blow) -> None:
        if not self._system.has_disk:
            blow.skipped = "a small disk can be mounted by root only"
            return
        blow.hit = await self._running()
        ballast = self._system.cluster.directory / "ballast"
        try:
            await asyncio.to_thread(_fill, ballast)
            await asyncio.sleep(blow.fault.lasts_s)
        finally:
            ballast.unlink(missing_ok=True)
        # A server that could not write its log has ended itself.
        await asyncio.to_thread(self._system.ensure_postgres)
        blow.since = monotonic()

    async def _misbehave(self, blow: Blow) -> None:
        misdeed = {Kind.RAISE: "raise", Kind.BLOCK: "block", Kind.LEAK: "leak"}[blow.fault.kind]
        starts = (
            self._load.start("misbehaving", misdeed=misdeed, value=number, pace_s=blow.fault.lasts_s)
            for number in range(_MISBEHAVING)
        )
        blow.hit = {run.run_id for run in await asyncio.gather(*starts)}
        blow.since = monotonic()
        await asyncio.sleep(blow.fault.lasts_s)


def _terminate_some(conn: psycopg.Connection, draw: float, number: int) -> None:
    """End so many of the system's backends, from the one that `draw` in [0, 1) points at."""
    found = conn.execute(
        "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'holdfast%' AND pid <> pg_backend_pid()"
        " AND backend_type = 'client backend' ORDER BY pid"
    ).fetchall()
    first = int(draw * len(found))
    for (pid,) in [*found[first:], *found[:first]][:number]:
        conn.execute("SELECT pg_terminate_backend(%s)", [pid])


def _fill(ballast: os.PathLike[str]) -> None:
    """Take all the room that is left on the disk."""
    with open(ballast, "wb") as file:
        place = os.fstatvfs(file.fileno())
        size = 0
        for piece in (1 << 20, place.f_frsize):
            with suppress(OSError):
                while True:
                    os.posix_fallocate(file.fileno(), size, piece)
                    size += piece
