"""How the bench counts: percentiles, ratios, marks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.__main__ import main
from tests.bench.figures import Figure, percentile, ratios, speed_figures
from tests.bench.storage_figures import storage_figures
from tests.bench.storage_report import StorageReport
from tests.bench.threads import State
from tests.bench.workloads import Sample


def test_percentile_is_the_nearest_rank() -> None:
    values = [float(number) for number in range(100, 0, -1)]
    assert (percentile(values, 50), percentile(values, 95), percentile([7.0], 95)) == (50.0, 95.0, 7.0)


def test_ratios_are_taken_within_a_round() -> None:
    measured = {"stock": [Sample(10.0), Sample(40.0)], "ours": [Sample(1.0), Sample(2.0)]}
    assert ratios(measured, "stock", "ours") == [10.0, 20.0]
    (figure,) = speed_figures({"ops:100": measured})
    assert (figure.value, figure.met) == (15.0, True)


@pytest.mark.parametrize(("bound", "met"), [("at least", False), ("at most", True)])
def test_a_mark_is_a_floor_or_a_ceiling(bound: str, met: bool) -> None:
    figure = Figure("a figure", [1.0, 9.0, 2.0], 3.0, bound, "ms")  # type: ignore[arg-type]
    assert (figure.value, figure.met, figure.shown(figure.value)) == (2.0, met, "2.0 ms")


def test_a_bench_that_does_not_exist_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["savers"]) == 2
    assert "saver" in capsys.readouterr().err


def test_the_figures_about_storage(tmp_path: Path) -> None:
    states = {
        "stock": [State(400, {"checkpoint_blobs": 8_000, "checkpoints": 1_000}, 5_000, [[0.4, 0.5]], [[0.1]])],
        "shared": [
            State(400, {"checkpoint_blobs": 100, "checkpoints": 100}, 100, [[0.1, 0.2]], [[0.2]]),
            State(2000, {"checkpoint_blobs": 900, "checkpoints": 300}, 900, [[0.2]], [[0.4]]),
        ],
    }
    figures = storage_figures(states)
    assert [(round(figure.value, 1), figure.met) for figure in figures] == [
        (45.0, True),
        (50.0, True),
        (6.0, True),
        (4.0, True),
        (2.0, False),
    ]
    StorageReport({}, 1, False, states, figures).write(tmp_path / "storage.json")
    assert "| 2,000 | ours, shared | 0.00 | 0.00 | 200.0 |" in (tmp_path / "storage.md").read_text()
