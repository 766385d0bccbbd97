"""What a run of the queue bench leaves: figures, tables, numbers as JSON and Markdown, a chart."""

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
from tests.bench.figures import Figure, Results, as_json, percentile, ratios
from tests.bench.queue_work import LABELS, Start
from tests.bench.report import samples_as_json
from tests.bench.statements import KINDS, Statements
from tests.bench.tabled import TabledReport

__all__ = ["Beside", "Cost", "QueueReport", "draw", "growth_figures", "queue_figures"]

_P50_MS, _P95_MS = 15.0, 60.0
_GROWTH = 0.8
_COLOURS = {"one": "#2a7f62", "two": "#7fbf9f", "scheduled": "#5b8db8", "busy": "#8fb8de"}
_PERCENTS = (50, 95, 99, 100)

# By system, for each round, single starts.
Beside = Mapping[str, Sequence[Sequence[Start]]]


@dataclass(frozen=True)
class Cost:
    """Of `runs` runs: seconds on a processor by process, and what was sent to PostgreSQL."""

    runs: int
    cpu: Mapping[str, float]
    statements: Statements


def queue_figures(
    starts: Sequence[Sequence[Start]],
    results: Results,
    runs: int,
    enqueued: Sequence[float],
    cost: Cost,
) -> list[Figure]:
    """The figures; `starts` are by round, `enqueued` runs a second. Those without a mark are for orientation."""

    def milliseconds(of: str, percent: int) -> list[float]:
        return [1000 * percentile([getattr(start, of) for start in taken], percent) for taken in starts]

    measured = next(iter(results.values()))
    return [
        Figure("start to first node, idle: p50", milliseconds("began", 50), _P50_MS, "at most", "ms"),
        Figure("start to first node, idle: p95", milliseconds("began", 95), _P95_MS, "at most", "ms"),
        Figure("the call `start` itself, idle: p50", milliseconds("returned", 50), None, "at most", "ms"),
        Figure("start to known to be over, idle: p50", milliseconds("over", 50), None, "at most", "ms"),
        *(
            Figure(
                f"{LABELS[name]}, N={runs}",
                [runs / sample.seconds for sample in measured[name]],
                None,
                "at least",
                "runs/s",
            )
            for name in ("one", "two")
        ),
        Figure("runs a second, two workers ÷ one", ratios(measured, "one", "two"), None, "at least", "×"),
        Figure("enqueued by one process that only starts", enqueued, None, "at least", "runs/s"),
        Figure("statements of a run", [cost.statements.total / cost.runs], None, "at most"),
        Figure("transactions of a run that write", [cost.statements.writing / cost.runs], None, "at most"),
    ]


def growth_figures(results: Results, beside: Beside, waiting: int) -> list[Figure]:
    """What runs that wait cost the others: in a wave, and for single starts.

    A wave alone would hide it: its own jobs are many, and the plan for a small table goes through all of them at every
    fetch, which costs as much as a large table does.
    """
    (measured,) = results.values()
    figures = []
    for name, what in (("scheduled", "scheduled runs"), ("busy", "runs of busy threads")):
        shares = ratios(measured, "one", name)
        title = f"beside {waiting:,} {what} ÷ without"
        figures.append(Figure(f"runs a second, {title}", shares, _GROWTH, "at least", "×"))
        pairs = zip(beside[name], beside["one"], strict=True)
        slower = [_first_node(full, 50) / _first_node(empty, 50) for full, empty in pairs]
        figures.append(Figure(f"start to first node, p50, {title}", slower, None, "at most", "×"))
    return figures


def _first_node(starts: Sequence[Start], percent: int) -> float:
    return percentile([start.began for start in starts], percent)


