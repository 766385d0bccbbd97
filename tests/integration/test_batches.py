"""Batches end to end, over memory and over PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator import Orchestrator, Run, RunStatus
from orchestrator.batches.flow import build_batch
from orchestrator.batches.model import BatchState, DocumentState, Progress
from orchestrator.batches.service import (
    BatchNotFoundError,
    NothingToRetryError,
    find_batch,
    list_documents,
    retry_batch,
    start_batch,
    view_batch,
)
from orchestrator.batches.stores import stores_of
from orchestrator.errors import IdempotencyConflictError, InvalidRequestError
from orchestrator.workflows import build_extraction
from tests.graphs import failing
from tests.waiting import until
from tests.worlds import World

TEXTS = {
    "a.md": "# Acme\n\nAcme Corporation acquired Globex in 2019. John Smith founded Acme Corporation in Berlin.",
    "b.txt": "Globex was founded by Hank Scorpio. Hank Scorpio lives in Cypress Creek.",
    "sub/c.txt": "Acme Corporation employs Hank Scorpio. Globex is based in Cypress Creek.",
}
STAGES = [state for state in BatchState if state not in (BatchState.PENDING, BatchState.COMPLETE, BatchState.FAILED)]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    root = tmp_path / "corpus"
    for name, text in TEXTS.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@asynccontextmanager
async def opened(world: World, root: Path | None = None) -> AsyncIterator[Orchestrator]:
    async with world.open(batch=build_batch(documents=root), extraction=build_extraction()) as orchestrator:
        yield orchestrator


async def ended(orchestrator: Orchestrator, given: Mapping[str, Any], **options: Any) -> Run:
    created = await start_batch(orchestrator, dict(given), organization_id="default", **options)
    return await orchestrator.wait(created.run.run_id, timeout=60)


async def test_a_directory_becomes_knowledge(world: World, corpus: Path) -> None:
    async with opened(world, corpus) as orchestrator:
        run = await ended(orchestrator, {"paths": ["."], "title": "all of it"})
        assert run.status is RunStatus.COMPLETED, run.error
        whole = {"done": 3, "total": 3, "failed": 0}
        assert {name: run.output[name] for name in map(str, STAGES)} == dict.fromkeys(map(str, STAGES), whole)
        assert run.output["knowledge"]["documents"] == 3
        batch = await view_batch(orchestrator.store, run)
        assert (batch.state, batch.title, batch.policy) == (BatchState.COMPLETE, "all of it", "some")
        assert batch.progress == dict.fromkeys(STAGES, Progress(3, 3, 0))
        rows = await list_documents(orchestrator.store, run.run_id)
        assert [row.key for row in rows] == ["a.md", "b.txt", "sub/c.txt"]
        assert {row.state for row in rows} == {DocumentState.INGESTED}
        for row in rows:
            child = await orchestrator.poll(str(row.run_id))
            assert (child.batch_id, child.parent_run_id) == (run.run_id, run.run_id)
            assert (child.workflow_type, child.thread_id) == ("extraction", child.run_id)
        names = {each.name for each in await stores_of(orchestrator.store).knowledge.entities("default", run.run_id)}
        assert {"Acme Corporation", "Globex", "Hank Scorpio"} <= names
        kinds = [event.kind async for event in orchestrator.stream(run.run_id)]
        assert kinds.count("document") == 3


async def test_documents_that_fail_are_left_out(world: World, corpus: Path) -> None:
    (corpus / "bad.txt").write_bytes(b"binary\x00")
    (corpus / "empty.md").write_text("   ")
    (corpus / "lines.jsonl").write_text('{"text": "Globex employs Homer Simpson."}\nnonsense\n')
    async with opened(world, corpus) as orchestrator:
        run = await ended(orchestrator, {"paths": [".", "missing.txt", "../outside.txt"]})
        assert run.status is RunStatus.COMPLETED, run.error
        batch = await view_batch(orchestrator.store, run)
        assert batch.progress[BatchState.PREPROCESSING] == Progress(4, 9, 5)
        assert batch.progress[BatchState.INGESTING] == Progress(4, 4, 0)
        failed = await list_documents(orchestrator.store, run.run_id, only_failed=True)
        errors = {row.key: (row.error or {})["type"].rpartition(".")[2] for row in failed}
        assert errors == {
            "bad.txt": "BinaryDocumentError",
            "empty.md": "EmptyDocumentError",
            "lines.jsonl:2": "BrokenDocumentError",
            "missing.txt": "UnreadableDocumentError",
            "../outside.txt": "DocumentLinkError",
        }
        # Where the documents lie is nobody's business.
        assert not any(str(corpus.parent) in f"{row.key} {row.name} {row.error}" for row in failed)


async def test_with_the_policy_all_one_failure_fails_the_batch(world: World, corpus: Path) -> None:
    (corpus / "empty.md").write_text("")
    async with opened(world, corpus) as orchestrator:
        run = await ended(orchestrator, {"paths": ["."], "policy": "all"})
        assert run.status is RunStatus.FAILED
        assert run.error is not None
        assert run.error["type"] == "orchestrator.batches.model.BatchFailedError"
        assert run.error["message"] == (
            "1 of 4 documents failed (1 in preprocessing), and all must succeed (policy all): "
            "empty.md: 'empty.md' is empty"
        )
        batch = await view_batch(orchestrator.store, run)
        assert batch.state is BatchState.FAILED
        assert {row.state for row in await list_documents(orchestrator.store, run.run_id)} == {
            DocumentState.PENDING,
            DocumentState.FAILED,
        }


async def test_a_batch_of_which_nothing_is_left_fails(world: World, corpus: Path) -> None:
    async with opened(world, corpus) as orchestrator:
        run = await ended(orchestrator, {"paths": ["missing.txt"]})
        assert run.status is RunStatus.FAILED
        assert "none is left" in (run.error or {})["message"]
        (corpus / "void").mkdir()
        run = await ended(orchestrator, {"paths": ["void"]})
        assert "has no documents" in (run.error or {})["message"]


async def test_failed_documents_are_tried_again_alone(world: World, corpus: Path) -> None:
    (corpus / "late.jsonl").write_text('{"text": "Globex employs Homer Simpson."}\nnonsense\n')
    async with opened(world, corpus) as orchestrator:
        run = await ended(orchestrator, {"paths": ["."], "title": "t"})
        (corpus / "late.jsonl").write_text('{"text": "changed"}\n{"text": "Acme Corporation employs Lenny Leonard."}\n')
        again = await retry_batch(orchestrator, run, idempotency_key="k")
        assert not (await retry_batch(orchestrator, run, idempotency_key="k")).is_new
        second = await orchestrator.wait(again.run.run_id, timeout=60)
        assert (second.status, second.parent_run_id) == (RunStatus.COMPLETED, run.run_id)
        [row] = await list_documents(orchestrator.store, second.run_id)
        assert (row.key, row.state) == ("late.jsonl:2", DocumentState.INGESTED)
        assert (await view_batch(orchestrator.store, second)).title == "t"
        with pytest.raises(NothingToRetryError):
            await retry_batch(orchestrator, second)


async def test_inline_documents(world: World) -> None:
    documents = [{"text": text, "id": name} for name, text in TEXTS.items()] + [{"text": "nul \0"}, {"text": " "}]
    async with opened(world) as orchestrator:
        run = await ended(orchestrator, {"documents": documents})
        assert run.status is RunStatus.COMPLETED, run.error
        rows = await list_documents(orchestrator.store, run.run_id)
        assert [row.key for row in rows] == [*TEXTS, "#4", "#5"]
        again = await retry_batch(orchestrator, run)
        second = await orchestrator.wait(again.run.run_id, timeout=60)
        assert second.status is RunStatus.FAILED
        assert [row.key for row in await list_documents(orchestrator.store, second.run_id)] == ["#4", "#5"]


async def test_a_document_whose_run_is_cancelled_has_failed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [{"text": text, "id": name} for name, text in TEXTS.items()]
    looked = asyncio.Event()

    async def pause(seconds: float) -> None:
        await looked.wait()

    monkeypatch.setattr("orchestrator.workflows.extraction.graph.pause", pause)
    async with opened(world) as orchestrator:
        given = {"documents": documents, "throttleSeconds": 1}
        created = await start_batch(orchestrator, given, organization_id="default")

        async def started() -> Any:
            rows = await list_documents(orchestrator.store, created.run.run_id)
            return len(rows) == 3 and all(row.state is DocumentState.EXTRACTING for row in rows) and rows

        rows = await until(started)
        await orchestrator.cancel(str(rows[0].run_id))
        batch = await view_batch(orchestrator.store, await orchestrator.poll(created.run.run_id))
        assert batch.progress[BatchState.EXTRACTING] == Progress(0, 3, 1)
        looked.set()
        run = await orchestrator.wait(created.run.run_id, timeout=60)
        assert run.status is RunStatus.COMPLETED
        [failed] = await list_documents(orchestrator.store, run.run_id, only_failed=True)
        assert failed.error == {"type": "CancelledError", "message": "the run was cancelled", "state": "extracting"}


async def test_a_batch_that_is_cancelled_takes_its_runs_with_it(world: World) -> None:
    world.settings = world.settings.model_copy(update={"worker_concurrency": 2})
    documents = [{"text": text, "id": f"{name} {number}"} for name, text in TEXTS.items() for number in range(2)]
    async with opened(world) as orchestrator:
        given = {"documents": documents, "throttleSeconds": 20}
        created = await start_batch(orchestrator, given, organization_id="default")

        async def children() -> list[Run]:
            rows = await list_documents(orchestrator.store, created.run.run_id)
            return await orchestrator.store.get_many([str(row.run_id) for row in rows])

        async def under_way() -> bool:
            # The runs are there a moment before their documents say so.
            rows = await list_documents(orchestrator.store, created.run.run_id)
            if {row.state for row in rows} != {DocumentState.EXTRACTING}:
                return False
            statuses = [child.status for child in await children()]
            return statuses.count(RunStatus.RUNNING) == 2 and statuses.count(RunStatus.PENDING) == 4

        await until(under_way, what="two documents are read, and four wait")
        await orchestrator.cancel(created.run.run_id)
        assert {child.status for child in await children()} == {RunStatus.CANCELLED}
        assert (await orchestrator.cancel(created.run.run_id)).status is RunStatus.CANCELLED
        await until(lambda: not orchestrator._dispatcher.active(), what="nothing is driven any more")
        batch = await view_batch(orchestrator.store, await orchestrator.poll(created.run.run_id))
        assert (batch.state, batch.progress[BatchState.EXTRACTING]) == (BatchState.FAILED, Progress(0, 6, 6))
        row = (await list_documents(orchestrator.store, created.run.run_id))[0]
        assert row.error == {"type": "CancelledError", "message": "the batch was cancelled", "state": "extracting"}


async def test_the_same_key_is_the_same_batch(world: World, corpus: Path) -> None:
    async with opened(world, corpus) as orchestrator:
        run = await ended(orchestrator, {"paths": ["a.md"]}, idempotency_key="k")
        assert (await ended(orchestrator, {"paths": ["a.md"]}, idempotency_key="k")).run_id == run.run_id
        with pytest.raises(IdempotencyConflictError):
            await ended(orchestrator, {"paths": ["b.txt"]}, idempotency_key="k")


async def test_two_batches_over_the_same_documents(world: World, corpus: Path) -> None:
    async with opened(world, corpus) as orchestrator:
        runs = await asyncio.gather(ended(orchestrator, {"paths": ["."]}), ended(orchestrator, {"paths": ["b.txt"]}))
        assert {run.status for run in runs} == {RunStatus.COMPLETED}
        knowledge = stores_of(orchestrator.store).knowledge
        first, second = [{one.entity_id for one in await knowledge.entities("default", run.run_id)} for run in runs]
        assert second < first
        alone = await ended(orchestrator, {"paths": ["."]})
        assert alone.output["knowledge"] | {"merges": 0} == runs[0].output["knowledge"] | {"merges": 0}


async def test_at_most_so_many_are_under_way_at_once(world: World) -> None:
    world.settings = world.settings.model_copy(update={"worker_concurrency": 2})
    documents = [{"text": f"Acme Corporation employs Person{number} Smith."} for number in range(12)]
    async with opened(world) as orchestrator:
        given = {"documents": documents, "throttleSeconds": 0.01}
        created = await start_batch(orchestrator, given, organization_id="default")
        most = 0
        while not (run := await orchestrator.poll(created.run.run_id)).is_final:
            rows = await list_documents(orchestrator.store, created.run.run_id)
            # All in one look: of several, each would see another moment.
            children = await orchestrator.store.get_many([str(row.run_id) for row in rows])
            most = max(most, sum(child.status is RunStatus.RUNNING for child in children))
            await asyncio.sleep(0)
        assert run.status is RunStatus.COMPLETED
        assert 0 < most <= 2


async def test_what_can_not_be_a_batch_is_refused(world: World) -> None:
    async with opened(world) as orchestrator:
        refused: list[dict[str, Any]] = [
            {},
            {"paths": []},
            {"paths": ["a"], "documents": []},
            {"paths": [1]},
            {"paths": ["a\0"]},
            {"paths": ["a"], "policy": "most"},
            {"documents": [{"text": "a", "id": "x"}, {"text": "b", "id": "x"}]},
            {"documents": [{"title": "a"}]},
            {"paths": ["a"], "title": "\0"},
            {"paths": ["a"], "more": 1},
        ]
        for given in refused:
            with pytest.raises(InvalidRequestError):
                await start_batch(orchestrator, given, organization_id="default")
        run = await orchestrator.start_and_wait("batch", {"paths": 1}, timeout=60)
        assert (run.error or {})["type"] == "orchestrator.batches.request.BatchInputError"
        assert (await view_batch(orchestrator.store, run)).state is BatchState.FAILED
        other = await orchestrator.start("extraction", {"text": "Acme"}, organization_id="other")
        for unknown in (other.run_id, "nonsense"):
            with pytest.raises(BatchNotFoundError):
                await find_batch(orchestrator.store, unknown)


@pytest.mark.parametrize("state", STAGES)
async def test_a_batch_goes_on_in_the_state_it_was_in(world: World, corpus: Path, state: BatchState) -> None:
    """The orchestrator is stopped in the middle of a state, and another goes on."""
    from orchestrator.engine.points import on_point

    async with opened(world, corpus) as orchestrator:
        whole = await ended(orchestrator, {"paths": ["."]})
    try:
        async with opened(world, corpus) as orchestrator:
            created = await start_batch(orchestrator, {"paths": ["."], "title": "again"}, organization_id="default")
            failing = iter([True])

            def fail_once(point: str, run_id: str) -> None:
                if point == f"batch {state}" and run_id == created.run.run_id and next(failing, False):
                    raise ConnectionResetError("the worker stumbles")

            on_point(fail_once)
            run = await orchestrator.wait(created.run.run_id, timeout=0.2)
            await until_suspended(orchestrator, run)
        async with opened(world, corpus) as orchestrator:
            await world.make_retry_due(run.run_id)
            run = await orchestrator.wait(run.run_id, timeout=60)
            assert run.status is RunStatus.COMPLETED, run.error
            assert {**run.output["knowledge"], "merges": 0} == {**whole.output["knowledge"], "merges": 0}
            done = [each for each in await orchestrator.activities(run.run_id) if each.status == "completed"]
            nodes = ["preprocess", "extract", "resolve", "validate", "ingest"]
            assert [each.activity for each in done] == nodes
    finally:
        on_point(None)


async def until_suspended(orchestrator: Orchestrator, run: Run) -> None:
    async def stumbled() -> bool:
        return (await orchestrator.poll(run.run_id)).failures > 0

    await until(stumbled)


async def test_the_error_of_a_documents_run_is_kept(world: World) -> None:
    extraction = failing(ValueError("broken \\u0000 document"))
    async with world.open(batch=build_batch(), extraction=extraction) as orchestrator:
        run = await ended(orchestrator, {"documents": [{"text": "Acme"}]})
        assert run.status is RunStatus.FAILED
        [row] = await list_documents(orchestrator.store, run.run_id)
        assert row.error is not None
        assert (row.error["type"], row.error["state"]) == ("ValueError", "extracting")
        assert row.error["message"].startswith("broken ")
