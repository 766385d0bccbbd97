"""`scripts/bench queue`: runs that one process starts and others take up, over the postgres queue."""

from __future__ import annotations

import argparse
import asyncio
import gc
import pstats
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from rich.console import Console

from tests.bench import options
from tests.bench.figures import Results
from tests.bench.machine import describe, server_settings
from tests.bench.processes import CpuClock, postmaster_of
from tests.bench.queue_report import Beside, Cost, QueueReport, draw, growth_figures, queue_figures
from tests.bench.queue_work import LABELS, Start, System, Wave, open_system
from tests.bench.rounds import one_round, warm_up
from tests.bench.statements import counted
from tests.bench.workloads import Sample
from tests.postgres import Cluster, own_cluster

__all__ = ["main"]

# Nine processes are open at once, each with up to twenty connections.
_OPTIONS = "-c max_connections=300"
_RUNS = 100
_STARTS = 40
_BESIDE_SHARE = 4
_WAITING = 10_000
_ENQUEUED = 2000
_WARM_STARTS = 5
_PAUSE_S = 0.02


def main(arguments: Sequence[str]) -> int:
    """Run the bench; 0 unless something breaks, or with --strict a figure misses its mark."""
    chosen = _parser().parse_args(arguments)
    console = options.open_console()
    with (
        own_cluster(options=_OPTIONS, on_disk=True) as cluster,
        tempfile.TemporaryDirectory(prefix="holdfast-bench-") as directory,
    ):
        scratch = Path(directory)
        if chosen.profile:
            asyncio.run(_profile(cluster, scratch, chosen))
            return 0
        machine = {**describe(scratch), **server_settings(cluster.dsn())}
        report = asyncio.run(_measure(cluster, scratch, chosen, machine, console))
    return options.publish(report, draw, chosen, console)


def _parser() -> argparse.ArgumentParser:
    parser = options.common("queue", "Runs that one process starts and `holdfast worker` processes take up.")
    parser.add_argument("--runs", type=options.positive, metavar="N", default=_RUNS, help="at once (%(default)s)")
    parser.add_argument(
        "--starts", type=options.positive, metavar="N", default=_STARTS, help="single ones a round (%(default)s)"
    )
    parser.add_argument(
        "--waiting", type=options.positive, metavar="N", default=_WAITING, help="in full tables (%(default)s)"
    )
    parser.add_argument(
        "--enqueued", type=options.positive, metavar="N", default=_ENQUEUED, help="at once (%(default)s)"
    )
    parser.add_argument("--profile", action="store_true", help="only print where a worker's time goes, by cProfile")
    parser.add_argument("--lines", type=int, default=40, help="of a profile (%(default)s)")
    return parser


async def _profile(cluster: Cluster, directory: Path, chosen: argparse.Namespace) -> None:
    kept = directory / "worker.prof"
    async with open_system(cluster.dsn(), directory, "one", profile=kept) as system:
        for _ in range(3):
            await Wave("noop", chosen.runs).run(system, Sample())
    stats = pstats.Stats(str(kept), stream=sys.stdout).strip_dirs()
    for order in ("tottime", "cumtime"):
        stats.sort_stats(order).print_stats(chosen.lines)


async def _measure(
    cluster: Cluster, directory: Path, chosen: argparse.Namespace, machine: Mapping[str, str], console: Console
) -> QueueReport:
    rounds = chosen.rounds or (2 if chosen.quick else 5)
    wave = Wave("noop", chosen.runs)
    async with open_system(cluster.dsn(), directory, "alone") as alone:
        console.print("single starts, with nothing else going on")
        await warm_up([alone.contender()], [wave], short=chosen.quick)
        starts = [await _single_starts(alone, chosen.starts) for _ in range(rounds)]
        console.print("what a run costs")
        cost = await _cost(alone, wave, cluster)
        console.print("enqueueing")
        enqueued = await _enqueued(alone, chosen.enqueued, rounds)
    console.print(f"opening: {', '.join(LABELS.values())}")
    async with AsyncExitStack() as stack:
        # All of them new: what a system went through before shows in its tables, and in the plans that these get.
        systems = [
            await stack.enter_async_context(open_system(cluster.dsn(), directory, name, waiting=chosen.waiting))
            for name in LABELS
        ]
        results, beside = await _rounds(systems, wave, chosen, rounds, console)
    figures = queue_figures(starts, results, chosen.runs, enqueued, cost)
    figures += growth_figures(results, beside, chosen.waiting)
    return QueueReport(machine, rounds, chosen.quick, starts, results, beside, cost, figures)


async def _single_starts(system: System, number: int) -> list[Start]:
    for _ in range(_WARM_STARTS):
        await system.start_one()
    gc.collect()
    starts = []
    for _ in range(number):
        # Until the worker has thrown the job away, which takes longer than telling that the run is over.
        await asyncio.sleep(_PAUSE_S)
        starts.append(await system.start_one())
    return starts


async def _cost(system: System, wave: Wave, cluster: Cluster) -> Cost:
    """First the time on processors, then the statements: logging them takes time."""
    clock = CpuClock(postmaster_of(cluster), worker=list(system.workers))
    await wave.run(system, Sample())
    cpu = clock.spent()
    async with counted(system.dsn, cluster.directory / "log") as statements:
        await wave.run(system, Sample())
    return Cost(wave.threads, {"starts and waits": cpu.pop("here"), **cpu}, statements)


async def _enqueued(system: System, number: int, rounds: int) -> list[float]:
    """Runs a second; one time goes before, for the statement is new to the server then."""
    await system.enqueue(number)
    await system.forget_waiting()
    rates = []
    for _ in range(rounds):
        gc.collect()
        rates.append(number / await system.enqueue(number))
        await system.forget_waiting()
    return rates


async def _rounds(
    systems: Sequence[System], wave: Wave, chosen: argparse.Namespace, rounds: int, console: Console
) -> tuple[Results, Beside]:
    """Waves on every system, and single starts on those with one worker, taking turns."""
    results: dict[str, dict[str, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    beside: dict[str, list[list[Start]]] = defaultdict(list)
    contenders = [system.contender() for system in systems]
    await warm_up(contenders, [wave], short=chosen.quick)
    for number in range(rounds):
        console.print(f"round {number + 1} of {rounds}, times in ms")
        async for work, name, sample in one_round(number, contenders, [wave], console.print):
            results[work][name].append(sample)
        for system in (*systems[number % len(systems) :], *systems[: number % len(systems)]):
            if len(system.workers) == 1:
                beside[system.name].append(await _single_starts(system, max(1, chosen.starts // _BESIDE_SHARE)))
    return results, beside
