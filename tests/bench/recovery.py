"""`scripts/bench recovery`: from the death of a server to the next node of its runs, at another one."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib.figure import Figure as Canvas
from rich.console import Console

from orchestrator import OrchestratorSettings
from tests.bench import options
from tests.bench.chart import draw_marks, save
from tests.bench.figures import Figure, as_json, percentile
from tests.bench.machine import describe, server_settings
from tests.bench.recovery_work import Fault, Recovery, open_pair
from tests.bench.tabled import TabledReport
from tests.postgres import Cluster, own_cluster

__all__ = ["RecoveryReport", "draw", "main", "recovery_figures"]

_ROUNDS, _QUICK_ROUNDS = 10, 3
_FREEZES, _QUICK_FREEZES = 2, 0
_RUNS = 5
_AFTER_KILL_S = 5.0
_LEASE_S = float(OrchestratorSettings.model_fields["run_lease_seconds"].default)
_AFTER_FREEZE_S = _LEASE_S + 3
_COLOURS: Mapping[Fault, str] = {"SIGKILL": "#2a7f62", "SIGSTOP": "#5b8db8"}


@dataclass(frozen=True)
class RecoveryReport(TabledReport):
    """Everything that one run found out; a recovery for each time a server was struck."""

    note = (
        "A server drives the runs, each a node of 50 ms again and again, and is struck; another one is idle beside it. "
        f"SIGKILL is noticed by a lock that is free, SIGSTOP by a lease of {_LEASE_S:g} s that lapses."
    )

    machine: Mapping[str, str]
    rounds: int
    quick: bool
    recoveries: Sequence[Recovery]
    figures: Sequence[Figure]

    def _tables(self) -> Iterator[Sequence[Sequence[str]]]:
        header = ["fault", "times", "runs", "p50, s", "p95, s", "longest, s", "lost", "with a node twice"]
        yield [header, *([fault, *self._row(fault)] for fault in _COLOURS if _seconds(self.recoveries, fault))]

    def _row(self, fault: Fault) -> Iterator[str]:
        struck = [each for each in self.recoveries if each.fault == fault]
        seconds = _seconds(self.recoveries, fault)
        yield str(len(struck))
        yield str(len(seconds))
        yield f"{median(seconds):.2f}"
        yield f"{percentile(seconds, 95):.2f}"
        yield f"{max(seconds):.2f}"
        yield str(sum(each.lost for each in struck))
        yield str(sum(each.repeated for each in struck))

    def _as_json(self) -> dict[str, Any]:
        return {
            "machine": dict(self.machine),
            "rounds": self.rounds,
            "quick": self.quick,
            "figures": as_json(self.figures),
            "recoveries": [asdict(each) for each in self.recoveries],
        }


def main(arguments: Sequence[str]) -> int:
    """Run the bench; 0 unless something breaks, or with --strict a figure misses its mark."""
    chosen = _parser().parse_args(arguments)
    console = options.open_console()
    with (
        own_cluster(options="", on_disk=True) as cluster,
        tempfile.TemporaryDirectory(prefix="holdfast-bench-") as directory,
    ):
        scratch = Path(directory)
        machine = {**describe(scratch), **server_settings(cluster.dsn())}
        report = asyncio.run(_measure(cluster, scratch, chosen, machine, console))
    return options.publish(report, draw, chosen, console)


def _parser() -> argparse.ArgumentParser:
    parser = options.common("recovery", "Kill a server in the middle of runs, and time their next node elsewhere.")
    rounds = next(action for action in parser._actions if action.dest == "rounds")
    rounds.help = f"how many times a server is killed ({_ROUNDS}; with --quick {_QUICK_ROUNDS})"
    parser.add_argument(
        "--freezes", type=int, metavar="N", help=f"how many times one is frozen ({_FREEZES}; with --quick none)"
    )
    parser.add_argument("--runs", type=options.positive, default=_RUNS, metavar="N", help="at a time (%(default)s)")
    return parser


async def _measure(
    cluster: Cluster, directory: Path, chosen: argparse.Namespace, machine: Mapping[str, str], console: Console
) -> RecoveryReport:
    rounds = chosen.rounds or (_QUICK_ROUNDS if chosen.quick else _ROUNDS)
    freezes = chosen.freezes if chosen.freezes is not None else (_QUICK_FREEZES if chosen.quick else _FREEZES)
    faults = _faults(rounds, freezes)
    recoveries = []
    async with open_pair(cluster.dsn(), directory) as pair:
        for number, fault in enumerate(faults, 1):
            recovery = await pair.strike(fault, chosen.runs)
            recoveries.append(recovery)
            shown = " ".join(f"{seconds:.2f}" for seconds in sorted(recovery.seconds))
            console.print(f"{fault} {number} of {len(faults)}: the next node elsewhere after {shown} s")
    return RecoveryReport(machine, rounds, chosen.quick, recoveries, recovery_figures(recoveries))


def _faults(kills: int, freezes: int) -> list[Fault]:
    kill: Fault = "SIGKILL"
    freeze: Fault = "SIGSTOP"
    return [kill] * kills + [freeze] * freezes


def recovery_figures(recoveries: Sequence[Recovery]) -> list[Figure]:
    """The figures; of a fault that was not tried there are none."""
    figures = []
    marks: tuple[tuple[Fault, float], ...] = (("SIGKILL", _AFTER_KILL_S), ("SIGSTOP", _AFTER_FREEZE_S))
    for fault, mark in marks:
        if seconds := _seconds(recoveries, fault):
            figures.append(Figure(f"{fault} to the next node elsewhere: p50", [median(seconds)], None, "at most", "s"))
            p95 = percentile(seconds, 95)
            figures.append(Figure(f"{fault} to the next node elsewhere: p95", [p95], mark, "at most", "s"))
    lost = float(sum(each.lost for each in recoveries))
    twice = float(sum(each.repeated for each in recoveries))
    figures.append(Figure("runs that did not complete", [lost], 0, "at most"))
    figures.append(Figure("runs with the result of a node twice", [twice], 0, "at most"))
    return figures


def _seconds(recoveries: Sequence[Recovery], fault: Fault) -> list[float]:
    return [seconds for each in recoveries if each.fault == fault for seconds in each.seconds]


def draw(report: RecoveryReport, path: Path) -> None:
    """Write the chart as PNG: a dot per run, a column per fault."""
    canvas = Canvas(figsize=(12, 8), layout="constrained")
    dots, marks = canvas.subplots(2, 1, height_ratios=(3, 1))
    for number, each in enumerate(report.recoveries, 1):
        label = None if any(each.fault == before.fault for before in report.recoveries[: number - 1]) else each.fault
        dots.scatter([number] * len(each.seconds), each.seconds, color=_COLOURS[each.fault], label=label, zorder=2)
    dots.axhline(_AFTER_KILL_S, color="#333333", lw=1, ls=":")
    dots.set_ylim(bottom=0)
    dots.set_xticks(range(1, len(report.recoveries) + 1))
    dots.grid(axis="y", alpha=0.3, zorder=0)
    dots.set_title("seconds from the fault to the next node elsewhere, a dot per run (dotted: the mark)", fontsize=11)
    dots.legend(fontsize=9, frameon=False)
    draw_marks(marks, [figure for figure in report.figures if figure.mark])
    save(canvas, path, "Recovery", report.machine, report.rounds)


if __name__ == "__main__":
    import sys

    sys.exit(main(sys.argv[1:]))
