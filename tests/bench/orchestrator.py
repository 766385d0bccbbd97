"""`scripts/bench orchestrator`: what durable runs cost over LangGraph, and over no LangGraph at all."""

from __future__ import annotations

import argparse
import asyncio
import gc
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

from rich.console import Console

from orchestrator import Orchestrator
from tests.bench import options
from tests.bench.contenders import Contender
from tests.bench.figures import Figure
from tests.bench.machine import describe, server_settings
from tests.bench.orchestrator_report import OrchestratorReport, draw, start_figures, work_figures
from tests.bench.orchestrator_work import DOCUMENTS, Documents, Runs, Way, open_ways
from tests.bench.profiling import Ledger, profile
from tests.bench.rounds import one_round, warm_up
from tests.bench.workloads import Crowd, Sample
from tests.postgres import own_cluster

__all__ = ["main"]

_RUNS = 100
_CORPUS_KB, _QUICK_CORPUS_KB = 1000, 250
_AT_ONCE = 8
_LONE_STARTS = 20
_LEDGER_ROUNDS = 3
_WAVE = "document, and each eight at a time"

# What is measured together: the ways to do it, and the work.
Groups = Sequence[tuple[Sequence[str], Sequence[Crowd[Way]]]]


def main(arguments: Sequence[str]) -> int:
    """Run the bench; 0 unless something breaks, or with --strict a figure misses its mark."""
    chosen = _parser().parse_args(arguments)
    console = options.open_console()
    with (
        own_cluster(options="", on_disk=True) as cluster,
        tempfile.TemporaryDirectory(prefix="holdfast-bench-") as directory,
    ):
        dsn = cluster.dsn()
        if chosen.profile:
            asyncio.run(_profile(dsn, *chosen.profile, lines=chosen.lines))
            return 0
        machine = {**describe(Path(directory)), **server_settings(dsn)}
        report = asyncio.run(_measure(dsn, chosen, machine, console))
    return options.publish(report, draw, chosen, console)


def _parser() -> argparse.ArgumentParser:
    parser = options.common("orchestrator", "Durable runs against LangGraph alone, and against a plain loop.")
    parser.add_argument("--runs", type=options.positive, metavar="N", default=_RUNS, help="at once (%(default)s)")
    parser.add_argument(
        "--corpus",
        type=options.positive,
        metavar="KB",
        help=f"text to extract from, in {DOCUMENTS} documents ({_CORPUS_KB:,}; with --quick {_QUICK_CORPUS_KB})",
    )
    parser.add_argument("--profile", type=_profiled, metavar="WAY:KIND:N", help="such as ours:noop:100")
    parser.add_argument("--lines", type=int, default=40, help="of a profile (%(default)s)")
    return parser


def _profiled(text: str) -> tuple[str, Crowd[Way]]:
    way, _, work = text.partition(":")
    kind, _, number = work.partition(":")
    if not number.isdecimal() or not int(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not WAY:KIND:N")
    if kind == "extraction":
        if way in ("loop", "threads", "ours") and DOCUMENTS % int(number) == 0:
            return way, Documents.at_once(int(number), 1000 * _QUICK_CORPUS_KB)
    elif way in ("sync", "async", "ours") and kind in ("20ms", "noop"):
        return way, Runs(kind, int(number))
    raise argparse.ArgumentTypeError(
        f"nothing to profile is {text!r}: sync, async, ours do 20ms and noop; loop, threads, ours do extraction, "
        f"at 1, 2, 4, 8 or {DOCUMENTS}"
    )


async def _profile(dsn: str, way: str, work: Crowd[Way], *, lines: int) -> None:
    async with open_ways(dsn) as (_, contenders):
        await profile(contenders[way], work, lines=lines)


async def _measure(
    dsn: str, chosen: argparse.Namespace, machine: Mapping[str, str], console: Console
) -> OrchestratorReport:
    rounds = chosen.rounds or (2 if chosen.quick else 5)
    total_bytes = 1000 * (chosen.corpus or (_QUICK_CORPUS_KB if chosen.quick else _CORPUS_KB))
    noop = Runs("noop", chosen.runs)
    groups: Groups = (
        (("sync", "async", "ours"), (Runs("20ms", chosen.runs), noop)),
        (("loop", "ours"), (Documents.at_once(1, total_bytes),)),
        (("threads", "ours"), (Documents.at_once(_AT_ONCE, total_bytes),)),
    )
    async with open_ways(dsn) as (orchestrator, contenders):
        results = await _rounds(groups, contenders, rounds, console, short=chosen.quick)
        console.print("where the time goes")
        ledgers = await _ledgers(noop, contenders)
        console.print("starting")
        starts = await _starts(orchestrator, chosen.runs, rounds)
    figures = [*work_figures(results, chosen.runs, total_bytes), *starts]
    runs_seen = _LEDGER_ROUNDS * chosen.runs
    return OrchestratorReport(machine, rounds, chosen.quick, chosen.runs, results, ledgers, runs_seen, figures)


async def _rounds(
    groups: Groups, contenders: Mapping[str, Contender[Way]], rounds: int, console: Console, *, short: bool
) -> dict[str, dict[str, list[Sample]]]:
    results: dict[str, dict[str, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    entered = [([contenders[name] for name in names], work) for names, work in groups]
    console.print("warming up")
    for ways, work in entered:
        # A document for each at a time is enough: the whole corpus would take as long as a round.
        await warm_up(ways, work, short=short or isinstance(work[0], Documents))
    for number in range(rounds):
        console.print(f"round {number + 1} of {rounds}, times in ms; of the extraction, for each {_WAVE}")
        for ways, work in entered:
            async for name, way, sample in one_round(number, ways, work, console.print):
                results[name][way].append(sample)
    return results


async def _ledgers(work: Crowd[Way], contenders: Mapping[str, Contender[Way]]) -> dict[str, Ledger]:
    """CPU time and statements, with LangGraph alone and with ours, taking turns."""
    ledgers = {"sync": Ledger(), "ours": Ledger()}
    for _ in range(_LEDGER_ROUNDS):
        for name, ledger in ledgers.items():
            await work.run(contenders[name].fresh(), Sample(), watch=ledger.open())
    return ledgers


async def _starts(orchestrator: Orchestrator, runs: int, rounds: int) -> list[Figure]:
    """What the call `start` takes, the run not waited for; alone, and in a crowd whose runs begin meanwhile."""
    alone: list[float] = []
    crowd: list[float] = []
    counted = {"alone": Ledger(), "crowd": Ledger()}
    start = partial(orchestrator.start, "noop", {"task": "begin"})
    for _ in range(rounds):
        times = []
        for _ in range(_LONE_STARTS):
            with counted["alone"].open():
                begun = perf_counter()
                run = await start()
                times.append(perf_counter() - begun)
            await orchestrator.wait_for(run)
        alone.append(median(times))
        gc.collect()
        with counted["crowd"].open():
            begun = perf_counter()
            started = await asyncio.gather(*(start() for _ in range(runs)))
            crowd.append((perf_counter() - begun) / runs)
        await asyncio.gather(*map(orchestrator.wait_for, started))
    return start_figures(
        runs,
        alone,
        crowd,
        counted["alone"].statements["create"] / (rounds * _LONE_STARTS),
        counted["crowd"].statements["create"] / (rounds * runs),
    )
