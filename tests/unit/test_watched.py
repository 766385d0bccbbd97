"""What a watcher on a terminal is shown of a run's events."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from orchestrator.cli.watched import WatchedRun, line_of


def _shown(*events: dict[str, Any]) -> str:
    watched = WatchedRun()
    for number, event in enumerate(events, 1):
        watched.take({"number": number, "at": "2026-01-01T00:00:00.000Z", **event})
    console = Console(width=120, record=True, force_terminal=False)
    with console.capture() as capture:
        console.print(watched.render())
    return capture.get()


def _activity(name: str, status: str, **more: Any) -> dict[str, Any]:
    return {"kind": "activity", "activity": name, "status": status, "attempt": 1, "taskId": name, **more}


def _custom(payload: Any) -> dict[str, Any]:
    return {"kind": "custom", "payload": payload}


def test_activities_have_their_times() -> None:
    running = {"kind": "state", "status": "running", "attempt": 1}
    shown = _shown(running, _activity("one", "running"), _activity("one", "completed", seconds=1.25))
    assert shown.splitlines()[0].split() == ["running", "activity", "one", "attempt", "1"]
    assert shown.splitlines()[1].split() == ["one", "completed", "1.2", "s"]
    assert "two" in _shown(running, _activity("two", "running"))


@pytest.mark.parametrize(
    ("payload", "text"),
    [({"done": 3, "total": 4}, "3 of 4"), ({"done": 9, "total": 4}, "4 of 4"), ({"done": -1.5, "total": 4}, "0 of 4")],
)
def test_progress_is_a_bar(payload: Any, text: str) -> None:
    assert text in _shown(_custom(payload), _custom({"other": 1}))


@pytest.mark.parametrize(
    "payload", [None, 1, "done", [], {"done": 1}, {"done": "1", "total": 2}, {"done": 1, "total": 0}, {"total": 2}]
)
def test_what_is_no_progress(payload: Any) -> None:
    assert "progress" not in _shown(_custom(payload))


def test_a_wait_says_what_for() -> None:
    watched = WatchedRun()
    waits = [{"interruptId": "i", "signal": "approval", "value": None}]
    watched.take({"kind": "state", "status": "waiting", "attempt": 1, "waitingFor": waits, "at": ""})
    assert line_of(watched.run).plain == "waiting, for approval  attempt 1"
