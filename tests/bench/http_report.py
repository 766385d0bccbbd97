"""What a run of the HTTP bench leaves: figures, tables, numbers as JSON and Markdown, a chart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from tests.bench.chart import draw_marks, save
from tests.bench.figures import Figure, as_json, percentile
from tests.bench.http_client import Saw
from tests.bench.http_work import LOADS, Load, Measured
from tests.bench.tabled import TabledReport

__all__ = ["OTHERS", "HttpReport", "draw", "http_figures"]

_RUNS_S, _P50_MS, _START_S, _RESIDENT_MIB = 120.0, 25.0, 2.0, 200.0
_COLOURS = {"client": "#9aa5b1", "server": "#2a7f62", "PostgreSQL": "#5b8db8"}
# Not measured here: figures that were given for such a machine, for orientation.
OTHERS = (
    ("", "runs/s, no-op, 100 at once", "runs/s, 50 ms, 100 at once", "p50 at 1, ms"),
    ("Aegra 0.11.0", "28", "32", "36"),
    ("LangGraph's dev server, in memory", "39", "37", "1,008"),
)

# By load, for each round.
Rounds = Mapping[str, Sequence[Measured]]


def http_figures(
    rounds: Rounds, alive: Sequence[Saw], starts: Sequence[float], resident_mib: Sequence[float]
) -> list[Figure]:
    """The figures. Those without a mark are for orientation."""
    figures = []
    for load in LOADS:
        measured = rounds[load.name]
        if load.at_once == 1:
            p50 = [1000 * percentile(each.saw.each, 50) for each in measured]
            figures.append(Figure(f"{load.title}: p50", p50, _P50_MS, "at most", "ms"))
        else:
            mark = _RUNS_S if load.at_once == 100 else None
            rates = [_rate(each.saw) for each in measured]
            figures.append(Figure(load.title, rates, mark, "at least", "runs/s"))
        times = [each.saw.seconds / each.ainvoke_s for each in measured]
        figures.append(Figure(f"{load.title}: time ÷ ainvoke, sync", times, None, "at most", "×"))
    return [
        *figures,
        Figure("start to healthy", starts, _START_S, "at most", "s"),
        Figure("resident memory after the load", resident_mib, _RESIDENT_MIB, "at most", "MiB"),
        Figure("the client's own most: /api/health/live, 100 at once", list(map(_rate, alive)), None, "at least", "/s"),
    ]


def _rate(saw: Saw) -> float:
    return len(saw.each) / saw.seconds


@dataclass(frozen=True)
class HttpReport(TabledReport):
    """Everything that one run found out."""

    note = "The figures of others are as they were given; they were not measured here."

    machine: Mapping[str, str]
    rounds: int
    quick: bool
    results: Rounds
    alive: Sequence[Saw]
    figures: Sequence[Figure]

    def _tables(self) -> Iterator[Sequence[Sequence[str]]]:
        """Each load over HTTP and beside it; a run's time on processors; what is known of others."""
        header = ["", "HTTP, runs/s", "ainvoke, runs/s", "HTTP p50, ms", "HTTP p95, ms"]
        yield [header, *([load.title, *self._speeds(load)] for load in LOADS)]
        parts = list(_COLOURS)
        rows = [[load.title, *(f"{self._cpu_ms(load, part):.2f}" for part in parts)] for load in LOADS]
        yield [["CPU of a run, ms", *parts], *rows]
        yield OTHERS

    def _speeds(self, load: Load) -> Iterator[str]:
        measured = self.results[load.name]
        yield f"{median(_rate(each.saw) for each in measured):.0f}"
        yield f"{median(len(each.saw.each) / each.ainvoke_s for each in measured):.0f}"
        for percent in (50, 95):
            yield f"{median(1000 * percentile(each.saw.each, percent) for each in measured):.1f}"

    def _cpu_ms(self, load: Load, part: str) -> float:
        return median(1000 * each.cpu[part] / len(each.saw.each) for each in self.results[load.name])

    def _as_json(self) -> dict[str, Any]:
        return {
            "machine": dict(self.machine),
            "rounds": self.rounds,
            "quick": self.quick,
            "figures": as_json(self.figures),
            "loads": {name: [asdict(each) for each in measured] for name, measured in self.results.items()},
            "alive": [asdict(saw) for saw in self.alive],
            "others_not_measured_here": [list(row) for row in OTHERS],
        }


def draw(report: HttpReport, path: Path) -> None:
    """Write the chart as PNG."""
    canvas = Canvas(figsize=(13, 9), layout="constrained")
    grid = canvas.add_gridspec(2, 2, height_ratios=(3, 2))
    _draw_speeds(canvas.add_subplot(grid[0, 0]), report)
    _draw_cpu(canvas.add_subplot(grid[0, 1]), report)
    draw_marks(canvas.add_subplot(grid[1, :]), report.figures)
    save(canvas, path, "Five-node runs over HTTP, beside LangGraph alone", report.machine, report.rounds)


def _draw_speeds(axes: Axes, report: HttpReport) -> None:
    """Two bars per load: runs a second over HTTP, and by ainvoke."""
    for offset, label, colour in ((-0.2, "POST /api/invoke", "#2a7f62"), (0.2, "ainvoke, sync", "#d98880")):
        for group, load in enumerate(LOADS):
            measured = report.results[load.name]
            ours = offset < 0
            rates = [len(each.saw.each) / (each.saw.seconds if ours else each.ainvoke_s) for each in measured]
            height = median(rates)
            axes.bar(group + offset, height, 0.36, color=colour, label=None if group else label, zorder=2)
            spans = [[height - min(rates)], [max(rates) - height]]
            axes.errorbar([group + offset], [height], spans, fmt="none", ecolor="#333333", lw=0.8)
    axes.axhline(_RUNS_S, color="#333333", lw=1, ls=":", zorder=3)
    axes.margins(y=0.15)
    axes.grid(axis="y", alpha=0.3, zorder=0)
    axes.set_xticks(range(len(LOADS)), [load.title.replace(", ", "\n") for load in LOADS], fontsize=8)
    axes.set_title("runs a second (dotted: the mark at 100)", fontsize=11)
    axes.legend(fontsize=9, frameon=False)


def _draw_cpu(axes: Axes, report: HttpReport) -> None:
    """A stacked bar per load: which process a run keeps busy."""
    titles = [load.title.replace(", ", "\n") for load in LOADS]
    below = [0.0] * len(LOADS)
    for part, colour in _COLOURS.items():
        heights = [report._cpu_ms(load, part) for load in LOADS]
        axes.bar(titles, heights, 0.6, bottom=below, color=colour, label=part, zorder=2)
        below = [base + height for base, height in zip(below, heights, strict=True)]
    axes.margins(y=0.25)
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="y", alpha=0.3, zorder=0)
    axes.set_title("CPU of a run, ms", fontsize=11)
    axes.legend(fontsize=9, frameon=False)
