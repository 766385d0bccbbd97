"""`scripts/bench saver`: LangGraph's savers and ours side by side; see docs/performance.md."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from tests.bench import options
from tests.bench.chart import draw
from tests.bench.contenders import LABELS, Contender, open_contenders
from tests.bench.figures import Figure, speed_figures
from tests.bench.long_thread import long_thread_figure
from tests.bench.machine import describe, server_settings
from tests.bench.memory import memory_figure
from tests.bench.profiling import profile
from tests.bench.report import Report
from tests.bench.rounds import one_round, warm_up
from tests.bench.settled import settled
from tests.bench.workloads import WORKLOADS, Sample, Workload
from tests.postgres import own_cluster

__all__ = ["main"]


def main(arguments: Sequence[str]) -> int:
    """Run the bench; 0 unless something breaks, or with --strict a figure misses its mark."""
    chosen = _parser().parse_args(arguments)
    console = options.open_console()
    with (
        own_cluster(options="", on_disk=True) as cluster,
        tempfile.TemporaryDirectory(prefix="holdfast-bench-") as directory,
    ):
        dsn, scratch = cluster.dsn(), Path(directory)
        machine = {**describe(scratch), **server_settings(dsn)}
        if chosen.profile:
            asyncio.run(_profile(dsn, scratch, *chosen.profile, lines=chosen.lines))
            return 0
        report = asyncio.run(_measure(dsn, scratch, chosen, machine, console))
    return options.publish(report, draw, chosen, console)


def _parser() -> argparse.ArgumentParser:
    parser = options.common("saver", "LangGraph's savers and ours side by side.")
    parser.add_argument("--contenders", type=_names, help=f"some of {','.join(LABELS)} (all; --quick: without sqlite)")
    parser.add_argument("--work", type=_workloads, default=list(WORKLOADS), help="such as ops:100,graph:100")
    parser.add_argument("--profile", type=_profiled, metavar="CONTENDER:KIND:N", help="such as ours:graph:100")
    parser.add_argument("--lines", type=int, default=40, help="of a profile (%(default)s)")
    return parser


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(LABELS):
        raise argparse.ArgumentTypeError(f"no contender {', '.join(sorted(unknown))}; there is {', '.join(LABELS)}")
    return names


def _workloads(text: str) -> list[Workload]:
    return [_workload(name) for name in text.split(",")]


def _workload(name: str) -> Workload:
    known = {workload.name: workload for workload in WORKLOADS}
    kind, _, threads = name.partition(":")
    if name not in known and (kind not in ("ops", "graph") or not threads.isdecimal() or not int(threads)):
        raise argparse.ArgumentTypeError(f"no workload {name!r}; it is ops:N or graph:N")
    return known.get(name) or Workload(kind, int(threads))


def _profiled(text: str) -> tuple[str, Workload]:
    contender, _, workload = text.partition(":")
    return _names(contender)[0], _workload(workload)


async def _profile(dsn: str, directory: Path, name: str, workload: Workload, *, lines: int) -> None:
    async with open_contenders(dsn, directory, [name]) as (contender,):
        await profile(contender, workload, lines=lines)


async def _measure(
    dsn: str, directory: Path, chosen: argparse.Namespace, machine: dict[str, str], console: Console
) -> Report:
    results: dict[str, dict[str, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    rounds = chosen.rounds or (2 if chosen.quick else 5)
    names = chosen.contenders or [name for name in LABELS if not chosen.quick or name != "sqlite"]
    async with open_contenders(dsn, directory, names) as contenders:
        console.print("warming up")
        await warm_up(contenders, chosen.work, short=chosen.quick)
        with settled():
            for number in range(rounds):
                console.print(f"round {number + 1} of {rounds}, times in ms")
                async for workload, contender, sample in one_round(number, contenders, chosen.work, console.print):
                    results[workload][contender].append(sample)
        figures = speed_figures(results)
        ours = next((contender for contender in contenders if contender.name == "ours"), None)
        if ours is not None and chosen.work == list(WORKLOADS):
            figures += await _single_figures(ours, rounds, console)
    return Report(machine, rounds, chosen.quick, results, figures)


async def _single_figures(ours: Contender, rounds: int, console: Console) -> list[Figure]:
    """The figures that are about ours alone."""
    console.print("a long thread and a short one")
    figures = [await long_thread_figure(ours, rounds=rounds)]
    if ours.dsn is not None:
        console.print("resident memory")
        figures.append(await asyncio.to_thread(memory_figure, ours.dsn))
    return figures
