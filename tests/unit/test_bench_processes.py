"""What the queue and the HTTP bench make of what they measured."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.bench.http_client import Saw
from tests.bench.http_report import HttpReport, http_figures
from tests.bench.http_work import LOADS, Measured
from tests.bench.queue_report import Cost, QueueReport, growth_figures, queue_figures
from tests.bench.queue_work import Start
from tests.bench.statements import Statements, kind_of
from tests.bench.workloads import Sample


def test_the_figures_about_the_queue(tmp_path: Path) -> None:
    starts = [[Start(0.001, 0.01, 0.02), Start(0.002, 0.08, 0.09)]]
    results = {
        "noop:10": {name: [Sample(1.0 if name == "one" else 2.0)] for name in ("one", "two", "scheduled", "busy")}
    }
    beside = {"one": starts, "scheduled": [[Start(0.001, 0.03, 0.04)]], "busy": starts}
    cost = Cost(10, {"worker": 0.05}, Statements(Counter({"fetch a job": 20, "finish runs": 10}), 40))
    figures = [*queue_figures(starts, results, 10, [500.0], cost), *growth_figures(results, beside, 7)]
    by_title = {figure.title: figure for figure in figures}
    assert by_title["start to first node, idle: p50"].met
    assert not by_title["start to first node, idle: p95"].met
    assert by_title["runs a second, two workers ÷ one"].value == 0.5
    assert by_title["statements of a run"].value == 3.0
    assert by_title["transactions of a run that write"].value == 4.0
    assert not by_title["runs a second, beside 7 scheduled runs ÷ without"].met
    assert by_title["start to first node, p50, beside 7 scheduled runs ÷ without"].value == pytest.approx(3.0)
    QueueReport({}, 1, False, starts, results, beside, cost, figures).write(tmp_path / "queue.json")
    assert "| fetch a job | 2.00 |" in (tmp_path / "queue.md").read_text()


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("", "check of a pooled connection"),
        ("COMMIT", "BEGIN and COMMIT"),
        ("SELECT id FROM procrastinate_fetch_job_v2($1, $2)", "fetch a job"),
        ("WITH turn AS MATERIALIZED (\n SELECT run_id FROM unnest($1, $2, $3) AS asked)", "claim runs by id"),
        ("WITH turn AS MATERIALIZED (SELECT run_id FROM workflow_metadata)", "claim runs by age"),
        ("-- Makes suspended runs pending\nUPDATE", "other: ticks, leases"),
    ],
)
def test_a_statement_is_of_one_kind(statement: str, kind: str) -> None:
    assert kind_of(statement) == kind


def test_the_figures_about_http(tmp_path: Path) -> None:
    saw = Saw(2.0, 0.1, [0.02] * 200)
    measured = {load.name: [Measured(saw, 1.0, {"client": 0.2, "server": 1.0, "PostgreSQL": 0.4})] for load in LOADS}
    figures = http_figures(measured, [saw], [2.5], [150.0])
    by_title = {figure.title: figure for figure in figures}
    assert [by_title[title].value for title in ("no-op nodes, 100 at once", "no-op nodes, one at a time: p50")] == [
        100.0,
        20.0,
    ]
    missed = {figure.title for figure in figures if not figure.met}
    assert missed == {"no-op nodes, 100 at once", "50 ms nodes, 100 at once", "start to healthy"}
    assert by_title["no-op nodes, 16 at once: time ÷ ainvoke, sync"].value == 2.0
    HttpReport({}, 1, False, measured, [saw], figures).write(tmp_path / "http.json")
    assert "| no-op nodes, 16 at once | 1.00 | 5.00 | 2.00 |" in (tmp_path / "http.md").read_text()
    assert json.loads((tmp_path / "http.json").read_text())["others_not_measured_here"][1][0] == "Aegra 0.11.0"
