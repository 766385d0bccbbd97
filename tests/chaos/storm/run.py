"""A storm from its beginning to its end: start the system, load it, strike it, let it settle, check it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from checkpointer.postgres.queries import load_queries
from tests.chaos.storm.checker import Records, check_all
from tests.chaos.storm.faults import Blow, Faults
from tests.chaos.storm.load import Load
from tests.chaos.storm.report import Report
from tests.chaos.storm.schedule import Fault, Kind, make_schedule
from tests.chaos.storm.system import System, open_system
from tests.checkpoints import SCHEMA
from tests.waiting import until

__all__ = ["Plan", "run_storm"]

_SETTLE_WITHIN_S = 120.0


@dataclass(frozen=True, slots=True)
class Plan:
    """A storm of `duration_s` seconds, in which `rate` runs are started a second."""

    seed: int
    duration_s: float = 180.0
    lease_s: float = 5.0
    rate: float = 4.0
    kinds: Sequence[Kind] = tuple(Kind)

    def schedule(self) -> tuple[Fault, ...]:
        """What strikes when."""
        return make_schedule(self.seed, self.duration_s, self.lease_s, self.kinds)


async def run_storm(plan: Plan, directory: Path, console: Console) -> Report:
    """Do it, with the logs below `directory`; whatever was started is ended, also when this is cancelled."""
    console.print(
        f"seed {plan.seed}: starting PostgreSQL, an API and three workers; logs: {directory}", highlight=False
    )
    fakes_clocks = Kind.WRONG_CLOCK in plan.kinds
    async with open_system(directory, lease_s=plan.lease_s, fakes_clocks=fakes_clocks) as system:
        load = Load(f"http://127.0.0.1:{system.api.port}", seed=plan.seed, rate=plan.rate)
        try:
            return await _stormed(plan, system, load, console)
        finally:
            await load.close()


async def _stormed(plan: Plan, system: System, load: Load, console: Console) -> Report:
    ends = time.monotonic() + plan.duration_s
    loading = asyncio.create_task(load.run(), name="load")
    try:
        blows = await _strike(plan, system, load, console)
        await asyncio.sleep(max(ends - time.monotonic(), 0))
        if loading.done():
            loading.result()
    finally:
        loading.cancel()
    console.print(f"the storm is over; {len(load.accepted)} runs were accepted, and are to settle", highlight=False)
    await load.drain(_SETTLE_WITHIN_S)
    await _settle(system, load)
    records = await asyncio.to_thread(Records.of, system)
    return Report(
        plan.seed,
        plan.duration_s / 60,
        plan.lease_s,
        system.directory,
        blows,
        records,
        await check_all(system, load, records),
        time.time() - time.monotonic(),
        load.unanswered,
        len(load.watched),
        sum(server.log.count("Traceback") for server in system.servers),
    )


async def _strike(plan: Plan, system: System, load: Load, console: Console) -> list[Blow]:
    faults = Faults(system, load)
    began = time.monotonic()
    blows = []
    for fault in plan.schedule():
        # Never earlier than planned; later where the machine is slow, but in the same order.
        await asyncio.sleep(max(began + fault.at_s - time.monotonic(), 0))
        blow = await faults.strike(fault)
        blows.append(blow)
        said = blow.skipped or f"{len(blow.hit)} runs hit"
        console.print(f"{time.monotonic() - began:7.1f} s  {fault.kind}: {said}", highlight=False)
        for server in system.servers:
            if not server.running:
                load.problems.append(f"a {server.command} ended by itself after {fault.kind}; see {server.log_file}")
                await server.start()
    return blows


async def _settle(system: System, load: Load) -> None:
    queries = load_queries("tests.chaos.storm", SCHEMA)
    for name in ("unfinished", "waiting_jobs"):

        async def none_left(query: str = queries[name]) -> bool:
            return not await asyncio.to_thread(system.rows, query)

        try:
            await until(none_left, timeout_s=_SETTLE_WITHIN_S, what=f"{name} are none")
        except AssertionError as exc:
            load.problems.append(str(exc))
