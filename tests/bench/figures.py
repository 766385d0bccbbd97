"""The figures that are promised, with the marks they are held to.

Speeds are compared as ratios within one round, where both sides met the same machine; what is reported is the
median of the rounds, with the lowest and the highest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from rich import box
from rich.table import Table

from tests.bench.workloads import Sample

__all__ = ["Figure", "Results", "as_json", "as_markdown", "as_table", "percentile", "ratios", "speed_figures"]

# For each workload and contender, a sample per round.
Results = Mapping[str, Mapping[str, Sequence[Sample]]]

# workload, peer, mark: how many times the peer's throughput ours has at least.
_SPEED_MARKS = (
    ("ops:100", "stock", 10.0, "ops, N=100: ours ÷ stock"),
    ("ops:100", "unlocked", 4.0, "ops, N=100: ours ÷ stock without its lock"),
    ("graph:100", "stock", 4.5, "graph, N=100: ours ÷ stock"),
    ("graph:100", "memory", 0.9, "graph, N=100: ours ÷ InMemorySaver"),
    ("graph:1", "stock", 1.4, "graph, N=1: stock's time ÷ ours"),
)
_LATENCY_MARK_MS = 50.0
_VERDICTS = {True: "[green]met[/]", False: "[bold red]missed[/]"}


@dataclass(frozen=True)
class Figure:
    """One figure: its value in each round, and the mark that the median has to reach, where one was promised."""

    title: str
    values: Sequence[float]
    mark: float | None
    bound: Literal["at least", "at most"]
    unit: str = ""

    @property
    def value(self) -> float:
        """The median of the rounds."""
        return median(self.values)

    def shown(self, value: float) -> str:
        """A value of this figure with its unit, as many digits as mean something."""
        digits = {"MB": 0, "MiB": 0, "runs/s": 0, "µs": 0, "ms": 1}.get(self.unit, 2)
        return f"{value:.{digits}f} {self.unit}"

    @property
    def met(self) -> bool:
        """Whether the median keeps the promise, if there is one."""
        if self.mark is None:
            return True
        return self.value >= self.mark if self.bound == "at least" else self.value <= self.mark


def percentile(values: Sequence[float], percent: int) -> float:
    """The smallest value that `percent` of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def ratios(measured: Mapping[str, Sequence[Sample]], above: str, below: str) -> list[float]:
    """Round by round, one contender's seconds ÷ another's: how many times the other's throughput is of the first's."""
    pairs = zip(measured[above], measured[below], strict=True)
    return [first.seconds / second.seconds for first, second in pairs]


def speed_figures(results: Results) -> list[Figure]:
    """The figures that follow from the rounds, as far as these were run."""
    figures = []
    for workload, peer, mark, title in _SPEED_MARKS:
        measured = results.get(workload, {})
        if "ours" in measured and peer in measured:
            figures.append(Figure(title, ratios(measured, peer, "ours"), mark, "at least", "×"))
    crowd = results.get("ops:400", {}).get("ours", ())
    if crowd:
        saves = [1000 * percentile(sample.saves, 95) for sample in crowd]
        loads = [1000 * percentile(sample.loads, 95) for sample in crowd]
        figures.append(Figure("ops, N=400: p95 of a save", saves, _LATENCY_MARK_MS, "at most", "ms"))
        figures.append(Figure("ops, N=400: p95 of a load", loads, _LATENCY_MARK_MS, "at most", "ms"))
    return figures


def as_table(figures: Sequence[Figure]) -> Table:
    """Figures as a table for the screen."""
    table = Table("figure", "median", "lowest-highest", "promised", "", box=box.SIMPLE)
    for figure in figures:
        table.add_row(
            figure.title,
            figure.shown(figure.value),
            f"{figure.shown(min(figure.values))} - {figure.shown(max(figure.values))}",
            *(() if figure.mark is None else (f"{figure.bound} {figure.mark:g}", _VERDICTS[figure.met])),
        )
    return table


def as_markdown(figures: Sequence[Figure]) -> Iterator[str]:
    """Figures as lines of a Markdown table."""
    yield "| figure | median | lowest to highest | promised |"
    yield "|---|---|---|---|"
    for figure in figures:
        low, high = figure.shown(min(figure.values)), figure.shown(max(figure.values))
        sign = "≥" if figure.bound == "at least" else "≤"
        promised = "" if figure.mark is None else f"{sign} {figure.mark:g}{'' if figure.met else ', missed'}"
        yield f"| {figure.title} | {figure.shown(figure.value)} | {low} to {high} | {promised} |"


def as_json(figures: Sequence[Figure]) -> list[dict[str, Any]]:
    """Figures as they stand in a bench's JSON."""
    return [
        {
            "title": figure.title,
            "median": figure.value,
            "rounds": list(figure.values),
            "unit": figure.unit,
            **({} if figure.mark is None else {figure.bound.replace(" ", "_"): figure.mark, "met": figure.met}),
        }
        for figure in figures
    ]
