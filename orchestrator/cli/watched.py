"""A run as its events tell of it, for people's eyes: its state, its activities with their times, its progress."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.cli.following import EventView
from orchestrator.cli.run_source import RunView
from orchestrator.cli.tables import state_of, status_text

__all__ = ["WatchedRun", "line_of"]

_SHOWN_ACTIVITIES = 8
_BAR_WIDTH = 40


class WatchedRun:
    """What is known so far. Rendered by a thread of its own while events are taken."""

    def __init__(self) -> None:
        self.run: RunView = {
            "status": "pending",
            "attempt": 0,
            "currentActivity": None,
            "requested": None,
            "waitingFor": None,
            "retryAt": None,
            "error": None,
        }
        self._activities: dict[tuple[int, str], EventView] = {}
        self._progress: tuple[float, float] | None = None

    def take(self, event: EventView) -> None:
        """Learn from an event."""
        if event["kind"] == "state":
            state = {name: event.get(name) for name in ("status", "attempt", "waitingFor", "retryAt", "error")}
            self.run = {**self.run, **state, "currentActivity": event.get("activity")}
        elif event["kind"] == "activity":
            key = event["attempt"], event["taskId"]
            begun = self._activities.get(key, event)
            self._activities[key] = {**event, "began": begun.get("began", begun["at"])}
            if event["status"] == "running":
                self.run = {**self.run, "currentActivity": event["activity"]}
        elif event["kind"] == "custom" and (progress := _progress(event.get("payload"))):
            self._progress = progress

    def end(self, run: RunView) -> None:
        """The run as it is in the end."""
        self.run = run

    def render(self) -> RenderableType:
        """All of it on a few lines."""
        parts: list[RenderableType] = [line_of(self.run)]
        if activities := list(self._activities.values())[-_SHOWN_ACTIVITIES:]:
            table = Table.grid(padding=(0, 2))
            for each in activities:
                table.add_row(Text(f"  {each['activity']}"), status_text(each["status"]), Text(_took(each)))
            parts.append(table)
        if self._progress:
            done, total = self._progress
            row = Table.grid(padding=(0, 2))
            row.add_row(
                Text("  progress"),
                ProgressBar(total=total, completed=done, width=_BAR_WIDTH),
                Text(f"{done:g} of {total:g}"),
            )
            parts.append(row)
        return Group(*parts)


def line_of(run: RunView) -> Text:
    """How a run stands, on one line."""
    status = status_text(run["status"])
    parts = [status.append(state_of(run).removeprefix(status.plain))]
    if run["currentActivity"]:
        parts.append(Text(f"activity {run['currentActivity']}"))
    parts.append(Text(f"attempt {run['attempt']}", style="dim"))
    return Text("  ").join(parts)


def _progress(payload: Any) -> tuple[float, float] | None:
    """How much of what is done, where a node shows {"done", "total"}."""
    if not isinstance(payload, dict):
        return None
    done, total = payload.get("done"), payload.get("total")
    if isinstance(done, (int, float)) and isinstance(total, (int, float)) and total > 0:
        return min(max(done, 0), total), total
    return None


def _took(activity: EventView) -> str:
    if (seconds := activity.get("seconds")) is None:
        # By the clock here, which may be another than the database's.
        seconds = max((datetime.now(UTC) - datetime.fromisoformat(activity["began"])).total_seconds(), 0)
    return f"{seconds:.1f} s"
