"""The saver bench as a picture: throughput against the stock saver, and single calls in a crowd."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import matplotlib as mpl

mpl.use("Agg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter

from tests.bench.contenders import LABELS
from tests.bench.figures import Figure, ratios
from tests.bench.report import Report

__all__ = ["draw", "draw_marks", "save"]

_COLOURS = {"memory": "#9aa5b1", "sqlite": "#c9b458", "stock": "#d98880", "unlocked": "#e5a36f", "ours": "#2a7f62"}
_TICKS = (0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 50, 100)


def draw(report: Report, path: Path) -> None:
    """Write the chart as PNG."""
    canvas = Canvas(figsize=(12, 9), layout="constrained")
    speed, marks = canvas.subplots(2, 1, height_ratios=(3, 2))
    _draw_speed(speed, report)
    draw_marks(marks, report.figures)
    save(canvas, path, "LangGraph checkpointers side by side", report.machine, report.rounds)


def save(canvas: Canvas, path: Path, title: str, machine: Mapping[str, str], rounds: int) -> None:
    """Write the picture with its title and what it was measured on."""
    canvas.suptitle(title, fontsize=15, fontweight="bold")
    canvas.supxlabel(
        f"{machine['processor']}; PostgreSQL {machine['postgresql']}, fsync on; Python {machine['python']}; "
        f"langgraph {machine['langgraph']}, langgraph-checkpoint-postgres {machine['langgraph-checkpoint-postgres']}; "
        f"medians of {rounds} rounds",
        fontsize=8,
        color="#555555",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(path, dpi=130)


def _draw_speed(axes: Axes, report: Report) -> None:
    """A group of bars per workload, a bar per contender: its throughput, the stock saver's being 1."""
    groups = [(name, measured) for name, measured in report.results.items() if {"stock", "ours"} <= measured.keys()]
    width = 0.16
    for position, name in enumerate(LABELS):
        places, heights, spans = [], [], []
        for group, (_, measured) in enumerate(groups):
            if name in measured:
                against = ratios(measured, "stock", name)
                places.append(group + (position - 2) * width)
                heights.append(median(against))
                spans.append((median(against) - min(against), max(against) - median(against)))
        axes.bar(places, heights, width * 0.92, label=LABELS[name], color=_COLOURS[name], zorder=2)
        if spans:
            axes.errorbar(places, heights, list(zip(*spans, strict=True)), fmt="none", ecolor="#333333", lw=0.8)
        for place, height, (_, above) in zip(places, heights, spans, strict=True):
            axes.annotate(
                f"{height:.1f}×", (place, height + above), (0, 3), textcoords="offset points", ha="center", fontsize=8
            )
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axes.margins(y=0.08)
    axes.autoscale_view()
    low, high = axes.get_ylim()
    axes.set_yticks([tick for tick in _TICKS if low <= tick <= high])
    axes.minorticks_off()
    axes.axhline(1, color="#555555", lw=0.8, zorder=1)
    axes.grid(axis="y", alpha=0.3, zorder=0)
    axes.set_xticks(range(len(groups)), [_title(name) for name, _ in groups])
    axes.set_ylabel("throughput, AsyncPostgresSaver = 1 (log scale)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.13), ncols=len(LABELS), fontsize=9, frameon=False)


def _title(workload: str) -> str:
    kind, _, threads = workload.partition(":")
    return f"{kind}, N={threads}"


def draw_marks(axes: Axes, promised: Sequence[Figure]) -> None:
    """Each promised figure as a share of its mark, so that all of them read the same way: past the line is met."""
    marked = [(figure, figure.mark) for figure in reversed(promised) if figure.mark is not None]
    shares = [figure.value / mark if figure.bound == "at least" else mark / figure.value for figure, mark in marked]
    colours = ["#2a7f62" if figure.met else "#c0392b" for figure, _ in marked]
    bars = axes.barh([figure.title for figure, _ in marked], shares, color=colours, height=0.6, zorder=2)
    labels = [f"{figure.shown(figure.value)} ({figure.bound} {mark:g})" for figure, mark in marked]
    behind = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
    axes.bar_label(bars, labels, padding=7, fontsize=8, bbox=behind, zorder=4)
    axes.axvline(1, color="#333333", lw=1.2, zorder=3)
    axes.set_xlim(0, max([1.0, *shares]) * 1.25)
    axes.grid(axis="x", alpha=0.3, zorder=0)
    axes.tick_params(axis="y", labelsize=9)
    axes.set_xlabel("how the figure stands to its mark: 1 and more is met")
