"""Runs for people's eyes: the API's answers as tables and lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, TypeAlias

from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = [
    "Row",
    "moment",
    "print_activities",
    "print_history",
    "print_json",
    "print_page",
    "print_run",
    "print_table",
    "state_of",
    "status_text",
    "terminal",
    "waits_of",
]

Row: TypeAlias = Mapping[str, Any]

_COLOURS = {
    "completed": "green",
    "failed": "red",
    "lost": "red",
    "cancelled": "red",
    "running": "cyan",
    "pending": "dim",
    "waiting": "magenta",
    "interrupted": "magenta",
    "paused": "yellow",
    "suspended": "yellow",
}
_ASKED = {"pause": "pauses at its next checkpoint", "supersede": "makes way at its next checkpoint"}
# A pipe has no width; what reads it wants whole lines.
_PIPE_WIDTH = 400
_LABEL_CHARS = 18


def terminal() -> Console:
    """Where to print: as wide as the terminal, or as wide as any line where there is none."""
    console = Console()
    return console if console.is_terminal else Console(width=_PIPE_WIDTH)


def print_json(value: Any) -> None:
    """Print for machines."""
    print(json.dumps(value, indent=2))


def print_page(page: Mapping[str, Any]) -> None:
    """Print a page of runs."""
    columns: dict[str, Callable[[Row], Text]] = {
        "run": lambda run: Text(run["runId"]),
        "workflow": lambda run: Text(run["workflow"]),
        "status": lambda run: status_text(run["status"]),
        "attempt": lambda run: Text(str(run["attempt"])),
        "activity": lambda run: Text(run["currentActivity"] or ""),
        "created (UTC)": lambda run: moment(run["createdAt"]),
        "thread": lambda run: Text("its own" if run["threadId"] == run["runId"] else run["threadId"]),
    }
    print_table(columns, page["runs"], "no runs")
    if page.get("nextCursor"):
        terminal().print(f"more with --cursor {page['nextCursor']}", soft_wrap=True)


def print_activities(answer: Mapping[str, Any]) -> None:
    """Print what a run went through."""
    columns: dict[str, Callable[[Row], Text]] = {
        "activity": lambda row: Text(row["activity"]),
        "attempt": lambda row: Text(str(row["attempt"])),
        "status": lambda row: status_text(row["status"]),
        "started (UTC)": lambda row: moment(row["startedAt"]),
        "took": _took,
        "error": lambda row: Text((row["error"] or "").partition("\n")[0]),
    }
    print_table(columns, answer["activities"], "no activities")


def print_history(answer: Mapping[str, Any]) -> None:
    """Print a run's checkpoints."""
    columns: dict[str, Callable[[Row], Text]] = {
        "step": lambda row: Text(str(row["step"])),
        "checkpoint": lambda row: Text(row["checkpointId"]),
        "source": lambda row: Text(row["source"]),
        "next": lambda row: Text(", ".join(row["next"]) or "the end"),
        "created (UTC)": lambda row: moment(row["createdAt"]),
    }
    print_table(columns, answer["checkpoints"], "no checkpoints")


def print_run(run: Row) -> None:
    """Print everything that is known of a run."""
    console = terminal()
    for name, value in run.items():
        if value is None:
            continue
        style = ""
        if name == "status":
            style = _COLOURS.get(value, "")
        elif name == "error":
            style = "red"
        for index, line in enumerate(_lines(name, value)):
            label = "" if index else name
            console.print(Text(f"{label:{_LABEL_CHARS}}{line}", style=style), soft_wrap=True)
        if name == "error":
            console.print(Text(value.get("traceback", "")), soft_wrap=True)


def status_text(status: str) -> Text:
    """A state in its colour."""
    return Text(status, style=_COLOURS.get(status, ""))


def state_of(run: Row) -> str:
    """How a run stands, in a line: its state and why it is in it."""
    reasons = {
        "waiting": lambda: f"for {', '.join(waits_of(run)) or 'a resume'}",
        "suspended": lambda: f"retried at {run['retryAt']}" if run["retryAt"] else "",
        "failed": lambda: _error(run["error"] or {}),
        "cancelled": lambda: _error(run["error"] or {}),
    }
    reason = reasons.get(run["status"], lambda: "")() or _ASKED.get(run["requested"] or "", "")
    return f"{run['status']}, {reason}" if reason else str(run["status"])


def waits_of(run: Row) -> list[str]:
    """The names of the signals that a run waits for."""
    return [wait["signal"] or "any signal" for wait in run["waitingFor"] or ()]


def _lines(name: str, value: Any) -> Iterable[str]:
    if name == "waitingFor":
        return [
            f"{wait['signal'] or 'any signal'}: {json.dumps(wait['value'])} (interrupt {wait['interruptId']})"
            for wait in value
        ]
    if name == "signals":
        return [_signal(signal) for signal in value]
    if name == "error":
        return [_error(value)]
    return [value if isinstance(value, str) else json.dumps(value, indent=2)]


def _signal(signal: Row) -> str:
    status = "kept for a wait to come" if signal["status"] == "kept" else f"delivered to {signal['interruptId']}"
    key = f", key {signal['key']}" if signal["key"] else ""
    return f"{signal['name']}: {json.dumps(signal['payload'])} ({status}, sent {signal['createdAt']}{key})"


def _error(error: Row) -> str:
    return f"{error.get('type')}: {error.get('message')}" if error else ""


def print_table(columns: Mapping[str, Callable[[Row], Text]], rows: list[Row], nothing: str) -> None:
    """Print rows, each cell made by its column; where there are none, `nothing`."""
    table = Table(box=None, pad_edge=False)
    cells = [[cell(row) for cell in columns.values()] for row in rows]
    # Where a line is too long all columns give way, but not the first: an id without its end is of no use.
    widest = max((line[0].cell_len for line in cells), default=0)
    for number, title in enumerate(columns):
        table.add_column(title, no_wrap=True, min_width=None if number else widest)
    for line in cells:
        table.add_row(*line)
    terminal().print(table if rows else nothing)


def moment(value: str) -> Text:
    """A time to the second."""
    return Text(value.replace("T", " ").partition(".")[0])


def _took(row: Row) -> Text:
    if not row["endedAt"]:
        return Text("")
    started, ended = (datetime.fromisoformat(row[name]) for name in ("startedAt", "endedAt"))
    return Text(f"{(ended - started).total_seconds():.3f} s")
