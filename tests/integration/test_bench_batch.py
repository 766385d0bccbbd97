"""The batch bench works from end to end, on a cluster and with workers of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench import batch
from tests.bench.__main__ import main
from tests.bench.batch_corpus import write_corpus

pytestmark = pytest.mark.usefixtures("quick_benches")


def test_a_quick_run_leaves_its_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # It is the way through that is tried here, not the figures.
    monkeypatch.setattr(batch, "_WARM_UP", 2)
    monkeypatch.setattr(batch, "_SIZES", (0.5, 1.0))
    monkeypatch.setattr(batch, "_TOLD_EVERY_S", 0.01)
    numbers = tmp_path / "out" / "batch.json"
    sizes = ["--documents", "4", "--watchers", "3"]
    assert main(["batch", "--quick", "--rounds", "1", *sizes, "--json", str(numbers)]) == 0
    found = json.loads(numbers.read_text())
    [pair] = found["pairs"]
    assert min(pair["batch_s"], pair["loop_s"]) > 0
    assert found["peak_mib"].keys() == {"2", "4"}
    assert found["statements_of_a_document"]["finish runs"] > 0
    delays = next(figure for figure in found["figures"] if figure["title"].endswith("3 watchers: p95"))
    assert delays["median"] > 0
    assert numbers.with_suffix(".png").stat().st_size > 0
    assert numbers.with_suffix(".md").read_text().startswith("| figure |")
    assert "documents a second, batch ÷ loop" in capsys.readouterr().out


def test_the_corpus_is_the_same_each_time(tmp_path: Path) -> None:
    one, other = (write_corpus(tmp_path / name, 3) for name in ("one", "other"))
    texts = [file.read_text() for file in sorted(one.iterdir())]
    assert texts == [file.read_text() for file in sorted(other.iterdir())]
    assert len(set(texts)) == 3
    assert all(3000 < len(text) < 6000 for text in texts)
