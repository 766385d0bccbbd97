"""The storage bench as a picture: bytes, WAL and calls over the length of the thread, both axes logarithmic."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, LogLocator

from tests.bench.chart import draw_marks, save
from tests.bench.figures import percentile
from tests.bench.storage_report import StorageReport
from tests.bench.threads import LABELS, State

__all__ = ["draw"]

_COLOURS = {"stock": "#d98880", "whole": "#e5a36f", "shared": "#2a7f62", "retained": "#5b8db8"}


def draw(report: StorageReport, path: Path) -> None:
    """Write the chart as PNG."""
    canvas = Canvas(figsize=(13, 12), layout="constrained")
    axes = canvas.subplot_mosaic("DW\nSL\nMM", height_ratios=(3, 3, 2))
    panels: tuple[tuple[str, str, Callable[[State], float]], ...] = (
        ("D", "tables and indexes, MB", lambda state: state.bytes / 1e6),
        ("W", "WAL since the thread began, MB", lambda state: state.wal / 1e6),
        ("S", "one save, p50, ms", lambda state: _p50_ms(state.saves)),
        ("L", "one load, p50, ms", lambda state: _p50_ms(state.loads)),
    )
    for name, title, value in panels:
        _draw_lines(axes[name], report, title, value)
    axes["D"].legend(fontsize=9, frameon=False)
    draw_marks(axes["M"], report.figures)
    save(canvas, path, "A conversation in PostgreSQL, about 2 KB a turn", report.machine, report.rounds)


def _draw_lines(axes: Axes, report: StorageReport, title: str, value: Callable[[State], float]) -> None:
    """A line per contender, over turns."""
    for name, reached in report.states.items():
        turns, values = [state.turns for state in reached], [value(state) for state in reached]
        axes.plot(turns, values, marker="o", color=_COLOURS[name], label=LABELS[name], lw=2, zorder=2)
        for at, height in list(zip(turns, values, strict=True))[-1:]:
            beside = [value(state) for other in report.states.values() for state in other if state.turns == at]
            offset = (6, 4) if height == max(beside) else (6, -10)
            axes.annotate(f"{height:.3g}", (at, height), offset, textcoords="offset points", fontsize=8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.margins(0.1)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda turns, _: f"{turns:,.0f}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda amount, _: f"{amount:g}"))
    axes.set_xticks(sorted({state.turns for reached in report.states.values() for state in reached}))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.minorticks_off()
    axes.grid(alpha=0.3, zorder=0)
    axes.set_title(title, fontsize=11)
    axes.set_xlabel("turns (both axes logarithmic)", fontsize=9)


def _p50_ms(calls: list[list[float]]) -> float:
    return 1000 * percentile([time for taken in calls for time in taken], 50)
