"""`scripts/bench crowd`: so many runs at once for two minutes, and what saves and loads take meanwhile.

Nodes wait 0.5 to 1.5 s, as one that asks a model does. Every save and load is timed where the metrics time it.
"""

from __future__ import annotations

import argparse
import asyncio
import operator
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic
from typing import Annotated, Any

import matplotlib as mpl

mpl.use("Agg")

from langgraph.graph import START, StateGraph
from matplotlib.figure import Figure as Canvas
from rich.console import Console
from typing_extensions import TypedDict

from checkpointer.metrics import LOAD_SECONDS, SAVE_SECONDS, QuickHistogram
from orchestrator import Orchestrator, OrchestratorSettings, RunStatus, open_orchestrator
from tests.bench import options
from tests.bench.chart import draw_marks, save
from tests.bench.figures import Figure, as_json, percentile
from tests.bench.machine import describe, server_settings
from tests.bench.settled import settled
from tests.bench.tabled import TabledReport
from tests.postgres import fresh_database, own_cluster

__all__ = ["CrowdReport", "draw", "main"]

_SECONDS, _QUICK_SECONDS = 120.0, 15.0
_SIZES = (100, 400)
_NODES = 5
_LEAST_S, _MOST_S = 0.5, 1.5
_SAVE_MS, _LOAD_MS = 50.0, 100.0


class _State(TypedDict, total=False):
    trace: Annotated[list[str], operator.add]


async def _think(state: _State) -> dict[str, Any]:
    await asyncio.sleep(random.uniform(_LEAST_S, _MOST_S))  # noqa: S311 - how long a model takes
    return {"trace": ["x" * 200]}


def _graph() -> StateGraph[_State, None, _State, _State]:
    return StateGraph(_State).add_sequence([(f"n{number}", _think) for number in range(_NODES)]).add_edge(START, "n0")


@dataclass
class Crowd:
    """What was seen with `size` runs at once: milliseconds of saves and loads, runs that ended well and not."""

    size: int
    seconds: float = 0.0
    completed: int = 0
    errors: int = 0
    saves: list[float] = field(default_factory=list, repr=False)
    loads: list[float] = field(default_factory=list, repr=False)


@dataclass(frozen=True)
class CrowdReport(TabledReport):
    """Everything that one run found out."""

    note = f"Every run is {_NODES} nodes of {_LEAST_S:g} to {_MOST_S:g} s; as soon as one is over, another is started."

    machine: Mapping[str, str]
    rounds: int
    quick: bool
    crowds: Sequence[Crowd]
    figures: Sequence[Figure]

    def _tables(self) -> Iterator[Sequence[Sequence[str]]]:
        yield [
            ["runs at once", "seconds", "completed", "runs/s", "errors", "saves", "loads"],
            *(
                [
                    *(str(each.size), f"{each.seconds:.0f}", str(each.completed)),
                    *(f"{each.completed / each.seconds:.1f}", str(each.errors)),
                    *(str(len(each.saves)), str(len(each.loads))),
                ]
                for each in self.crowds
            ),
        ]

    def _as_json(self) -> dict[str, Any]:
        return {
            "machine": dict(self.machine),
            "rounds": self.rounds,
            "quick": self.quick,
            "figures": as_json(self.figures),
            "crowds": [{**asdict(each), "saves": len(each.saves), "loads": len(each.loads)} for each in self.crowds],
        }


def main(arguments: Sequence[str]) -> int:
    """Run the bench; 0 unless something breaks, or with --strict a figure misses its mark."""
    parser = options.common("crowd", "So many runs at once, and what saves and loads take. There are no rounds.")
    parser.add_argument("--seconds", type=options.positive, metavar="N", help=f"of each size ({_SECONDS:g})")
    parser.add_argument("--sizes", default=",".join(map(str, _SIZES)), metavar="N,…", help="(%(default)s)")
    chosen = parser.parse_args(arguments)
    console = options.open_console()
    with (
        own_cluster(options="", on_disk=True) as cluster,
        tempfile.TemporaryDirectory(prefix="holdfast-bench-") as directory,
    ):
        machine = {**describe(Path(directory)), **server_settings(cluster.dsn())}
        crowds = asyncio.run(_measure(cluster.dsn(), chosen, console))
    report = CrowdReport(machine, 1, chosen.quick, crowds, list(_figures(crowds)))
    return options.publish(report, draw, chosen, console)


