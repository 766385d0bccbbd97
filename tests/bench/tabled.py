"""A report as tables: printed for people, and written as JSON with the tables beside it as Markdown."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from rich import box
from rich.console import Console
from rich.table import Table

from tests.bench.figures import Figure, as_markdown, as_table

__all__ = ["TabledReport"]


class TabledReport(ABC):
    """What one run of a bench found out; `note` stands below the tables, and says how to read them."""

    note: ClassVar[str]
    machine: Mapping[str, str]
    figures: Sequence[Figure]

    @abstractmethod
    def _tables(self) -> Iterator[Sequence[Sequence[str]]]:
        """Each table as its header and its rows."""

    @abstractmethod
    def _as_json(self) -> dict[str, Any]: ...

    def _times(self) -> Iterator[Table]:
        """Tables that are printed first, and not written."""
        yield from ()

    def show(self, console: Console) -> None:
        """Print the tables."""
        console.print()
        for table in self._times():
            console.print(table)
        for header, *rows in self._tables():
            table = Table(*header, box=box.SIMPLE)
            for row in rows:
                table.add_row(*row)
            console.print(table)
        console.print(as_table(self.figures))
        console.print(", ".join(f"{name} {value}" for name, value in self.machine.items()), style="dim")
        console.print(self.note, style="dim")

    def write(self, path: Path) -> None:
        """Write the numbers as JSON, and the tables beside them as Markdown, for docs/performance.md."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self._as_json(), indent=2) + "\n")
        path.with_suffix(".md").write_text("\n".join(self._markdown()) + "\n")

    def _markdown(self) -> Iterator[str]:
        yield from as_markdown(self.figures)
        for header, *rows in self._tables():
            yield ""
            yield f"| {' | '.join(header)} |"
            yield "|---|" + "---:|" * (len(header) - 1)
            for row in rows:
                yield f"| {' | '.join(row)} |"
