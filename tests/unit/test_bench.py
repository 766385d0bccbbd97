"""How the bench counts: percentiles, ratios, marks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from time import thread_time

import pytest

from tests.bench.__main__ import main
from tests.bench.figures import Figure, as_json, as_markdown, percentile, ratios, speed_figures
from tests.bench.orchestrator_report import OrchestratorReport, work_figures
from tests.bench.orchestrator_work import DOCUMENTS, Documents, corpus
from tests.bench.profiling import PARTS, Ledger
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


def test_a_figure_without_a_mark_is_for_orientation() -> None:
    figure = Figure("a figure", [1.5], None, "at most", "×")
    assert figure.met
    assert list(as_markdown([figure]))[-1] == "| a figure | 1.50 × | 1.50 × to 1.50 × |  |"
    assert as_json([figure])[0].keys() == {"title", "median", "rounds", "unit"}


def test_the_corpus_is_the_same_every_time() -> None:
    made = list(corpus(50_001))
    corpus.cache_clear()
    assert corpus(50_001) == made
    assert (len(made), len(set(made)), sum(len(text.encode()) for text in made)) == (DOCUMENTS, DOCUMENTS, 50_001)


@pytest.mark.parametrize("at_once", [1, 8])
async def test_each_document_is_read_once(at_once: int) -> None:
    read: list[str] = []

    async def way(_: str, payload: object) -> object:
        assert isinstance(payload, dict)
        read.append(payload["text"])
        return {"counts": {"characters": len(payload["text"])}}

    await Documents.at_once(at_once, 20_000).run(way, Sample())
    assert read == list(corpus(20_000))


async def _busy() -> None:
    until = thread_time() + 0.02
    while thread_time() < until:
        pass


async def test_a_ledger_charges_a_step_to_the_innermost_part() -> None:
    ledger = Ledger()
    outer, inner, _, _, last = PARTS

    async def stream() -> AsyncIterator[int]:
        await asyncio.sleep(0)
        yield 1
        await ledger._call(inner, _busy)()

    async def through() -> None:
        async for _ in ledger._stream(outer, stream)():
            await _busy()

    with ledger.open():
        await ledger._call(last, through)()
    assert ledger.seconds[inner] > ledger.seconds[outer]
    assert ledger.seconds[last] > ledger.seconds[outer]


async def test_a_ledger_lets_errors_through() -> None:
    async def fails() -> None:
        await asyncio.sleep(0)
        raise LookupError

    with pytest.raises(LookupError):
        await Ledger()._call("saves", fails)()
    task = asyncio.create_task(Ledger()._call("saves", asyncio.Event().wait)())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_the_figures_about_runs(tmp_path: Path) -> None:
    results = {
        "20ms:10": {"sync": [Sample(1.0)], "async": [Sample(0.5)], "ours": [Sample(1.05)]},
        "noop:10": {"sync": [Sample(1.0, 1.0)], "async": [Sample(1.0)], "ours": [Sample(2.0, 1.5)]},
        "extraction:1": {"loop": [Sample(1.0)], "ours": [Sample(1.2)]},
        "extraction:8": {"threads": [Sample(1.0)], "ours": [Sample(1.0)]},
    }
    figures = work_figures(results, 10, 1_000_000)
    assert [(round(figure.value, 2), figure.mark, figure.met) for figure in figures] == [
        (1.05, 1.1, True),
        (2.1, None, True),
        (2.0, None, True),
        (2.0, None, True),
        (1.2, 1.1, False),
        (1.0, 1.1, True),
        (1.5, None, True),
    ]
    ledger = Ledger()
    ledger.statements.update({"save": 20, "all": 30})
    ledger.items.update({"save": 130})
    OrchestratorReport({}, 1, False, 10, results, {"ours": ledger}, 10, figures).write(tmp_path / "runs.json")
    assert "| save | 2.00 (13.0) |" in (tmp_path / "runs.md").read_text()
    assert json.loads((tmp_path / "runs.json").read_text())["statements_of_a_run"] == {
        "ours": {"save": 2.0, "all": 3.0}
    }


@pytest.mark.parametrize("wrong", ["ours", "loop:noop:1", "sync:extraction:1", "ours:extraction:3", "ours:noop:0"])
def test_what_can_be_profiled_is_said(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["orchestrator", "--profile", wrong])
    assert "--profile" in capsys.readouterr().err
