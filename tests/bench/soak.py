"""`scripts/bench soak`: resident memory of a server, and bytes in the database, under a load that goes on.

As many runs as an hour of steady work has, in as short a time as they can be done: what a run leaves in the memory of a
process adds up by the number of runs and not by the clock.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic

import psycopg
from rich.console import Console

from tests.bench import options, served
from tests.bench.http_client import Job, ask
from tests.bench.http_work import healthy
from tests.bench.machine import describe, server_settings
from tests.bench.processes import Process, started
from tests.bench.soak_report import Look, SoakReport, draw, soak_figures
from tests.postgres import Cluster, free_port, fresh_database, own_cluster

__all__ = ["main"]

_SECONDS, _QUICK_SECONDS = 300.0, 40.0
# Autovacuum looks once a minute; before it came by a few times, what is stored only grows.
_LEVEL_AFTER_S = 200.0
_AT_ONCE = 16
_BATCH = 100
_LOOK_EVERY_S = 1.0
_BODY = '{"workflow":"five","input":{"task":"begin"}}'


def main(arguments: Sequence[str]) -> int:
    """Run the bench; 0 unless something breaks, or with --strict a figure misses its mark."""
    parser = options.common("soak", "Memory and storage of a server under a load that goes on. There are no rounds.")
    parser.add_argument(
        "--seconds",
        type=options.positive,
        metavar="N",
        help=f"how long ({_SECONDS:g}; with --quick {_QUICK_SECONDS:g})",
    )
    chosen = parser.parse_args(arguments)
    console = options.open_console()
    with (
        own_cluster(options="", on_disk=True) as cluster,
        tempfile.TemporaryDirectory(prefix="holdfast-bench-") as directory,
    ):
        scratch = Path(directory)
        for name in ("kept", "grown"):
            (scratch / name).mkdir()
        machine = {**describe(scratch), **server_settings(cluster.dsn())}
        report = asyncio.run(_measure(cluster, scratch, chosen, machine, console))
    return options.publish(report, draw, chosen, console)


async def _measure(
    cluster: Cluster, directory: Path, chosen: argparse.Namespace, machine: Mapping[str, str], console: Console
) -> SoakReport:
    seconds = float(chosen.seconds or (_QUICK_SECONDS if chosen.quick else _SECONDS))
    # What is kept has to be less than what is made, or the database grows to the end whatever retention does.
    keep_for = max(2, round(seconds / 10))
    retention = {"RUN_KEEP_FOR": f"{keep_for}s", "RUN_RETENTION_EVERY": str(max(1.0, keep_for / 4))}
    console.print(f"runs over for {keep_for} s are forgotten")
    kept = await _soak(cluster.dsn(), directory / "kept", seconds, retention, console)
    console.print("the same for a third of the time, with nothing forgotten")
    grown = await _soak(cluster.dsn(), directory / "grown", seconds / 3, {}, console)
    return SoakReport(
        machine, 1, chosen.quick, keep_for, kept, grown, soak_figures(kept, grown, short=seconds < _LEVEL_AFTER_S)
    )


async def _soak(
    admin_dsn: str, home: Path, seconds: float, environment: Mapping[str, str], console: Console
) -> list[Look]:
    """A server of its own on a database of its own, under load for so long."""
    port = free_port()
    with fresh_database(admin_dsn) as dsn:
        given = {"USE_POSTGRES_SAVER": "true", "POSTGRES_CONNECTION_STRING": dsn, "PORT": str(port), **environment}
        graphs = str(served.write_graph_file(home))
        with started(home, "serve", "--graphs", graphs, environment=given) as process:
            await healthy(process, port)
            return await _under_load(process, port, dsn, seconds, console)


async def _under_load(process: Process, port: int, dsn: str, seconds: float, console: Console) -> list[Look]:
    looks: list[Look] = []
    done = 0
    begun = monotonic()

    async def load() -> None:
        nonlocal done
        while monotonic() - begun < seconds:
            job = Job(port, "POST", "/api/invoke", _BODY, '"status":"completed"', _AT_ONCE, _BATCH)
            await asyncio.to_thread(ask, job)
            done += _BATCH

    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn, asyncio.TaskGroup() as group:
        working = group.create_task(load())
        over = False
        while not over:
            over = working.done()
            looks.append(Look(monotonic() - begun, done, process.ps.memory_info().rss / 2**20, await _stored_mib(conn)))
            if len(looks) % 20 == 0:
                console.print(f"  {looks[-1]}")
            await asyncio.wait([working], timeout=_LOOK_EVERY_S)
    return looks


async def _stored_mib(conn: psycopg.AsyncConnection) -> float:
    row = await (await conn.execute("SELECT pg_database_size(current_database())")).fetchone()
    assert row is not None
    return float(row[0]) / 2**20


if __name__ == "__main__":
    import sys

    sys.exit(main(sys.argv[1:]))
