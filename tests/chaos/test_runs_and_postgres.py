"""PostgreSQL crashes while two servers drive a hundred runs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.chaos.fleet import open_fleet
from tests.chaos.graphs import LONG
from tests.postgres import Cluster
from tests.waiting import until

pytestmark = pytest.mark.chaos
RUNS = 100


async def test_a_hundred_runs_outlive_two_crashes(cluster: Cluster, tmp_path: Path) -> None:
    async with open_fleet(tmp_path, cluster.dsn()) as fleet:
        run_ids = await asyncio.gather(
            *(fleet.invoke(fleet.servers[number % 2], "long", {"work_s": 0.1}) for number in range(RUNS))
        )
        for share in (RUNS * 3, RUNS * 7):
            await until(lambda share=share: len(fleet.journal.entries(event="enter")) >= share)  # type: ignore[misc]
            await asyncio.to_thread(cluster.restart, "immediate")
        rows = await fleet.completed(*run_ids, timeout_s=120)
        assert len(fleet.rows("SELECT FROM workflow_metadata")) == RUNS
        taken = 0
        for row in rows:
            run_id = str(row["run_id"])
            assert row["output"]["trace"] == [*LONG]
            # A node runs again only in a further attempt, and no finished one does.
            ran = fleet.journal.forward(run_id, LONG)
            assert ran.total() - len(LONG) <= row["attempt"] - 1
            assert fleet.steps(row["thread_id"]) == list(range(-1, len(LONG) + 1))
            fleet.agree(run_id)
            taken += row["losses"]
        print(f"{taken} of {RUNS} runs were taken over")
