"""`scripts/bench storage`: what long threads take on disk, and how long their calls take; see docs/performance.md."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Literal

from rich.console import Console

from tests.bench import options
from tests.bench.contenders import Contender, Saver, open_ours
from tests.bench.figures import Figure
from tests.bench.machine import describe, server_settings
from tests.bench.rounds import one_round, warm_up
from tests.bench.storage_chart import draw
from tests.bench.storage_figures import States, short_thread_figures, storage_figures
from tests.bench.storage_profile import profile_calls
from tests.bench.storage_report import StorageReport
from tests.bench.threads import LABELS, grown, open_threads, sample_calls
from tests.bench.workloads import Sample, Workload
from tests.postgres import fresh_database, own_cluster

__all__ = ["main"]

# One long interval between two checkpoints of the server, so that the WAL holds what was saved and few page images;
# `LongThread` vacuums, so that autovacuum does not come into one contender's WAL and not into another's.
_SERVER = "-c max_wal_size=16GB -c checkpoint_timeout=1h -c autovacuum=off"
_TURNS = (10, 100, 400, 2000)
_LONGEST_WHOLE = 400  # stored whole, 2,000 turns are 25 times as much: gigabytes, and many minutes
_SAMPLES, _FEWER_SAMPLES = 50, 30  # in all rounds together; fewer of the longest threads, and with --quick
_STORAGES: tuple[Literal["whole", "shared"], ...] = ("whole", "shared")
_SHORT_ROUNDS = 3  # for each round of the others: the ratio's mark is close to 1, and they are short
_SHORT_THREADS = (Workload("ops", 100), Workload("graph", 100))


def main(arguments: Sequence[str]) -> int:
    """Run the bench; 0 unless something breaks, or with --strict a figure misses its mark."""
    chosen = _parser().parse_args(arguments)
    console = options.open_console()
    if chosen.profile:
        with own_cluster(options=_SERVER, on_disk=True) as cluster:
            asyncio.run(profile_calls(cluster.dsn(), chosen.profile, lines=chosen.lines))
        return 0
    report = _measure(chosen, console)
    return options.publish(report, draw, chosen, console)


def _parser() -> argparse.ArgumentParser:
    parser = options.common("storage", "What long threads take: bytes, WAL, and the time of a save and of a load.")
    parser.add_argument("--contenders", type=_names, help=f"some of {','.join(LABELS)} (all; --quick: no retention)")
    parser.add_argument("--turns", type=_lengths, help="lengths, such as 100,400 (10,100,400,2000; --quick: to 400)")
    parser.add_argument("--no-short", action="store_true", help="leave out the figure about short threads")
    parser.add_argument(
        "--profile", type=int, nargs="?", const=400, metavar="TURNS", help="one save and one load, shared (%(const)s)"
    )
    parser.add_argument("--lines", type=int, default=25, help="of a profile (%(default)s)")
    return parser


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(LABELS):
        raise argparse.ArgumentTypeError(f"no contender {', '.join(sorted(unknown))}; there is {', '.join(LABELS)}")
    return names


def _lengths(text: str) -> list[int]:
    return sorted({int(turns) for turns in text.split(",")})


def _measure(chosen: argparse.Namespace, console: Console) -> StorageReport:
    rounds = chosen.rounds or (2 if chosen.quick else 5)
    lengths = chosen.turns or [turns for turns in _TURNS if turns <= _LONGEST_WHOLE or not chosen.quick]
    names = chosen.contenders or [name for name in LABELS if not chosen.quick or name != "retained"]
    with (
        own_cluster(options=_SERVER, on_disk=True) as cluster,
        tempfile.TemporaryDirectory(prefix="holdfast-bench-") as directory,
    ):
        machine = {**describe(Path(directory)), **server_settings(cluster.dsn())}
        states = asyncio.run(_long_threads(cluster.dsn(), names, lengths, rounds, console, quick=chosen.quick))
    figures = storage_figures(states)
    if not chosen.no_short:
        with own_cluster(options="", on_disk=True) as cluster:
            figures += asyncio.run(_short_threads(cluster.dsn(), rounds, console, quick=chosen.quick))
    return StorageReport(machine, rounds, chosen.quick, states, figures)


async def _long_threads(
    dsn: str, names: Sequence[str], lengths: Sequence[int], rounds: int, console: Console, *, quick: bool
) -> States:
    """Each contender's thread at each length that it comes to."""
    states: States = {name: [] for name in names}
    async with open_threads(dsn, names) as threads:
        for turns in lengths:
            entered = [thread for thread in threads if turns <= _LONGEST_WHOLE or thread.name in ("shared", "retained")]
            console.print(f"{turns:,} turns: {', '.join(thread.name for thread in entered)}")
            samples = _FEWER_SAMPLES if quick or turns > _LONGEST_WHOLE else _SAMPLES
            found = await grown(entered, turns)
            await sample_calls(entered, found, rounds=rounds, samples=-(-samples // rounds))
            for name, state in found.items():
                states[name].append(state)
    return states


async def _short_threads(dsn: str, rounds: int, console: Console, *, quick: bool) -> list[Figure]:
    """The saver bench's work with storage whole and shared."""
    results: dict[str, dict[str, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    async with AsyncExitStack() as stack:
        contenders = []
        for storage in _STORAGES:
            database = stack.enter_context(fresh_database(dsn))
            saver = await stack.enter_async_context(open_ours(database, storage=storage))
            contenders.append(Contender(storage, partial(_same, saver), database))
        console.print("short threads: warming up")
        await warm_up(contenders, _SHORT_THREADS, short=quick)
        rounds = rounds if quick else _SHORT_ROUNDS * rounds
        for number in range(rounds):
            console.print(f"round {number + 1} of {rounds}, times in ms")
            async for workload, name, sample in one_round(number, contenders, _SHORT_THREADS, console.print):
                results[workload][name].append(sample)
    return short_thread_figures(results)


def _same(saver: Saver) -> Saver:
    return saver
