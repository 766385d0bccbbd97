"""The orchestrator bench works from end to end, on a cluster of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench import orchestrator, workloads
from tests.bench.__main__ import main

pytestmark = pytest.mark.usefixtures("quick_benches")


@pytest.fixture(autouse=True)
def _once_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything once: it is the way through that is tried here, not the figures."""
    monkeypatch.setattr(workloads, "_MOST_REPEATS", 1)
    monkeypatch.setattr(workloads, "_QUIET_WITHIN_S", 0.2)
    monkeypatch.setattr(orchestrator, "_LONE_STARTS", 2)
    monkeypatch.setattr(orchestrator, "_LEDGER_ROUNDS", 1)


def test_a_quick_run_leaves_its_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = tmp_path / "out" / "runs.json"
    arguments = ["orchestrator", "--quick", "--rounds", "1", "--runs", "3", "--corpus", "16", "--json", str(numbers)]
    assert main(arguments) == 0
    found = json.loads(numbers.read_text())
    assert found["seconds"].keys() == {"20ms:3", "noop:3", "extraction:1", "extraction:8"}
    by_title = {figure["title"]: figure["median"] for figure in found["figures"]}
    assert by_title["start, one at a time: statements"] == 1
    assert found["statements_of_a_run"]["ours"]["finish"] > 0
    assert "create" not in found["statements_of_a_run"]["sync"]
    assert found["cpu_us_of_a_run"]["sync"]["transitions"] == 0
    assert numbers.with_suffix(".png").stat().st_size > 0
    assert numbers.with_suffix(".md").read_text().startswith("| figure |")
    assert "extraction, 0.016 MB, eight at a time" in capsys.readouterr().out


def test_a_profile_is_printed_and_nothing_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = tmp_path / "runs.json"
    assert main(["orchestrator", "--profile", "ours:noop:3", "--lines", "5", "--json", str(numbers)]) == 0
    assert "ours, noop:3, without the profiler" in capsys.readouterr().out
    assert not numbers.exists()
