"""Follows a batch until it is over: a bar for each state on a terminal, a line for each change elsewhere."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from orchestrator.batches.model import STAGES
from orchestrator.cli.batch_source import BatchSource
from orchestrator.cli.tables import terminal
from orchestrator.errors import RemoteError
from orchestrator.runs.model import FINAL

__all__ = ["follow_batch"]

_LOOK_EVERY_S = 0.3
_PATIENCE_S = 60.0


async def follow_batch(batches: BatchSource, batch_id: str, *, quiet: bool) -> dict[str, Any]:
    """Show the batch's progress until it is over; the batch then. Raises `RemoteError` where it is lost sight of."""
    batch = await batches.get(batch_id)
    seen = monotonic()
    with _shown(quiet) as show:
        show(batch)
        while batch["status"] not in FINAL:
            await asyncio.sleep(_LOOK_EVERY_S)
            if (latest := await batches.look(batch_id)) is not None:
                batch, seen = latest, monotonic()
                show(batch)
            elif monotonic() - seen > _PATIENCE_S:
                raise RemoteError(f"no answer for {_PATIENCE_S:.0f} s; the batch goes on, look again later")
    return batch


@contextmanager
def _shown(quiet: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    console = terminal()
    if quiet:
        yield lambda batch: None
    elif console.is_terminal:
        with Progress(
            TextColumn("{task.description:14}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("[red]{task.fields[note]}"),
            console=console,
        ) as progress:
            yield _Bars(progress)
    else:
        yield _Lines()


class _Bars:
    """A bar for each state."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {
            str(state): progress.add_task(str(state), total=None, note="") for state in STAGES
        }

    def __call__(self, batch: dict[str, Any]) -> None:
        for state, task in self._tasks.items():
            each = batch["counts"][state]
            note = f"{each['failed']} failed" if each["failed"] else ""
            done = each["done"] + each["failed"]
            self._progress.update(task, completed=done, total=each["total"] or None, note=note)


class _Lines:
    """A line where the state's counts differ from the last time."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, batch: dict[str, Any]) -> None:
        each = batch["counts"].get(batch["state"])
        line = batch["state"]
        if each:
            line += f" {each['done']}/{each['total']}" + (f", {each['failed']} failed" if each["failed"] else "")
        if line != self._last:
            self._last = line
            print(line)
            sys.stdout.flush()
