"""The recovery and the soak bench work from end to end, with servers killed and loaded; and so does the page of all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench import recovery_work, soak
from tests.bench.__main__ import main

pytestmark = pytest.mark.usefixtures("quick_benches")


def test_a_server_is_killed_and_its_runs_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery_work, "_BEATS", 8)
    numbers = tmp_path / "recovery.json"
    assert main(["recovery", "--rounds", "1", "--freezes", "0", "--runs", "2", "--json", str(numbers)]) == 0
    [recovery] = json.loads(numbers.read_text())["recoveries"]
    assert (recovery["fault"], recovery["lost"], recovery["repeated"]) == ("SIGKILL", 0, 0)
    assert len(recovery["seconds"]) == 2
    assert all(seconds > 0 for seconds in recovery["seconds"])
    assert numbers.with_suffix(".png").stat().st_size > 0
    assert "the next node elsewhere after" in capsys.readouterr().out
    page = tmp_path / "report.html"
    assert main(["--page-only", "--only", "recovery,soak", "--out", str(tmp_path)]) == 0
    text = page.read_text()
    assert "data:image/png;base64," in text
    assert "<td>runs that did not complete</td>" in text
    assert "It has not been run." in text
    assert not [link for link in ("http://", "https://", 'src="/', "<script") if link in text]


def test_a_load_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "_BATCH", 20)
    monkeypatch.setattr(soak, "_LOOK_EVERY_S", 0.2)
    numbers = tmp_path / "soak.json"
    assert main(["soak", "--seconds", "1", "--json", str(numbers)]) == 0
    found = json.loads(numbers.read_text())
    for looks in (found["with_retention"], found["without"]):
        assert looks[-1]["runs"] > 0
        assert all(look["resident_mib"] > 10 and look["stored_mib"] > 1 for look in looks)
    assert "| forgotten after 2 s |" in numbers.with_suffix(".md").read_text()


def test_a_bench_that_breaks_is_told_and_the_page_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: object) -> int:
        raise RuntimeError("no <room>")

    monkeypatch.setattr(soak, "main", broken)
    assert main(["--only", "soak", "--out", str(tmp_path)]) == 1
    assert "It broke: RuntimeError: no &lt;room&gt;" in (tmp_path / "report.html").read_text()
    assert main(["--only", "soak,nonsense"]) == 2
    assert "there is no bench 'nonsense'" in capsys.readouterr().err
