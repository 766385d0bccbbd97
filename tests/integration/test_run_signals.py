"""The contract of a run store: what is sent to runs."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from orchestrator.errors import HookNotFoundError, IllegalTransitionError, RunNotFoundError
from orchestrator.runs.model import FINAL, UNFINISHED, RunStatus, new_run_id
from orchestrator.runs.signals import RESUME_SIGNAL, NewHook, NewSignal
from orchestrator.runs.store import Outcome
from tests.runs import DONE, HAND_BACK, ME, OTHER, Stage, wait_for

OVER = sorted(FINAL)


class TestSignals:
    async def test_one_that_comes_early_is_kept(self, stage: Stage) -> None:
        run = await stage.create()
        for number, name in enumerate(["a", "b", "a"], 1):
            kept = await stage.store.send_signal(run.run_id, NewSignal(name, {"n": number}))
            assert (kept.status, kept.signal_count) == (RunStatus.PENDING, number)
        signals = await stage.store.signals(run.run_id)
        assert [(each.name, each.payload) for each in signals] == [("a", {"n": 1}), ("b", {"n": 2}), ("a", {"n": 3})]
        assert [each.signal_id for each in signals] == sorted(each.signal_id for each in signals)
        assert {(each.run_id, each.key, each.interrupt_id, each.delivered_at) for each in signals} == {
            (run.run_id, None, None, None)
        }

    async def test_one_that_came_before_the_run_waits_is_not_missed(self, stage: Stage) -> None:
        run = await stage.running()
        await stage.store.send_signal(run.run_id, NewSignal("a", 1))
        for _ in range(2):
            ended = await stage.ended(run, wait_for("a", seen=0))
            assert (ended.status, ended.awaiting, ended.completed_at) == (RunStatus.PENDING, None, None)
        claimed = await stage.claimed(ended)
        seen = await stage.ended(claimed, wait_for("b", seen=1))
        assert (seen.status, seen.awaiting) == (RunStatus.WAITING, wait_for("b").awaiting)
        assert await stage.again(run) == seen

    @pytest.mark.parametrize(("awaited", "sent"), [("a", "a"), ("*", "a"), ("a", RESUME_SIGNAL)])
    async def test_one_that_is_awaited_makes_the_run_pending(self, stage: Stage, awaited: str, sent: str) -> None:
        run = await stage.waiting("b", awaited)
        freed = await stage.store.send_signal(run.run_id, NewSignal(sent, 1))
        assert (freed.status, freed.awaiting, freed.signal_count) == (RunStatus.PENDING, None, 1)
        assert await stage.again(run) == freed
        [kept] = await stage.store.signals(run.run_id)
        assert (kept.interrupt_id, kept.delivered_at) == (None, None)
        [claimed] = await stage.store.claim_next(ME, ["w"], limit=10)
        assert claimed.run_id == run.run_id

    async def test_an_outcome_sent_again_does_not_undo_a_signal(self, stage: Stage) -> None:
        run = await stage.running()
        await stage.ended(run, wait_for("a"))
        await stage.store.send_signal(run.run_id, NewSignal("a"))
        assert (await stage.ended(run, wait_for("a"))).status is RunStatus.PENDING
        assert (await stage.again(run)).status is RunStatus.PENDING

    async def test_one_that_nobody_waits_for_is_kept(self, stage: Stage) -> None:
        for run in (await stage.waiting("a"), await stage.waiting(), await stage.at(RunStatus.PAUSED)):
            kept = await stage.store.send_signal(run.run_id, NewSignal("unknown", 1))
            assert (kept.status, kept.awaiting, kept.signal_count) == (run.status, run.awaiting, 1)
            assert len(await stage.store.signals(run.run_id)) == 1

    @pytest.mark.parametrize("status", sorted(UNFINISHED))
    async def test_a_key_makes_one_of_two(self, stage: Stage, status: RunStatus) -> None:
        run = await stage.at(status)
        await stage.store.send_signal(run.run_id, NewSignal("a", 1, key="k"))
        again = await stage.store.send_signal(run.run_id, NewSignal("a", 2, key="k"))
        assert again.signal_count == 1
        assert (await stage.store.send_signal(run.run_id, NewSignal("a", 1, key="l"))).signal_count == 2
        assert [each.payload for each in await stage.store.signals(run.run_id)] == [1, 1]

    async def test_a_key_is_the_runs_own(self, stage: Stage) -> None:
        for run in (await stage.create(), await stage.create()):
            assert (await stage.store.send_signal(run.run_id, NewSignal("a", key="k"))).signal_count == 1

    async def test_of_many_under_one_key_one_is_kept(self, stage: Stage) -> None:
        run = await stage.waiting("a")
        calls = [stage.store.send_signal(run.run_id, NewSignal("a", n, key="k")) for n in range(10)]
        assert {each.signal_count for each in await asyncio.gather(*calls)} == {1}
        assert len(await stage.store.signals(run.run_id)) == 1

    async def test_without_a_key_the_same_again_is_one(self, stage: Stage) -> None:
        run = await stage.waiting("a")
        for _ in range(2):
            freed = await stage.store.send_signal(run.run_id, NewSignal("a", {"x": 1, "y": 2}))
            assert (freed.status, freed.signal_count) == (RunStatus.PENDING, 1)
        assert (await stage.store.send_signal(run.run_id, NewSignal("a", {"y": 2, "x": 1}))).signal_count == 1
        assert (await stage.store.send_signal(run.run_id, NewSignal("a", {"y": 3}))).signal_count == 2

    async def test_the_same_answer_to_a_new_question_is_another(self, stage: Stage) -> None:
        run = await stage.waiting("a")
        freed = await stage.store.send_signal(run.run_id, NewSignal("a", "yes"))
        await stage.ended(await stage.claimed(freed), wait_for("a", seen=1))
        freed = await stage.store.send_signal(run.run_id, NewSignal("a", "yes"))
        assert (freed.status, freed.signal_count) == (RunStatus.PENDING, 2)

    @pytest.mark.parametrize("status", OVER)
    async def test_a_run_that_is_over_takes_none(self, stage: Stage, status: RunStatus) -> None:
        run = await stage.at(status)
        with pytest.raises(IllegalTransitionError, match=f"a run that is {status}"):
            await stage.store.send_signal(run.run_id, NewSignal("a"))
        assert await stage.store.signals(run.run_id) == []

    @pytest.mark.parametrize("key", [None, "k"])
    async def test_one_that_brought_the_run_to_its_end_may_come_twice(self, stage: Stage, key: str | None) -> None:
        run, signal = await stage.waiting("a"), NewSignal("a", "yes", key)
        done = await stage.ended(await stage.claimed(await stage.store.send_signal(run.run_id, signal)), DONE)
        assert await stage.store.send_signal(run.run_id, signal) == await stage.again(done)
        assert len(await stage.store.signals(run.run_id)) == 1

    async def test_its_holder_hands_it_over_and_may_send_that_twice(self, stage: Stage) -> None:
        run, other = await stage.running(), await stage.running()
        for name in ("a", "b"):
            await stage.store.send_signal(run.run_id, NewSignal(name))
        await stage.store.send_signal(other.run_id, NewSignal("a"))
        first, second = await stage.store.signals(run.run_id)
        [theirs] = await stage.store.signals(other.run_id)
        for _ in range(2):
            assert await stage.store.deliver(run, {first.signal_id: "i1", theirs.signal_id: "i1"})
        given, kept = before = await stage.store.signals(run.run_id)
        assert (given.signal_id, given.interrupt_id, given.delivered_at is not None) == (first.signal_id, "i1", True)
        assert kept == second
        assert await stage.store.signals(other.run_id) == [theirs]
        assert await stage.store.deliver(run, {first.signal_id: "i2"})
        assert await stage.store.signals(run.run_id) == before

    async def test_nobody_else_hands_it_over(self, stage: Stage) -> None:
        run = await stage.running()
        await stage.store.send_signal(run.run_id, NewSignal("a"))
        [kept] = await stage.store.signals(run.run_id)
        for stale in (
            replace(run, epoch=0),
            replace(run, lease_owner=OTHER),
            replace(run, run_id=new_run_id()),
            await stage.create(),
        ):
            assert not await stage.store.deliver(stale, {kept.signal_id: "i1"})
        await stage.ended(run, HAND_BACK)
        assert not await stage.store.deliver(run, {kept.signal_id: "i1"})
        assert await stage.store.signals(run.run_id) == [kept]


class TestHooks:
    async def test_a_node_that_runs_again_finds_its_hook(self, stage: Stage) -> None:
        run, other = await stage.running(), await stage.running()
        hook = await stage.store.create_hook(NewHook(run.run_id, "node", "a", 60))
        assert (hook.run_id, hook.name, hook.multiple) == (run.run_id, "a", False)
        assert timedelta(seconds=50) < hook.expires_at - datetime.now(UTC) < timedelta(seconds=70)
        assert len(hook.token) >= 43
        assert await stage.store.create_hook(NewHook(run.run_id, "node", "b", 3600, multiple=True)) == hook
        for new_hook in (NewHook(run.run_id, "other", "a", 60), NewHook(other.run_id, "node", "a", 60)):
            assert (await stage.store.create_hook(new_hook)).token != hook.token

    async def test_of_no_run_there_is_none(self, stage: Stage) -> None:
        nobody = new_run_id()
        with pytest.raises(RunNotFoundError, match=nobody):
            await stage.store.create_hook(NewHook(nobody, "node", "a", 60))

    async def test_a_single_one_is_used_once(self, stage: Stage) -> None:
        run = await stage.waiting("a")
        hook = await stage.store.create_hook(NewHook(run.run_id, "node", "a", 60))
        freed = await stage.store.use_hook(hook.token, {"x": 1})
        assert (freed.run_id, freed.status) == (run.run_id, RunStatus.PENDING)
        for payload in ({"x": 1}, {"x": 2}):
            with pytest.raises(HookNotFoundError):
                await stage.store.use_hook(hook.token, payload)
        [kept] = await stage.store.signals(run.run_id)
        assert (kept.name, kept.payload) == ("a", {"x": 1})
        assert kept.key is not None
        assert hook.token not in kept.key

    async def test_of_many_uses_of_a_single_one_one_counts(self, stage: Stage) -> None:
        run = await stage.running()
        hook = await stage.store.create_hook(NewHook(run.run_id, "node", "a", 60))
        calls = [stage.store.use_hook(hook.token, n) for n in range(5)]
        used = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(isinstance(each, HookNotFoundError) for each in used) == 4
        assert len(await stage.store.signals(run.run_id)) == 1

    async def test_a_multiple_one_sends_a_signal_each_time(self, stage: Stage) -> None:
        run = await stage.running()
        hook = await stage.store.create_hook(NewHook(run.run_id, "node", "a", 60, multiple=True))
        for number in (1, 2, 3):
            assert (await stage.store.use_hook(hook.token, "same")).signal_count == number
        assert [each.payload for each in await stage.store.signals(run.run_id)] == ["same"] * 3

    async def test_one_that_is_unknown_or_has_expired_is_not_there(self, stage: Stage) -> None:
        run = await stage.running()
        hook = await stage.store.create_hook(NewHook(run.run_id, "node", "a", -1, multiple=True))
        for token in (hook.token, "unknown", ""):
            with pytest.raises(HookNotFoundError):
                await stage.store.use_hook(token, 1)
        assert await stage.store.signals(run.run_id) == []

    async def test_a_refusal_uses_nothing_up(self, stage: Stage) -> None:
        run = await stage.running()
        hook = await stage.store.create_hook(NewHook(run.run_id, "node", "a", 60))
        await stage.ended(run, Outcome(RunStatus.FAILED))
        with pytest.raises(IllegalTransitionError):
            await stage.store.use_hook(hook.token, 1)
        await stage.store.resume(run.run_id)
        assert (await stage.store.use_hook(hook.token, 1)).signal_count == 1
