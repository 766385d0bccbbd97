"""What the demo shows: bars in a terminal, plain lines anywhere else."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from demo_parts.runs import STAGES, DemoRun, Evidence

LINE_EVERY_S = 1.0
TITLE_CHARS = 28


class Watch(Protocol):
    """Shows runs as they move on."""

    def show(self, runs: Sequence[DemoRun]) -> None: ...


def watch(console: Console) -> AbstractContextManager[Watch]:
    """The display that suits where the output goes."""
    live = console.is_terminal and not console.is_dumb_terminal
    return Bars(console) if live else Lines(console)


def new_console() -> Console:
    """Colours and widths as the terminal has them; 110 columns where there is no terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=110)


class Bars:
    """A progress bar per run."""

    def __init__(self, console: Console) -> None:
        self.tasks: dict[str, TaskID] = {}
        self.progress = Progress(
            TextColumn("    {task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("[dim]{task.fields[stage]}"),
            console=console,
        )

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def show(self, runs: Sequence[DemoRun]) -> None:
        for run in runs:
            if run.run_id not in self.tasks:
                self.tasks[run.run_id] = self.progress.add_task(_title(run), total=len(STAGES), stage="")
            self.progress.update(self.tasks[run.run_id], completed=run.done, stage=_stage(run))


class Lines:
    """A line about all runs, at most once a second and only when something has changed."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.last: list[tuple[int, str]] = []
        self.shown_at = 0.0
        self.runs: Sequence[DemoRun] = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._print()

    def show(self, runs: Sequence[DemoRun]) -> None:
        self.runs = runs
        if time.monotonic() - self.shown_at >= LINE_EVERY_S:
            self._print()

    def _print(self) -> None:
        now = [(run.done, _stage(run)) for run in self.runs]
        if now == self.last:
            return
        self.last, self.shown_at = now, time.monotonic()
        for run in self.runs:
            bar = "#" * run.done + "." * (len(STAGES) - run.done)
            self.console.print(f"    {_title(run)} [{bar}] {run.done}/{len(STAGES)} {_stage(run)}", markup=False)
        self.console.print()


def _title(run: DemoRun) -> str:
    title = run.title if len(run.title) <= TITLE_CHARS else run.title[: TITLE_CHARS - 1] + "…"
    return title.ljust(TITLE_CHARS)


def _stage(run: DemoRun) -> str:
    return "done" if run.finished else run.stage or run.status


def heading(console: Console, text: str) -> None:
    console.print(f"\n[bold]==> {escape(text)}[/bold]")


def note(console: Console, text: str) -> None:
    console.print(f"    {text}", markup=False, soft_wrap=True)


def show_json(console: Console, asked: str, body: dict[str, Any]) -> None:
    note(console, asked)
    for line in json.dumps(body, indent=2, ensure_ascii=False).splitlines():
        note(console, line)


def show_evidence(console: Console, found: Iterable[Evidence]) -> None:
    """One row a document: where its stages ran, and what was found in it."""
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    table.add_column("    document", no_wrap=True)
    for column in ("before", "after", "twice", "entities", "relations"):
        table.add_column(column, justify="right", no_wrap=True)
    room_for_names = console.width >= 100
    if room_for_names:
        table.add_column("most often named", no_wrap=True)
    for item in found:
        counts = (len(item.before), len(item.after), 0, len(item.names), item.relations)
        names = ", ".join(name[:20] for name in item.names[:2])
        cells = [f"    {_title(item.run)}", *map(str, counts), *([names] if room_for_names else [])]
        table.add_row(*map(escape, cells))
    console.print(table)