async def _measure(admin_dsn: str, chosen: argparse.Namespace, console: Console) -> list[Crowd]:
    crowds = []
    for size in map(int, chosen.sizes.split(",")):
        crowd = Crowd(size, float(chosen.seconds or (_QUICK_SECONDS if chosen.quick else _SECONDS)))
        console.print(f"{size} runs at once, {crowd.seconds:.0f} s")
        with fresh_database(admin_dsn) as dsn, _timed(SAVE_SECONDS, crowd.saves), _timed(LOAD_SECONDS, crowd.loads):
            settings = OrchestratorSettings(use_postgres_saver=True, postgres_connection_string=dsn)
            async with open_orchestrator({"walk": _graph()}, settings=settings) as orchestrator:
                with settled():
                    ends = monotonic() + crowd.seconds
                    await asyncio.gather(*(_one_after_the_other(orchestrator, crowd, ends) for _ in range(size)))
        crowds.append(crowd)
    return crowds


@contextmanager
def _timed(histogram: QuickHistogram, found: list[float]) -> Iterator[None]:
    """Keep each value that is observed, in milliseconds."""
    observe = histogram.observe

    def keep(value: float) -> None:
        found.append(1000 * value)
        observe(value)

    setattr(histogram, "observe", keep)  # noqa: B010 - a method, which can't be assigned to
    try:
        yield
    finally:
        delattr(histogram, "observe")


async def _one_after_the_other(orchestrator: Orchestrator, crowd: Crowd, ends: float) -> None:
    # Not all at the same instant: they would stay in step for long.
    await asyncio.sleep(random.uniform(0, _MOST_S))  # noqa: S311 - when a user comes
    while True:
        run = await orchestrator.start_and_wait("walk", {"trace": []}, timeout=120)
        if run.status is RunStatus.COMPLETED and len(run.output["trace"]) == _NODES:
            crowd.completed += 1
        else:
            crowd.errors += 1
        if monotonic() >= ends:
            return


def _figures(crowds: Sequence[Crowd]) -> Iterator[Figure]:
    for each in crowds:
        yield Figure(f"{each.size} at once: save p95", [percentile(each.saves, 95)], _SAVE_MS, "at most", "ms")
        if each.loads:
            yield Figure(f"{each.size} at once: load p95", [percentile(each.loads, 95)], _LOAD_MS, "at most", "ms")
        yield Figure(f"{each.size} at once: errors", [float(each.errors)], 0, "at most")


def draw(report: CrowdReport, path: Path) -> None:
    """Write the chart as PNG: how saves were spread, a line per size."""
    canvas = Canvas(figsize=(12, 8), layout="constrained")
    spread, marks = canvas.subplots(2, 1, height_ratios=(3, 1))
    for each in report.crowds:
        ordered = sorted(each.saves)
        shares = [100 * (number + 1) / len(ordered) for number in range(len(ordered))]
        spread.plot(ordered, shares, label=f"{each.size} runs at once")
    spread.axvline(_SAVE_MS, color="#333333", lw=1, ls=":")
    spread.set_xscale("log")
    spread.grid(alpha=0.3)
    spread.set_title("percent of saves that take at most so many ms (dotted: the mark, for 95 %)", fontsize=11)
    spread.legend(fontsize=9, frameon=False)
    draw_marks(marks, [figure for figure in report.figures if figure.mark])
    save(canvas, path, "Crowd", report.machine, report.rounds)


if __name__ == "__main__":
    import sys

    sys.exit(main(sys.argv[1:]))