@dataclass(frozen=True)
class QueueReport(TabledReport):
    """Everything that one run found out."""

    note = "Counted are messages to the server, from its log, and the ids of transactions."

    machine: Mapping[str, str]
    rounds: int
    quick: bool
    starts: Sequence[Sequence[Start]]
    results: Results
    beside: Beside
    cost: Cost
    figures: Sequence[Figure]

    def _tables(self) -> Iterator[list[list[str]]]:
        """A single start by its parts, over all rounds; a run's time on processors; its statements by kind."""
        starts = [start for taken in self.starts for start in taken]
        parts = {
            "the call `start`": [start.returned for start in starts],
            "start to first node": [start.began for start in starts],
            "start to known to be over": [start.over for start in starts],
        }
        header = [
            f"{len(starts)} single starts, ms",
            *(f"p{percent}" if percent < 100 else "most" for percent in _PERCENTS),
        ]
        yield [
            header,
            *([part, *(f"{1000 * percentile(times, of):.1f}" for of in _PERCENTS)] for part, times in parts.items()),
        ]
        spent = [[name, f"{1000 * seconds / self.cost.runs:.2f}"] for name, seconds in self.cost.cpu.items()]
        yield [
            ["CPU of a run", "ms"],
            *spent,
            ["together", f"{1000 * sum(self.cost.cpu.values()) / self.cost.runs:.2f}"],
        ]
        counts = self.cost.statements.by_kind
        yield [["what a run sends", "number"], *([kind, f"{counts[kind] / self.cost.runs:.2f}"] for kind in KINDS)]

    def _as_json(self) -> dict[str, Any]:
        return {
            "machine": dict(self.machine),
            "rounds": self.rounds,
            "quick": self.quick,
            "figures": as_json(self.figures),
            "starts": [[asdict(start) for start in taken] for taken in self.starts],
            "starts_beside": {
                name: [[asdict(start) for start in taken] for taken in starts] for name, starts in self.beside.items()
            },
            **samples_as_json(self.results),
            "cpu_ms_of_a_run": {name: 1000 * seconds / self.cost.runs for name, seconds in self.cost.cpu.items()},
            "statements_of_a_run": {
                kind: number / self.cost.runs for kind, number in self.cost.statements.by_kind.items()
            },
        }


def draw(report: QueueReport, path: Path) -> None:
    """Write the chart as PNG."""
    canvas = Canvas(figsize=(13, 9), layout="constrained")
    grid = canvas.add_gridspec(2, 2, height_ratios=(3, 2))
    _draw_starts(canvas.add_subplot(grid[0, 0]), report)
    _draw_throughput(canvas.add_subplot(grid[0, 1]), report)
    draw_marks(canvas.add_subplot(grid[1, :]), report.figures)
    save(canvas, path, "Runs through the postgres queue, by worker processes", report.machine, report.rounds)


def _draw_starts(axes: Axes, report: QueueReport) -> None:
    """How many of the single starts had come so far by when."""
    starts = [start for taken in report.starts for start in taken]
    share = [100 * (position + 1) / len(starts) for position in range(len(starts))]
    for label, of, colour in (
        ("`start` returned", "returned", "#9aa5b1"),
        ("first node", "began", "#2a7f62"),
        ("known to be over", "over", "#5b8db8"),
    ):
        axes.plot(sorted(1000 * getattr(start, of) for start in starts), share, color=colour, label=label)
    axes.plot([_P50_MS, _P95_MS], [50, 95], "x", color="#333333", label="marks of the first node")
    axes.set_xscale("log")
    axes.set_xlabel("ms since the start (log scale)")
    axes.set_ylabel("% of single starts")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9, frameon=False)


def _draw_throughput(axes: Axes, report: QueueReport) -> None:
    """A bar per system, with the lowest and highest round."""
    ((work, measured),) = report.results.items()
    runs = int(work.partition(":")[2])
    for name, samples in measured.items():
        rates = [runs / sample.seconds for sample in samples]
        height = median(rates)
        axes.bar([LABELS[name]], [height], 0.6, color=_COLOURS[name], zorder=2)
        spans = [[height - min(rates)], [max(rates) - height]]
        axes.errorbar([LABELS[name]], [height], spans, fmt="none", ecolor="#333333", lw=0.8)
        axes.annotate(f"{height:.0f}", (LABELS[name], max(rates)), (0, 3), textcoords="offset points", ha="center")
    axes.margins(y=0.15)
    axes.grid(axis="y", alpha=0.3, zorder=0)
    axes.set_title(f"runs a second, N={runs}", fontsize=11)
