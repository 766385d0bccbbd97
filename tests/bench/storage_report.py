"""What a run of the storage bench leaves: tables on the screen, numbers as JSON and Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from tests.bench.figures import Figure, as_json, as_markdown, as_table, percentile
from tests.bench.storage_figures import States
from tests.bench.threads import LABELS, State

__all__ = ["StorageReport"]

_COLUMNS = ("turns", "saver", "on disk, MB", "WAL, MB", "save p50", "save p95", "load p50", "load p95")


@dataclass(frozen=True)
class StorageReport:
    """Everything that one run found out."""

    machine: Mapping[str, str]
    rounds: int
    quick: bool
    states: States
    figures: Sequence[Figure]

    def show(self, console: Console) -> None:
        """Print the tables."""
        table = Table(*_COLUMNS, box=box.SIMPLE, caption="calls in ms")
        for row in self._rows():
            table.add_row(*row)
        console.print()
        console.print(table)
        console.print(as_table(self.figures))
        console.print(", ".join(f"{name} {value}" for name, value in self.machine.items()), style="dim")

    def write(self, path: Path) -> None:
        """Write the numbers as JSON, and the tables beside them as Markdown, for docs/performance.md."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self._as_json(), indent=2) + "\n")
        path.with_suffix(".md").write_text("\n".join(self._markdown()) + "\n")

    def _markdown(self) -> Iterator[str]:
        yield from as_markdown(self.figures)
        yield ""
        yield f"| {' | '.join(_COLUMNS)} |"
        yield "|---|---|" + "---:|" * (len(_COLUMNS) - 2)
        for row in self._rows():
            yield f"| {' | '.join(row)} |"

    def _rows(self) -> Iterator[list[str]]:
        """The table's rows: by length, then by contender."""
        for turns in sorted({state.turns for reached in self.states.values() for state in reached}):
            for name, reached in self.states.items():
                for state in reached:
                    if state.turns == turns:
                        sizes = [f"{state.bytes / 1e6:.2f}", f"{state.wal / 1e6:.2f}"]
                        yield [f"{turns:,}", LABELS[name], *sizes, *(f"{time:.1f}" for time in _times(state))]

    def _as_json(self) -> dict[str, Any]:
        return {
            "machine": dict(self.machine),
            "rounds": self.rounds,
            "quick": self.quick,
            "figures": as_json(self.figures),
            "threads": {
                name: [
                    {
                        "turns": state.turns,
                        "bytes": state.bytes,
                        "bytes_by_table": state.tables,
                        "wal_bytes": state.wal,
                        **dict(
                            zip(
                                ("save_p50_ms", "save_p95_ms", "load_p50_ms", "load_p95_ms"), _times(state), strict=True
                            )
                        ),
                        "samples": sum(map(len, state.saves)),
                    }
                    for state in reached
                ]
                for name, reached in self.states.items()
            },
        }


def _times(state: State) -> list[float]:
    """p50 and p95 of saves, then of loads, in milliseconds."""
    return [
        1000 * percentile([time for taken in calls for time in taken], percent)
        for calls in (state.saves, state.loads)
        for percent in (50, 95)
    ]
