"""`scripts/bench http`: `holdfast serve` as a process, asked by another, and what its runs cost over LangGraph."""

from __future__ import annotations

import argparse
import asyncio
import gc
import pstats
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import psycopg
from rich.console import Console

from tests.bench import options
from tests.bench.http_client import Saw
from tests.bench.http_report import HttpReport, draw, http_figures
from tests.bench.http_work import LOADS, Load, Measured, Site, open_site
from tests.bench.machine import describe, server_settings
from tests.bench.processes import postmaster_of
from tests.postgres import Cluster, own_cluster

__all__ = ["main"]

_ALIVE = Load("alive", 100, 3000, "the client's own most")
_WARM_RUNS = 100
_PROFILED = ("five:1", "five:16", "five:100", "five_50ms:100")


def main(arguments: Sequence[str]) -> int:
    """Run the bench; 0 unless something breaks, or with --strict a figure misses its mark."""
    chosen = _parser().parse_args(arguments)
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
    parser = options.common("http", "`holdfast serve` over HTTP, beside `graph.ainvoke` on the same saver.")
    parser.add_argument(
        "--share", type=options.positive, metavar="N", default=1, help="only an Nth of the runs, to try it out"
    )
    parser.add_argument(
        "--profile", choices=_PROFILED, metavar="LOAD", help=f"only print where the server's time goes: {_PROFILED}"
    )
    parser.add_argument("--lines", type=int, default=40, help="of a profile (%(default)s)")
    return parser


async def _profile(cluster: Cluster, directory: Path, chosen: argparse.Namespace) -> None:
    load = next(load for load in LOADS if load.name == chosen.profile)
    kept = directory / "server.prof"
    async with open_site(cluster.dsn(), directory, postmaster_of(cluster)) as site, site.served(profile=kept):
        for _ in range(3):
            await site.ask(_less(load, chosen.share))
    stats = pstats.Stats(str(kept), stream=sys.stdout).strip_dirs()
    for order in ("tottime", "cumtime"):
        stats.sort_stats(order).print_stats(chosen.lines)


async def _measure(
    cluster: Cluster, directory: Path, chosen: argparse.Namespace, machine: Mapping[str, str], console: Console
) -> HttpReport:
    rounds = chosen.rounds or (2 if chosen.quick else 5)
    loads = [_less(load, chosen.share) for load in LOADS]
    async with open_site(cluster.dsn(), directory, postmaster_of(cluster)) as site:
        console.print("starting, with all tables there")
        async with site.served():
            pass
        starts = [await _start(site) for _ in range(rounds)]
        async with site.served():
            console.print("warming up")
            await _warm_up(site, loads)
            alive = [await site.ask_alive(_less(_ALIVE, chosen.share)) for _ in range(rounds)]
            results, resident = await _rounds(site, loads, rounds, console)
    figures = http_figures(results, alive, starts, resident)
    return HttpReport(machine, rounds, chosen.quick, results, alive, figures)


def _less(load: Load, share: int) -> Load:
    return replace(load, runs=max(1, load.runs // share))


async def _start(site: Site) -> float:
    async with site.served() as seconds:
        return seconds


async def _warm_up(site: Site, loads: Sequence[Load]) -> None:
    """Let connections, statements and the server's statistics come to the state that they have at work."""
    for load in loads:
        short = replace(load, runs=min(load.runs, _WARM_RUNS))
        await site.ask(short)
        await site.invoke(short)
    for dsn in site.databases:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
            await conn.execute("ANALYZE")


async def _rounds(
    site: Site, loads: Sequence[Load], rounds: int, console: Console
) -> tuple[dict[str, list[Measured]], list[float]]:
    """What was measured by load, and MiB resident after each round."""
    results: dict[str, list[Measured]] = defaultdict(list)
    resident = []
    for number in range(rounds):
        console.print(f"round {number + 1} of {rounds}, runs a second, in brackets by ainvoke")
        for load in loads:
            gc.collect()
            measured = await site.measure(load, http_first=number % 2 == 0)
            results[load.name].append(measured)
            console.print(f"  {load.name:<14}{_shown(measured.saw)} ({load.runs / measured.ainvoke_s:.0f})")
        resident.append(site.resident_mib)
    return results, resident


def _shown(saw: Saw) -> str:
    return f"{len(saw.each) / saw.seconds:.0f}"
