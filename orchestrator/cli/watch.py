"""`holdfast runs watch`: follow a run until it is settled, by looking at it once a second."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from rich.live import Live
from rich.text import Text

from orchestrator.cli.run_source import RunSource, RunView, open_runs
from orchestrator.cli.tables import print_json, state_of, status_text, terminal
from orchestrator.errors import RemoteError
from orchestrator.runs.model import FINAL, SETTLED, RunStatus

__all__ = ["RESTING", "watch"]

# The exit code for a run that neither is over nor goes on by itself.
RESTING = 3
_LOOK_EVERY_S = 1.0
# A run outlives a restart of its server, and so does who watches it.
_PATIENCE_S = 60.0


async def watch(run_id: str, *, url: str | None, token: str | None, as_json: bool) -> int:
    """Show a run's progress until it is over (0 completed, 1 not) or rests (3); with `as_json`, only its end."""
    async with open_runs(url, token) as runs:
        with _shown(as_json) as show:
            async for run in _looks(runs, run_id):
                show(run)
    if as_json:
        print_json(run)
    if run["status"] == RunStatus.COMPLETED:
        return 0
    return 1 if run["status"] in FINAL else RESTING


async def _looks(runs: RunSource, run_id: str) -> AsyncIterator[RunView]:
    """The run each time it was looked at, until it is settled. At least one; the first must succeed."""
    run = await runs.get(run_id)
    yield run
    seen = monotonic()
    while run["status"] not in SETTLED:
        await asyncio.sleep(_LOOK_EVERY_S)
        if (latest := await runs.look(run_id)) is not None:
            run, seen = latest, monotonic()
            yield run
        elif monotonic() - seen > _PATIENCE_S:
            raise RemoteError(f"no answer for {_PATIENCE_S:.0f} s; the run goes on where it was, look again later")


@contextmanager
def _shown(as_json: bool) -> Iterator[Callable[[RunView], None]]:
    """How to show a run: on one line that changes, as a line per change, or not at all."""
    console = terminal()
    if as_json:
        yield lambda run: None
    elif console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            yield lambda run: live.update(_line(run), refresh=True)
    else:
        yield _Changes()


class _Changes:
    """Prints a run where it differs from the last time."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, run: RunView) -> None:
        line = _line(run).plain
        if line != self._last:
            self._last = line
            print(line)
            sys.stdout.flush()


def _line(run: RunView) -> Text:
    status = status_text(run["status"])
    parts = [status.append(state_of(run).removeprefix(status.plain))]
    if run["currentActivity"]:
        parts.append(Text(f"activity {run['currentActivity']}"))
    parts.append(Text(f"attempt {run['attempt']}", style="dim"))
    return Text("  ").join(parts)
