"""What a run of the orchestrator bench leaves: figures, tables, numbers as JSON and Markdown, a chart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from rich.table import Table

from tests.bench.chart import draw_marks, save
from tests.bench.figures import Figure, Results, as_json, ratios
from tests.bench.orchestrator_work import LABELS
from tests.bench.profiling import PARTS, Ledger
from tests.bench.report import samples_as_json, times
from tests.bench.tabled import TabledReport

__all__ = ["OrchestratorReport", "draw", "start_figures", "work_figures"]

_MARK = 1.1
_COLOURS = {"sync": "#d98880", "async": "#e5a36f", "loop": "#9aa5b1", "threads": "#5d6d7e", "ours": "#2a7f62"}
_PART_COLOURS = ("#9aa5b1", "#5b8db8", "#8fb8de", "#2a7f62", "#7fbf9f")
_STATEMENTS = ("save", "load", "create", "claim", "record", "finish")


def work_figures(results: Results, runs: int, total_bytes: int) -> list[Figure]:
    """The ratios of the rounds; those without a mark are for orientation."""
    corpus = f"extraction, {total_bytes / 1e6:g} MB"
    asked = (
        (f"20ms:{runs}", "sync", _MARK, f"20 ms nodes, N={runs}: ours ÷ ainvoke, sync"),
        (f"20ms:{runs}", "async", None, f"20 ms nodes, N={runs}: ours ÷ ainvoke, async"),
        (f"noop:{runs}", "sync", None, f"no-op nodes, N={runs}: ours ÷ ainvoke, sync"),
        (f"noop:{runs}", "async", None, f"no-op nodes, N={runs}: ours ÷ ainvoke, async"),
        ("extraction:1", "loop", _MARK, f"{corpus}, one document at a time: ours ÷ plain loop"),
        ("extraction:8", "threads", _MARK, f"{corpus}, eight at a time: ours ÷ eight threads"),
    )
    figures = [
        Figure(title, ratios(results[work], "ours", peer), mark, "at most", "×") for work, peer, mark, title in asked
    ]
    pairs = zip(results[f"noop:{runs}"]["ours"], results[f"noop:{runs}"]["sync"], strict=True)
    busy = [ours.cpu / sync.cpu for ours, sync in pairs]
    return [*figures, Figure(f"no-op nodes, N={runs}, CPU: ours ÷ ainvoke, sync", busy, None, "at most", "×")]


def start_figures(
    runs: int, alone: Sequence[float], crowd: Sequence[float], alone_statements: float, crowd_statements: float
) -> list[Figure]:
    """What `start` costs; seconds of a call by itself, and in a crowd of `runs` the crowd's seconds by run."""
    return [
        Figure("start, one at a time", [1e6 * value for value in alone], None, "at most", "µs"),
        Figure(f"start, N={runs} at once: for each", [1e6 * value for value in crowd], None, "at most", "µs"),
        Figure("start, one at a time: statements", [alone_statements], None, "at most"),
        Figure(f"start, N={runs} at once: statements for each", [crowd_statements], None, "at most"),
    ]


