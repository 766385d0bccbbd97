"""The HTTP bench works from end to end, with a server and a client as processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench.__main__ import main

pytestmark = pytest.mark.usefixtures("quick_benches")


def test_a_quick_run_leaves_its_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = tmp_path / "out" / "http.json"
    assert main(["http", "--quick", "--rounds", "1", "--share", "1000", "--json", str(numbers)]) == 0
    found = json.loads(numbers.read_text())
    assert found["loads"].keys() == {"five:1", "five:16", "five:100", "five_50ms:100"}
    (alone,) = found["loads"]["five:1"]
    assert len(alone["saw"]["each"]) == 1
    assert alone["ainvoke_s"] > 0
    assert alone["cpu"].keys() == {"client", "server", "PostgreSQL"}
    by_title = {figure["title"]: figure["median"] for figure in found["figures"]}
    assert by_title["start to healthy"] > 0
    assert by_title["resident memory after the load"] > 0
    assert numbers.with_suffix(".png").stat().st_size > 0
    assert numbers.with_suffix(".md").read_text().startswith("| figure |")
    assert "they were not measured here" in capsys.readouterr().out


def test_a_profile_is_printed_and_nothing_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = tmp_path / "http.json"
    arguments = ["http", "--profile", "five:1", "--share", "1000", "--lines", "5", "--json", str(numbers)]
    assert main(arguments) == 0
    assert "function calls" in capsys.readouterr().out
    assert not numbers.exists()
