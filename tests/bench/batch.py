"""`scripts/bench batch`: a batch against a plain loop over the same documents, its memory, and many who watch a run."""

from __future__ import annotations

import argparse
import asyncio
import pstats
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx
from rich.console import Console

from tests.bench import options
from tests.bench.batch_corpus import USUAL_KB, write_corpus
from tests.bench.batch_loop import loop
from tests.bench.batch_report import BatchReport, Cost, Pair, batch_figures, draw
from tests.bench.batch_watch import watch, write_graph_file
from tests.bench.batch_work import open_crew
from tests.bench.machine import describe, server_settings
from tests.bench.processes import CpuClock, postmaster_of, started
from tests.bench.statements import counted
from tests.postgres import Cluster, free_port, fresh_database, own_cluster
from tests.waiting import until

__all__ = ["main"]

_DOCUMENTS, _QUICK_DOCUMENTS = 1000, 200
_SIZES = (0.25, 1.0, 4.0)
_WATCHERS = 500
_TOLD_EVERY_S = 0.25
_WARM_UP = 50
_HEALTHY_WITHIN_S = 60.0


def main(arguments: Sequence[str]) -> int:
    """Run the bench; 0 unless something breaks, or with --strict a figure misses its mark."""
    chosen = _parser().parse_args(arguments)
    chosen.documents = chosen.documents or (_QUICK_DOCUMENTS if chosen.quick else _DOCUMENTS)
    console = options.open_console()
    with (
        own_cluster(options="", on_disk=True) as cluster,
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
    parser = options.common("batch", "A batch of documents against `ExtractionPipeline` in a plain loop.")
    parser.add_argument(
        "--documents",
        type=options.positive,
        metavar="N",
        help=f"in the corpus ({_DOCUMENTS:,}; with --quick {_QUICK_DOCUMENTS})",
    )
    parser.add_argument(
        "--kilobytes",
        type=options.positive,
        metavar="N",
        default=USUAL_KB,
        help="of a document, from 2 on (%(default)s): the longer it is, the less its run weighs",
    )
    parser.add_argument(
        "--processes", type=options.positive, metavar="N", default=1, help="of the batch, and of the loop (%(default)s)"
    )
    parser.add_argument(
        "--watchers", type=options.positive, metavar="N", default=_WATCHERS, help="of one run (%(default)s)"
    )
    parser.add_argument("--profile", action="store_true", help="only print where a worker's time goes, by cProfile")
    parser.add_argument("--lines", type=int, default=40, help="of a profile (%(default)s)")
    return parser


async def _profile(cluster: Cluster, directory: Path, chosen: argparse.Namespace) -> None:
    kept = directory / "worker.prof"
    corpora = directory / "corpora"
    write_corpus(corpora / "whole", chosen.documents)
    async with open_crew(cluster.dsn(), directory, corpora, workers=1, profile=kept) as crew:
        await crew.batch("whole", chosen.documents)
    stats = pstats.Stats(str(kept), stream=sys.stdout).strip_dirs()
    for order in ("tottime", "cumtime"):
        stats.sort_stats(order).print_stats(chosen.lines)


async def _measure(
    cluster: Cluster, directory: Path, chosen: argparse.Namespace, machine: Mapping[str, str], console: Console
) -> BatchReport:
    rounds = chosen.rounds or (2 if chosen.quick else 3)
    pairs, cost = await _speeds(cluster, directory / "speed", chosen, rounds, console)
    peaks = await _peaks(cluster, directory / "memory", chosen.documents, console)
    console.print(f"{chosen.watchers} watchers on one run")
    delays = [await _watched(cluster, directory / f"watched{number}", chosen.watchers) for number in range(rounds)]
    figures = batch_figures(pairs, peaks, delays, chosen.documents, chosen.watchers)
    return BatchReport(machine, rounds, chosen.quick, chosen.documents, chosen.processes, pairs, peaks, cost, figures)


async def _speeds(
    cluster: Cluster, directory: Path, chosen: argparse.Namespace, rounds: int, console: Console
) -> tuple[list[Pair], Cost]:
    """Seconds of both, one after the other, the first one in turns; and what a document costs."""
    corpora, number = directory / "corpora", chosen.documents
    whole = write_corpus(corpora / "whole", number, chosen.kilobytes)
    write_corpus(corpora / "warm", _WARM_UP, chosen.kilobytes)
    pairs = []
    async with open_crew(cluster.dsn(), directory, corpora, workers=chosen.processes) as crew:
        await crew.batch("warm", _WARM_UP)
        await crew.analyze()
        for turn in range(rounds):
            before_s = await asyncio.to_thread(loop, whole, chosen.processes) if turn % 2 else 0.0
            clock = CpuClock(postmaster_of(cluster), worker=crew.workers)
            batch_s = await crew.batch("whole", number)
            cpu = clock.spent()
            loop_s = before_s or await asyncio.to_thread(loop, whole, chosen.processes)
            pairs.append(Pair(batch_s, loop_s, cpu))
            console.print(f"round {turn + 1}: {number / batch_s:.1f} documents/s, loop {number / loop_s:.1f}")
        async with counted(crew.dsn, cluster.directory / "log") as statements:
            await crew.batch("warm", _WARM_UP)
    return pairs, Cost(_WARM_UP, statements)


async def _peaks(cluster: Cluster, directory: Path, documents: int, console: Console) -> dict[int, float]:
    """The most that was resident in a worker, in MiB, by documents; a new worker for each."""
    peaks = {}
    for size in (max(1, round(share * documents)) for share in _SIZES):
        corpora = directory / f"corpora{size}"
        write_corpus(corpora / "whole", size)
        async with open_crew(cluster.dsn(), directory / f"of{size}", corpora, workers=1) as crew:
            await crew.batch("whole", size)
            peaks[size] = crew.peak_mib()
        console.print(f"{size:,} documents: at most {peaks[size]:.0f} MiB resident in the worker")
    return peaks


async def _watched(cluster: Cluster, directory: Path, watchers: int) -> list[float]:
    directory.mkdir()  # noqa: ASYNC240 - nothing is measured yet
    port, gate = free_port(), directory / "gate"
    with fresh_database(cluster.dsn()) as dsn:
        environment = {"USE_POSTGRES_SAVER": "true", "POSTGRES_CONNECTION_STRING": dsn, "PORT": str(port)}
        command = ("serve", "--graphs", str(write_graph_file(directory)))
        with started(directory, *command, environment=environment) as process:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:

                async def healthy() -> bool:
                    process.check()
                    try:
                        return (await client.get("/api/health")).status_code == 200
                    except httpx.TransportError:
                        return False

                await until(healthy, timeout_s=_HEALTHY_WITHIN_S, what="the server is healthy")
                body = {"workflow": "telling", "input": {"gate": str(gate), "every_s": _TOLD_EVERY_S}}
                run = (await client.post("/api/invoke/async", json=body)).json()
                return await asyncio.to_thread(watch, port, f"/api/runs/{run['runId']}/events", watchers, gate)