@dataclass(frozen=True)
class OrchestratorReport(TabledReport):
    """Everything that one run found out; `ledgers` are of `ledger_runs` runs of no-op nodes each."""

    note = "The machine sets the times; the ratios are what to compare."

    machine: Mapping[str, str]
    rounds: int
    quick: bool
    runs: int
    results: Results
    ledgers: Mapping[str, Ledger]
    ledger_runs: int
    figures: Sequence[Figure]

    def _times(self) -> Iterator[Table]:
        yield times(self.results, LABELS)

    def _tables(self) -> Iterator[list[list[str]]]:
        """A run of five no-op nodes: its CPU time by part, and its statements by kind."""
        names = [LABELS[name] for name in self.ledgers]
        spent = [self.cpu_us(name) for name in self.ledgers]
        rows = [[part, *(f"{by_part[part]:.0f}" for by_part in spent)] for part in PARTS]
        total = ["together", *(f"{sum(by_part.values()):.0f}" for by_part in spent)]
        yield [["CPU of a run with no-op nodes, µs", *names], *rows, total]
        kinds = [kind for kind in _STATEMENTS if any(ledger.items[kind] for ledger in self.ledgers.values())]
        counted = [[kind, *(self._statements(ledger, kind) for ledger in self.ledgers.values())] for kind in kinds]
        every = [ledger.statements["all"] / self.ledger_runs for ledger in self.ledgers.values()]
        known = [sum(ledger.statements[kind] for kind in kinds) / self.ledger_runs for ledger in self.ledgers.values()]
        other = ["on the pool, and leases", *(f"{of - but:.2f}" for of, but in zip(every, known, strict=True))]
        together = ["together", *map("{:.2f}".format, every)]
        yield [["statements of a run (what they carry)", *names], *counted, other, together]

    def cpu_us(self, name: str) -> dict[str, float]:
        """Microseconds of the event loop's thread that a run takes, by part."""
        return {part: 1e6 * self.ledgers[name].seconds[part] / self.ledger_runs for part in PARTS}

    def _statements(self, ledger: Ledger, kind: str) -> str:
        statements, items = ledger.statements[kind] / self.ledger_runs, ledger.items[kind] / self.ledger_runs
        return f"{statements:.2f} ({items:.1f})" if items else ""

    def _as_json(self) -> dict[str, Any]:
        return {
            "machine": dict(self.machine),
            "rounds": self.rounds,
            "quick": self.quick,
            "runs": self.runs,
            "figures": as_json(self.figures),
            **samples_as_json(self.results),
            "cpu_us_of_a_run": {name: self.cpu_us(name) for name in self.ledgers},
            "statements_of_a_run": {
                name: {kind: number / self.ledger_runs for kind, number in ledger.statements.items()}
                for name, ledger in self.ledgers.items()
            },
        }


def draw(report: OrchestratorReport, path: Path) -> None:
    """Write the chart as PNG."""
    canvas = Canvas(figsize=(13, 9), layout="constrained")
    grid = canvas.add_gridspec(2, 1, height_ratios=(3, 2))
    upper, lower = canvas.add_subfigure(grid[0]), canvas.add_subfigure(grid[1])
    columns = upper.add_gridspec(1, 2, width_ratios=(3, 2))
    _draw_times(upper.add_subplot(columns[0]), report)
    _draw_parts(upper.add_subplot(columns[1]), report)
    draw_marks(lower.add_subplot(), report.figures)
    save(canvas, path, "Durable runs beside LangGraph alone, and beside a plain loop", report.machine, report.rounds)


def _draw_times(axes: Axes, report: OrchestratorReport) -> None:
    """A group of bars per work: how long each way takes, the first way being 1."""
    width = 0.26
    labelled: set[str] = set()
    for group, measured in enumerate(report.results.values()):
        first = next(iter(measured))
        for position, name in enumerate(measured):
            against = ratios(measured, name, first)
            height = median(against)
            place = group + (position - (len(measured) - 1) / 2) * width
            axes.bar(place, height, width * 0.92, color=_COLOURS[name], label=_once(name, labelled), zorder=2)
            spans = [[height - min(against)], [max(against) - height]]
            axes.errorbar([place], [height], spans, fmt="none", ecolor="#333333", lw=0.8)
            axes.annotate(
                f"{height:.2f}", (place, max(against)), (0, 3), textcoords="offset points", ha="center", fontsize=8
            )
    axes.axhline(_MARK, color="#333333", lw=1, ls=":", zorder=3)
    axes.margins(y=0.3)
    axes.grid(axis="y", alpha=0.3, zorder=0)
    axes.set_xticks(range(len(report.results)), list(report.results))
    axes.set_title("time, the first way of each work = 1 (dotted: the mark)", fontsize=11)
    axes.legend(loc="upper left", ncols=2, fontsize=8, frameon=False)


def _once(name: str, labelled: set[str]) -> str | None:
    """The label of a way for its first bar."""
    if name in labelled:
        return None
    labelled.add(name)
    return LABELS[name]


def _draw_parts(axes: Axes, report: OrchestratorReport) -> None:
    """A stacked bar per way: where a run's CPU time goes."""
    names = list(report.ledgers)
    spent = [report.cpu_us(name) for name in names]
    below = [0.0] * len(names)
    for part, colour in zip(PARTS, _PART_COLOURS, strict=True):
        heights = [by_part[part] for by_part in spent]
        axes.bar([LABELS[name] for name in names], heights, 0.6, bottom=below, color=colour, label=part, zorder=2)
        below = [base + height for base, height in zip(below, heights, strict=True)]
    axes.margins(y=0.35)
    axes.grid(axis="y", alpha=0.3, zorder=0)
    axes.legend(loc="upper center", fontsize=8, frameon=False)
    axes.set_title("CPU of a run with no-op nodes, µs", fontsize=11)
