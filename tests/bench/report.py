"""What a run of the saver bench leaves: tables on the screen, numbers as JSON, a chart."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from tests.bench.contenders import LABELS
from tests.bench.figures import Figure, Results, as_json, as_markdown, as_table, percentile, ratios
from tests.bench.workloads import Sample

__all__ = ["Report", "by_contender", "samples_as_json", "times"]

_PERCENTS = (50, 95, 99)


@dataclass(frozen=True)
class Report:
    """Everything that one run found out."""

    machine: Mapping[str, str]
    rounds: int
    quick: bool
    results: Results
    figures: Sequence[Figure]

    def show(self, console: Console) -> None:
        """Print the tables."""
        console.print()
        console.print(times(self.results, LABELS))
        console.print(_cpu(self.results))
        console.print(self._latency_table())
        if self.figures:
            console.print(as_table(self.figures))
        console.print(", ".join(f"{name} {value}" for name, value in self.machine.items()), style="dim")
        console.print("The machine sets the times; the ratios are what to compare.", style="dim")

    def write(self, path: Path) -> None:
        """Write the numbers as JSON, and the figures beside them as Markdown, for docs/performance.md."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self._as_json(), indent=2) + "\n")
        path.with_suffix(".md").write_text("\n".join(as_markdown(self.figures)) + "\n")

    def _as_json(self) -> dict[str, Any]:
        return {
            "machine": dict(self.machine),
            "rounds": self.rounds,
            "quick": self.quick,
            "figures": as_json(self.figures),
            **samples_as_json(self.results),
            "latency_ms": {
                f"{workload} {contender} {call}": dict(zip(map("p{}".format, _PERCENTS), times, strict=True))
                for workload, contender, call, times in self._latencies()
            },
        }

    def _latencies(self) -> list[tuple[str, str, str, list[float]]]:
        """Workload, contender, call, and its percentiles in milliseconds: medians of the rounds."""
        rows = []
        for workload, measured in self.results.items():
            for contender, samples in measured.items():
                for call in ("saves", "loads"):
                    calls = [getattr(sample, call) for sample in samples]
                    if all(calls):
                        times = [median(1000 * percentile(taken, percent) for taken in calls) for percent in _PERCENTS]
                        rows.append((workload, contender, call, times))
        return rows

    def _latency_table(self) -> Table:
        table = Table("one call, ms", *(f"p{percent}" for percent in _PERCENTS), box=box.SIMPLE)
        for workload, contender, call, times in self._latencies():
            if contender in ("stock", "ours"):
                table.add_row(f"{workload}, {LABELS[contender]}, {call}", *(f"{time:.1f}" for time in times))
        return table


def samples_as_json(results: Results) -> dict[str, Any]:
    """Every round's seconds, as they stand in a bench's JSON."""
    return {
        key: {
            workload: {name: [getattr(sample, of) for sample in samples] for name, samples in measured.items()}
            for workload, measured in results.items()
        }
        for key, of in (("seconds", "seconds"), ("cpu_seconds", "cpu"))
    }


def times(results: Results, labels: Mapping[str, str]) -> Table:
    """The median time of each contender, and how many times its throughput ours has."""

    def cell(measured: Mapping[str, Sequence[Sample]], name: str) -> str:
        shown = f"{median(sample.seconds for sample in measured[name]):.4f}"
        if name == "ours" or "ours" not in measured:
            return shown
        return f"{shown} ({median(ratios(measured, name, 'ours')):.2f}×)"

    return by_contender("seconds (ours is × as fast)", results, labels, cell)


def _cpu(results: Results) -> Table:
    """What of the time was work of this process; the server's is not in it."""
    return by_contender(
        "seconds on a processor",
        results,
        LABELS,
        lambda measured, name: f"{median(sample.cpu for sample in measured[name]):.4f}",
    )


def by_contender(
    title: str,
    results: Results,
    labels: Mapping[str, str],
    cell: Callable[[Mapping[str, Sequence[Sample]], str], str],
) -> Table:
    """A row per workload, a column per contender that took part in any; `labels` gives their order."""
    names = [name for name in labels if any(name in measured for measured in results.values())]
    table = Table(title, *(labels[name] for name in names), box=box.SIMPLE)
    for workload, measured in results.items():
        table.add_row(workload, *(cell(measured, name) if name in measured else "" for name in names))
    return table
