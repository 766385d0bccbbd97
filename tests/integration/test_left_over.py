"""A batch that was cancelled half-way: one request is enough, whoever is killed."""

from __future__ import annotations

from typing import Any

import pytest

from checkpointer import CheckpointerSettings
from orchestrator import DatabaseUnavailableError, Orchestrator
from orchestrator.batches.flow import build_batch
from orchestrator.batches.service import list_documents, start_batch
from orchestrator.runs.model import Run, RunStatus
from orchestrator.runs.requests import Requests
from orchestrator.runs.store import Outcome
from orchestrator.workflows import build_extraction
from tests.runs import Stage, open_stage
from tests.waiting import until
from tests.worlds import postgres_world


class Killed(DatabaseUnavailableError):
    """As far as the database can see, the process is gone."""


@pytest.fixture
def cut_short(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Cancelling a batch ends its own run, and then nothing more, until this is undone."""

    async def killed(*args: Any) -> bool:
        raise Killed("killed")

    monkeypatch.setattr(Requests, "_cancel_children", killed)
    return monkeypatch


async def test_of_cancelled_batches_and_of_no_others(
    checkpointer_settings: CheckpointerSettings, cut_short: pytest.MonkeyPatch
) -> None:
    async with open_stage(checkpointer_settings) as stage:
        cancelled = [await stage.running() for _ in range(2)]
        goes_on, failed, alone = await stage.running(), await stage.running(), await stage.running()
        of = {
            parent.run_id: [await _child(stage, parent) for _ in range(3)] for parent in (*cancelled, goes_on, failed)
        }
        await stage.brought(of[cancelled[0].run_id][0], RunStatus.COMPLETED)
        await stage.ended(failed, Outcome(RunStatus.FAILED))
        for parent in cancelled:
            with pytest.raises(Killed):
                await stage.store.cancel(parent.run_id)
        cut_short.undo()
        assert await stage.store.cancel_left_over() == sorted(parent.run_id for parent in cancelled)
        assert await stage.store.cancel_left_over() == []
        assert await _statuses(stage, of[cancelled[0].run_id]) == ["completed", "cancelled", "cancelled"]
        assert await _statuses(stage, of[cancelled[1].run_id]) == ["cancelled"] * 3
        for parent in (goes_on, failed):
            assert await _statuses(stage, of[parent.run_id]) == ["pending"] * 3
        assert await _statuses(stage, [goes_on, failed, alone]) == ["running", "failed", "running"]


async def _child(stage: Stage, parent: Run) -> Run:
    return await stage.create(batch_id=parent.run_id, parent_run_id=parent.run_id)


async def _statuses(stage: Stage, runs: list[Run]) -> list[str]:
    return [str((await stage.again(run)).status) for run in runs]


async def test_the_next_process_ends_what_is_under_way(
    checkpointer_settings: CheckpointerSettings, cut_short: pytest.MonkeyPatch
) -> None:
    world = postgres_world(checkpointer_settings)
    world.settings = world.settings.model_copy(update={"worker_concurrency": 2})
    graphs: dict[str, Any] = {"batch": build_batch(), "extraction": build_extraction()}
    documents = [{"text": f"Acme bought Globex {number} times.", "id": str(number)} for number in range(6)]
    async with world.open(**graphs) as o:
        given = {"documents": documents, "throttleSeconds": 60}
        batch = (await start_batch(o, given, organization_id="default")).run

        async def under_way() -> bool:
            statuses = await _documents(o, batch)
            return statuses.count("running") == 2 and statuses.count("pending") == 4

        await until(under_way, what="two documents are read, and four wait")
        with pytest.raises(Killed):
            await o.cancel(batch.run_id)
        assert (await o.poll(batch.run_id)).status is RunStatus.CANCELLED
        cut_short.undo()
        async with world.open(**graphs) as other:

            async def over() -> bool:
                return set(await _documents(other, batch)) == {"cancelled"}

            await until(over, what="its documents' runs are cancelled")
        await until(lambda: not o._dispatcher.active(), what="nothing is driven any more")


async def _documents(orchestrator: Orchestrator, batch: Run) -> list[str]:
    rows = await list_documents(orchestrator.store, batch.run_id)
    return [str(run.status) for run in await orchestrator.store.get_many([str(row.run_id) for row in rows])]
