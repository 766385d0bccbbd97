"""How long what is kept: the syntax, which entry counts, and the queries that come of it."""

from __future__ import annotations

import pytest

from checkpointer import SettingsError
from orchestrator import OrchestratorSettings
from orchestrator.keeping import KeepClass, KeepFor, parse_duration

DAY = 86_400.0


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("15m", 900), ("12h", 43_200), ("30d", 30 * DAY)])
def test_times(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


def test_the_most_specific_entry_counts() -> None:
    keep = KeepFor.parse("30d, completed=7d, extraction:completed=1d, audit:*=forever, cancelled=forever")
    assert keep.seconds("agent", "failed") == 30 * DAY
    assert keep.seconds("agent", "completed") == 7 * DAY
    assert keep.seconds("extraction", "completed") == DAY
    assert keep.seconds("extraction", "failed") == 30 * DAY
    assert keep.seconds("audit", "completed") is None
    assert keep.seconds("agent", "cancelled") is None


def test_what_no_entry_is_for_is_kept() -> None:
    assert KeepFor.parse("completed=1d").seconds("agent", "failed") is None


def test_classes_are_apart_and_leave_out_what_is_kept_for_good() -> None:
    keep = KeepFor.parse("completed=7d,extraction:completed=1d,audit:*=forever")
    assert list(keep.classes()) == [
        KeepClass("completed", "extraction", (), DAY),
        KeepClass("completed", None, ("audit", "extraction"), 7 * DAY),
    ]
    assert list(keep.classes(workflow="agent")) == [KeepClass("completed", "agent", (), 7 * DAY)]
    assert list(keep.classes(workflow="audit")) == []
    assert list(keep.classes(status="failed")) == []


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("30", "30"),
        ("-1d", "-1d"),
        ("1.5d", "1.5d"),
        ("30d,", ""),
        ("running=1d", "running=1d"),
        ("extraction=1d", "extraction=1d"),
        (":completed=1d", ":completed=1d"),
        ("a:running=1d", "a:running=1d"),
        ("completed=", "completed="),
        ("completed=1d,completed=2d", "completed=2d"),
    ],
)
@pytest.mark.parametrize("name", ["RUN_KEEP_FOR", "CHECKPOINT_KEEP_FOR"])
def test_what_does_not_parse_is_named(monkeypatch: pytest.MonkeyPatch, name: str, text: str, entry: str) -> None:
    monkeypatch.setenv(name, text)
    with pytest.raises(SettingsError) as caught:
        OrchestratorSettings()
    message = str(caught.value)
    assert message.startswith(f"{name}={text!r} can't be used: it takes a time such as 30d")
    assert repr(entry) in message


def test_settings() -> None:
    settings = OrchestratorSettings(run_keep_for="completed=7d", checkpoint_keep_last=3)
    assert settings.runs_keep_for == KeepFor.parse("completed=7d")
    assert settings.checkpoints_keep_for is None
    with pytest.raises(SettingsError, match="CHECKPOINT_KEEP_LAST"):
        OrchestratorSettings(checkpoint_keep_last=0)
