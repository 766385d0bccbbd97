"""Runs that leave PostgreSQL for memory and come back: each ends as it would have."""

from __future__ import annotations

from pathlib import Path

import pytest

from checkpointer import CheckpointerSettings, ThreadFileError
from orchestrator import Orchestrator, RunStatus
from orchestrator.errors import MoveError, RunLeftError
from orchestrator.moves.arriving import marked, reclaim
from orchestrator.moves.exporting import export_active
from orchestrator.moves.file import summary_of
from orchestrator.moves.importing import import_runs
from orchestrator.moves.leaving import moves_sender
from tests.graphs import asking
from tests.moves import Cast, Places, column, opened
from tests.waiting import until

LEFT = {"pending": 2, "waiting": 2, "paused": 1, "suspended": 1}


@pytest.fixture
def places(checkpointer_settings: CheckpointerSettings, tmp_path: Path) -> Places:
    return Places(checkpointer_settings, tmp_path / "runs.jsonl")


async def leave(places: Places, cast: Cast) -> None:
    """Runs in every state leave PostgreSQL under the hands of a server that drives them."""
    async with opened(places.postgres, cast) as o:
        await cast.appear(o)
        async with places.saver() as saver:
            exported = await export_active(saver, places.file, leaves=True)
        assert exported.runs == LEFT
        assert exported.marked == {"pending": 1, "running": 1, "waiting": 2, "paused": 1, "suspended": 1}
        await _is_locked_out(o, cast, places)


async def _is_locked_out(o: Orchestrator, cast: Cast, places: Places) -> None:
    """Whoever drove a run that has left can neither claim nor write; and nobody can tell it anything."""
    run_id = cast.runs["running"].run_id
    await until(lambda: cast.gates.running == 0, what="the attempt is stopped")
    for call in (o.interrupt(run_id), o.cancel(run_id), o.resume(cast.runs["paused"].run_id)):
        with pytest.raises(RunLeftError, match="runs import FILE"):
            await call
    with pytest.raises(RunLeftError):
        await o.signal(cast.runs["waiting"].run_id, "go", None)
    after = await o.start("work", {}, thread_id="busy")
    async with places.connected() as conn:
        await conn.execute("UPDATE workflow_checkpoints.workflow_metadata SET retry_at = now() WHERE retry_at > now()")
        probe = await o.start_and_wait("asking", {}, timeout=60)  # others are claimed, woken and driven meanwhile
        assert probe.status is RunStatus.WAITING
        await o.cancel(probe.run_id)
        assert (await o.poll(run_id)).status is RunStatus.PENDING
        assert (await o.poll(after.run_id)).status is RunStatus.PENDING
        assert (await o.poll(cast.runs["suspended"].run_id)).status is RunStatus.SUSPENDED
        later = (
            "UPDATE workflow_checkpoints.workflow_metadata SET retry_at = now() + interval '1 h' WHERE retry_at < now()"
        )
        await conn.execute(later)
    await o.cancel(after.run_id)


async def bring_back(places: Places) -> dict[str, int]:
    """Everything comes in; a second time it is here already."""
    async with places.saver() as saver:
        arrived = await import_runs(saver, places.file)
        assert (arrived.busy, arrived.outdated, await marked(moves_sender(saver))) == ([], 0, {})
        again = await import_runs(saver, places.file)
        assert (again.back, again.new) == ({}, {})
    return arrived.back


class TestThereAndBack:
    async def test_what_ends_in_memory_arrives_as_it_ended(self, places: Places) -> None:
        cast = Cast()
        await leave(places, cast)
        async with opened(places.memory, cast) as o:
            for name, wanted in {"waiting": "waiting", "paused": "paused", "suspended": "suspended"}.items():
                assert (await o.poll(cast.runs[name].run_id)).status == wanted
            same = await o.start("asking", {"text": "w"}, idempotency_key="asked")
            assert same.run_id == cast.runs["waiting"].run_id
            ended = await cast.end(o)
        cast.check(ended)
        assert await bring_back(places) == {"completed": 6}
        async with opened(places.postgres, cast) as o:
            arrived = {name: await o.poll(run.run_id) for name, run in cast.runs.items()}
            cast.check(arrived)
            for name, run in arrived.items():
                assert (run.output, run.attempt) == (ended[name].output, ended[name].attempt)
                numbers = [event.number async for event in o.stream(run.run_id)]
                assert numbers == list(range(1, len(numbers) + 1))
            assert [each.activity for each in await o.activities(cast.runs["running"].run_id)].count("two") == 2
            assert len(await o.history(cast.runs["running"].run_id)) > 4

    async def test_what_is_unfinished_in_memory_ends_in_postgres(self, places: Places) -> None:
        cast = Cast()
        await leave(places, cast)
        async with opened(places.memory, cast) as o:
            await until(lambda: cast.gates.running == 1, what="the run goes on in memory")
            begun = await o.start("asking", {"text": "begun in memory"})
            await until(lambda: _is(o, begun.run_id, RunStatus.WAITING), what="the new run waits")
        assert summary_of(places.file).runs == {**LEFT, "waiting": 3}
        assert await bring_back(places) == LEFT
        async with opened(places.postgres, cast) as o:
            cast.check(await cast.end(o))
            await o.signal(begun.run_id, "go", "new here")
            assert (await o.wait(begun.run_id, timeout=60)).output["trace"] == ["new here"]
        async with places.connected() as conn:
            assert set(await column(conn, "saver")) == {"PostgresSaver"}

    async def test_a_second_time_the_old_file_is_refused(self, places: Places) -> None:
        cast, old = Cast(), places.file.with_name("old.jsonl")
        await leave(places, cast)
        old.write_bytes(places.file.read_bytes())
        await bring_back(places)
        async with places.saver() as saver:
            await export_active(saver, places.file, leaves=True)
            arrived = await import_runs(saver, old)
            assert (arrived.back, arrived.outdated) == ({}, 6)
            assert (await import_runs(saver, places.file)).back == LEFT

    async def test_two_lives_in_memory(self, places: Places) -> None:
        cast = Cast()
        async with opened(places.memory, cast) as o:
            await cast.appear(o)
        assert not places.file.with_name("runs.jsonl.partial").exists()
        async with opened(places.memory, cast) as o:
            cast.check(await cast.end(o))
        async with places.saver() as saver:
            assert (await import_runs(saver, places.file)).new == {"completed": 6}


