"""The crowd bench works from end to end, on a cluster of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench import crowd as bench
from tests.bench.__main__ import main

pytestmark = pytest.mark.usefixtures("quick_benches")


def test_a_small_crowd_leaves_its_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_LEAST_S", 0.05)
    monkeypatch.setattr(bench, "_MOST_S", 0.15)
    numbers = tmp_path / "crowd.json"
    assert main(["crowd", "--seconds", "1", "--sizes", "3", "--json", str(numbers)]) == 0
    found = json.loads(numbers.read_text())
    [crowd] = found["crowds"]
    assert (crowd["size"], crowd["errors"]) == (3, 0)
    assert 0 < crowd["completed"] * 5 <= crowd["saves"]
    assert {figure["title"] for figure in found["figures"]} >= {"3 at once: save p95", "3 at once: load p95"}
    assert numbers.with_suffix(".png").stat().st_size > 0
