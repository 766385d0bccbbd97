"""What a run of the soak bench leaves: memory and storage over time."""

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
from tests.bench.figures import Figure, as_json
from tests.bench.tabled import TabledReport

__all__ = ["Look", "SoakReport", "draw", "soak_figures"]

# A server that leaked a kilobyte a run would gain 30 MiB in an hour of eight runs a second.
_GROWTH_MIB = 10.0
_RESIDENT_MIB = 300.0
_STORED = 1.5


@dataclass(frozen=True)
class Look:
    """Seconds since the beginning, runs that are over (by the client's batches), MiB resident and in the database."""

    seconds: float
    runs: int
    resident_mib: float
    stored_mib: float

    def __str__(self) -> str:
        return f"{self.seconds:.0f} s, {self.runs:,} runs: {self.resident_mib:.0f} MiB, {self.stored_mib:.0f} stored"


@dataclass(frozen=True)
class SoakReport(TabledReport):
    """Everything that one run found out: with retention, and without."""

    note = "Growth is the median of the last fifth of the time less that of the second fifth: the first one warms up."

    machine: Mapping[str, str]
    rounds: int
    quick: bool
    keep_for_s: int
    kept: Sequence[Look]
    grown: Sequence[Look]
    figures: Sequence[Figure]

    def _tables(self) -> Iterator[Sequence[Sequence[str]]]:
        header = ["", "seconds", "runs", "runs/s", "resident, MiB", "stored, MiB"]
        rows = []
        for name, looks in ((f"forgotten after {self.keep_for_s} s", self.kept), ("nothing forgotten", self.grown)):
            for fifth in range(5):
                last = _fifth(looks, fifth)[-1]
                rate = last.runs / last.seconds if last.seconds else 0.0
                numbers = (last.seconds, last.runs, rate, last.resident_mib, last.stored_mib)
                rows.append([name, *(f"{number:,.0f}" for number in numbers)])
        yield [header, *rows]

    def _as_json(self) -> dict[str, Any]:
        return {
            "machine": dict(self.machine),
            "quick": self.quick,
            "figures": as_json(self.figures),
            "with_retention": [asdict(look) for look in self.kept],
            "without": [asdict(look) for look in self.grown],
        }


def soak_figures(kept: Sequence[Look], grown: Sequence[Look], *, short: bool) -> list[Figure]:
    """The figures, from what was seen with and without retention; `short` is too short for what grows to level off."""
    growth, storage = (None, None) if short else (_GROWTH_MIB, _STORED)
    early, late = _fifth(kept, 1), _fifth(kept, 4)
    resident = _resident(late) - _resident(early)
    stored = median(look.stored_mib for look in late) / median(look.stored_mib for look in early)
    without = (grown[-1].stored_mib - grown[0].stored_mib) * 2**20 / max(1, grown[-1].runs)
    return [
        Figure("resident memory, last fifth less second fifth", [resident], growth, "at most", "MiB"),
        Figure("resident memory, most", [max(each.resident_mib for each in kept)], _RESIDENT_MIB, "at most", "MiB"),
        Figure("runs", [float(kept[-1].runs)], None, "at least"),
        Figure("stored with retention, last fifth ÷ second fifth", [stored], storage, "at most", "×"),
        Figure("stored without retention, KiB a run of five nodes", [without / 1024], None, "at most"),
    ]


def _fifth(looks: Sequence[Look], number: int) -> Sequence[Look]:
    size = max(1, len(looks) // 5)
    return looks[number * size : (number + 1) * size if number < 4 else None] or looks[-1:]


def _resident(looks: Sequence[Look]) -> float:
    return median(look.resident_mib for look in looks)


def draw(report: SoakReport, path: Path) -> None:
    """Write the chart as PNG: memory and storage over time."""
    canvas = Canvas(figsize=(12, 9), layout="constrained")
    grid = canvas.add_gridspec(2, 2, height_ratios=(3, 2))
    _lines(canvas.add_subplot(grid[0, 0]), report, "resident_mib", "resident memory of the server, MiB")
    _lines(canvas.add_subplot(grid[0, 1]), report, "stored_mib", "size of the database, MiB")
    draw_marks(canvas.add_subplot(grid[1, :]), [figure for figure in report.figures if figure.value > 0])
    save(canvas, path, "A server under a load that goes on", report.machine, report.rounds)


def _lines(axes: Axes, report: SoakReport, of: str, title: str) -> None:
    series = (
        (f"runs forgotten after {report.keep_for_s} s", report.kept, "#2a7f62"),
        ("nothing forgotten", report.grown, "#d98880"),
    )
    for label, looks, colour in series:
        axes.plot([look.seconds for look in looks], [getattr(look, of) for look in looks], color=colour, label=label)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("seconds")
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9, frameon=False)