async def _is(o: Orchestrator, run_id: str, wanted: RunStatus) -> bool:
    return (await o.poll(run_id)).status is wanted


class TestFiles:
    async def test_a_flipped_byte_is_refused_before_anything_is_touched(self, places: Places) -> None:
        cast = Cast()
        await leave(places, cast)
        whole = places.file.read_bytes()
        at = whole.index(b'"trace"')
        places.file.write_bytes(whole[:at] + b'"tracf"' + whole[at + 7 :])
        async with places.connected() as conn, places.saver() as saver:
            before = await column(conn, "(left_at, epoch, updated_at)::text")
            with pytest.raises(ThreadFileError, match="checksum"):
                await import_runs(saver, places.file)
            with pytest.raises(ThreadFileError, match="checksum"):
                async with opened(places.memory, cast):
                    pass
            assert await column(conn, "(left_at, epoch, updated_at)::text") == before
        assert places.file.read_bytes().count(b'"tracf"') == 1
        places.file.write_bytes(whole)
        assert await bring_back(places) == LEFT

    async def test_a_copy_touches_nothing(self, places: Places) -> None:
        cast = Cast()
        async with opened(places.postgres, cast) as o:
            await cast.appear(o)
            async with places.saver() as saver:
                exported = await export_active(saver, places.file, leaves=False)
            assert exported.runs == {"running": 1, "pending": 1, "waiting": 2, "paused": 1, "suspended": 1}
            assert (await import_runs_again(places)) == 6
            cast.check(await cast.end(o))

    async def test_what_has_all_that_left_is_not_written_again(self, places: Places) -> None:
        cast = Cast()
        await leave(places, cast)
        written = places.file.stat().st_ino
        async with places.saver() as saver:
            again = await export_active(saver, places.file, leaves=True)
            assert (again.runs, again.marked, places.file.stat().st_ino) == (LEFT, {}, written)
            async with opened(places.postgres, cast) as o:
                late = await o.start("asking", {"text": "late"})
                await until(lambda: _is(o, late.run_id, RunStatus.WAITING), what="the late run waits")
            assert (await export_active(saver, places.file, leaves=True)).marked == {"waiting": 1}
        assert places.file.stat().st_ino != written
        assert summary_of(places.file).runs == {**LEFT, "waiting": 3}

    async def test_what_only_the_file_has_is_not_written_over(self, places: Places) -> None:
        cast = Cast()
        async with opened(places.memory, cast) as o:
            await o.start("asking", {"text": "begun in memory"})
        async with places.saver() as saver:
            with pytest.raises(MoveError, match="holds 1 runs of a memory server"):
                await export_active(saver, places.file, leaves=True)
            await import_runs(saver, places.file)
            assert sum((await export_active(saver, places.file, leaves=True)).runs.values()) == 1

    async def test_a_workflow_that_is_not_known_is_carried_along(self, places: Places) -> None:
        cast = Cast()
        await leave(places, cast)
        async with opened(places.memory, Cast(trouble=set())) as _:
            pass
        from orchestrator import open_orchestrator

        async with open_orchestrator({"asking": asking()}, settings=places.memory) as o:
            assert (await o.poll(cast.runs["paused"].run_id)).workflow_type == "pausing"
        assert await bring_back(places) == LEFT
        async with opened(places.postgres, cast) as o:
            cast.check(await cast.end(o))


async def import_runs_again(places: Places) -> int:
    """How many runs of the file are here already."""
    async with places.saver() as saver:
        return (await import_runs(saver, places.file)).here


class TestBatches:
    async def test_a_run_of_a_batch_stays_until_the_file_is_imported(self, places: Places) -> None:
        cast = Cast()
        async with opened(places.postgres, cast) as o:
            await cast.appear(o)
        async with places.connected() as conn, places.saver() as saver:
            await conn.execute(
                "INSERT INTO workflow_checkpoints.workflow_batch (batch_id, organization_id, policy, state) "
                "VALUES (%s, 'default', 'some', 'extracting')",
                (cast.runs["waiting"].run_id,),
            )
            exported = await export_active(saver, places.file, leaves=True)
            assert (exported.stayed, exported.runs["waiting"]) == (1, 1)
            assert None not in await column(conn, "left_at")
        async with opened(places.memory, cast):
            pass
        async with places.saver() as saver:
            arrived = await import_runs(saver, places.file)
            assert (arrived.stayed, sum(arrived.back.values())) == (1, 5)
        async with opened(places.postgres, cast) as o:
            cast.check(await cast.end(o))


class TestReclaiming:
    async def test_what_is_in_no_file_goes_on_from_where_it_left(self, places: Places) -> None:
        cast = Cast()
        await leave(places, cast)
        places.file.unlink()
        async with places.saver() as saver:
            assert await marked(moves_sender(saver)) == LEFT
            assert await reclaim(moves_sender(saver)) == LEFT
            assert await reclaim(moves_sender(saver)) == {}
        async with opened(places.postgres, cast) as o:
            cast.check(await cast.end(o))
