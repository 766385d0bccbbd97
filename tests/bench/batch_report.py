"""What a run of the batch bench leaves: figures, tables, numbers as JSON and Markdown, a chart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib.figure import Figure as Canvas

from tests.bench.chart import draw_marks, save
from tests.bench.figures import Figure, as_json, percentile
from tests.bench.statements import KINDS, Statements
from tests.bench.tabled import TabledReport

__all__ = ["BatchReport", "Cost", "Pair", "batch_figures", "draw"]

_SHARE, _FLAT, _P95_MS = 0.9, 1.25, 100.0


@dataclass(frozen=True)
class Pair:
    """Seconds of a batch and of the loop over the same documents, and on a processor during the batch, by process."""

    batch_s: float
    loop_s: float
    cpu: Mapping[str, float]


@dataclass(frozen=True)
class Cost:
    """What was sent to PostgreSQL for so many documents."""

    documents: int
    statements: Statements


def batch_figures(
    pairs: Sequence[Pair],
    peaks: Mapping[int, float],
    delays: Sequence[Sequence[float]],
    documents: int,
    watchers: int,
) -> list[Figure]:
    """The figures; `peaks` are MiB by documents, `delays` seconds by round. Those without a mark are for a reader."""
    few, *_, many = peaks
    return [
        Figure(
            "documents a second, batch ÷ loop", [one.loop_s / one.batch_s for one in pairs], _SHARE, "at least", "×"
        ),
        Figure("batch", [documents / one.batch_s for one in pairs], None, "at least", "documents/s"),
        Figure("loop", [documents / one.loop_s for one in pairs], None, "at least", "documents/s"),
        Figure(f"peak memory, {many:,} documents ÷ {few:,}", [peaks[many] / peaks[few]], _FLAT, "at most", "×"),
        Figure(f"peak memory, {many:,} documents", [peaks[many]], None, "at most", "MiB"),
        *(
            Figure(
                f"event to each of {watchers} watchers: p{percent}",
                [1000 * percentile(each, percent) for each in delays],
                mark,
                "at most",
                "ms",
            )
            for percent, mark in ((50, None), (95, _P95_MS))
        ),
    ]


@dataclass(frozen=True)
class BatchReport(TabledReport):
    """Everything that one run found out."""

    note = (
        "The loop only extracts. The batch also starts a durable run for each document, finds its entities among all "
        "that are known, and writes them down."
    )

    machine: Mapping[str, str]
    rounds: int
    quick: bool
    documents: int
    processes: int
    pairs: Sequence[Pair]
    peaks: Mapping[int, float]
    cost: Cost
    figures: Sequence[Figure]

    def _tables(self) -> Iterator[Sequence[Sequence[str]]]:
        """A document's time on processors; its statements by kind; memory by documents."""
        parts = [name for name in self.pairs[0].cpu if name != "here"]
        spent = [median(1000 * one.cpu[name] / self.documents for one in self.pairs) for name in parts]
        yield [["CPU of a document, ms", *parts], ["batch", *(f"{each:.1f}" for each in spent)]]
        kinds = [(kind, self.cost.statements.by_kind[kind] / self.cost.documents) for kind in KINDS]
        yield [["statements", "of a document"], *([kind, f"{each:.2f}"] for kind, each in kinds if each)]
        yield [
            ["documents", "peak of a worker, MiB"],
            *([f"{size:,}", f"{mib:.0f}"] for size, mib in self.peaks.items()),
        ]

    def _as_json(self) -> dict[str, Any]:
        return {
            "machine": dict(self.machine),
            "rounds": self.rounds,
            "quick": self.quick,
            "documents": self.documents,
            "processes": self.processes,
            "figures": as_json(self.figures),
            "pairs": [asdict(one) for one in self.pairs],
            "peak_mib": {str(size): mib for size, mib in self.peaks.items()},
            "statements_of_a_document": {
                kind: count / self.cost.documents for kind, count in self.cost.statements.by_kind.items()
            },
        }


def draw(report: BatchReport, path: Path) -> None:
    """Write the chart as PNG."""
    canvas = Canvas(figsize=(12, 5), layout="constrained")
    draw_marks(canvas.subplots(), report.figures)
    save(canvas, path, "Batches of documents", report.machine, report.rounds)
