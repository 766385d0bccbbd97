"""`holdfast runs watch`: follow a run's events until it is settled."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, cast

from rich.live import Live

from orchestrator.cli.following import Patience
from orchestrator.cli.run_source import RunSource, RunView, open_runs
from orchestrator.cli.tables import print_json, terminal
from orchestrator.cli.watched import WatchedRun, line_of
from orchestrator.runs.model import FINAL, SETTLED, RunStatus

__all__ = ["RESTING", "watch"]

# The exit code for a run that neither is over nor goes on by itself.
RESTING = 3


async def watch(run_id: str, *, url: str | None, token: str | None, as_json: bool) -> int:
    """Show a run's progress until it is over (0 completed, 1 not) or rests (3); with `as_json`, only its end."""
    watched = WatchedRun()
    async with open_runs(url, token) as runs:
        with _shown(watched, as_json) as show:
            run = await _followed(runs, run_id, watched, show)
            watched.end(run)
            show()
    if as_json:
        print_json(run)
    if run["status"] == RunStatus.COMPLETED:
        return 0
    return 1 if run["status"] in FINAL else RESTING


async def _followed(runs: RunSource, run_id: str, watched: WatchedRun, show: Callable[[], None]) -> RunView:
    """The run once it is settled. The first look must succeed."""
    run = await runs.get(run_id)
    if run["status"] in SETTLED:
        return run
    async with aclosing(cast("Any", runs.events(run_id))) as events:
        async for event in events:
            watched.take(event)
            if event["kind"] == "state" and event["status"] in SETTLED:
                # It may have gone on since: this may be what was long ago.
                run = await _looked(runs, run_id)
                if run["status"] in SETTLED:
                    break
            show()
    return run


async def _looked(runs: RunSource, run_id: str) -> RunView:
    patience = Patience()
    while (run := await runs.look(run_id)) is None:
        await patience.wait()
    return run


@contextmanager
def _shown(watched: WatchedRun, as_json: bool) -> Iterator[Callable[[], None]]:
    """How to show a run: on lines that change, as a line per change, or not at all."""
    console = terminal()
    if as_json:
        yield lambda: None
    elif console.is_terminal:
        with Live(get_renderable=watched.render, console=console, refresh_per_second=4) as live:
            yield live.refresh
    else:
        yield _Changes(watched)


class _Changes:
    """Prints a run where it differs from the last time."""

    def __init__(self, watched: WatchedRun) -> None:
        self._watched = watched
        self._last = ""

    def __call__(self) -> None:
        line = line_of(self._watched.run).plain
        if line != self._last:
            self._last = line
            print(line)
            sys.stdout.flush()
