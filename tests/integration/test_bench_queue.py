"""The queue bench works from end to end, on a cluster and with workers of its own."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest

from tests.bench import queue, workloads
from tests.bench.__main__ import main
from tests.bench.statements import counted
from tests.postgres import Cluster

pytestmark = pytest.mark.usefixtures("quick_benches")


def test_a_quick_run_leaves_its_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # It is the way through that is tried here, not the figures.
    monkeypatch.setattr(workloads, "_MOST_REPEATS", 1)
    monkeypatch.setattr(workloads, "_QUIET_WITHIN_S", 0.2)
    monkeypatch.setattr(queue, "_WARM_STARTS", 1)
    numbers = tmp_path / "out" / "queue.json"
    sizes = ["--runs", "5", "--starts", "2", "--waiting", "3", "--enqueued", "10"]
    assert main(["queue", "--quick", "--rounds", "1", *sizes, "--json", str(numbers)]) == 0
    found = json.loads(numbers.read_text())
    assert found["seconds"]["noop:5"].keys() == {"one", "two", "scheduled", "busy"}
    assert found["starts_beside"].keys() == {"one", "scheduled", "busy"}
    assert [len(taken) for taken in found["starts"]] == [2]
    assert all(0 < start["began"] < start["over"] for taken in found["starts"] for start in taken)
    assert found["statements_of_a_run"]["fetch a job"] >= 1
    assert found["statements_of_a_run"]["finish runs"] > 0
    assert numbers.with_suffix(".png").stat().st_size > 0
    assert numbers.with_suffix(".md").read_text().startswith("| figure |")
    assert "beside 3 scheduled runs" in capsys.readouterr().out


async def test_statements_are_counted_by_kind(cluster: Cluster) -> None:
    async with await psycopg.AsyncConnection.connect(cluster.dsn(), autocommit=True) as conn:
        await conn.execute("CREATE TABLE known (number int)")
        async with counted(cluster.dsn(), cluster.directory / "log") as found:
            async with conn.transaction():
                await conn.execute("INSERT INTO known\n  VALUES (%s)", [1])
            await conn.execute("INSERT INTO known VALUES (2)")
            await conn.execute("")
        await conn.execute("SELECT 1")
    assert found.writing == 2
    assert found.by_kind["BEGIN and COMMIT"] == 2
    assert found.by_kind["check of a pooled connection"] == 1
    assert found.total == 5
