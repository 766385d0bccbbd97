"""Whatever is done to runs, in whatever order: they move as the table says, and the store's invariants hold."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from itertools import pairwise
from typing import Any, TypeVar

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from orchestrator.errors import IllegalTransitionError, InvalidRequestError, ThreadBusyError, ThreadMovedOnError
from orchestrator.runs.memory import MemoryRunStore
from orchestrator.runs.model import FINAL, SETTLED, UNFINISHED, Run, RunStatus, may_become, new_run_id
from orchestrator.runs.signals import RESUME_SIGNAL, NewSignal
from orchestrator.runs.store import Absent, IfBusy, NewRun, Outcome, RunFilter

T = TypeVar("T")

ACTIVE = UNFINISHED - {RunStatus.PENDING}
OWNERS = (1, 2)
REFUSALS = (IllegalTransitionError, InvalidRequestError, ThreadBusyError, ThreadMovedOnError)
OUTCOMES = st.builds(
    Outcome,
    st.sampled_from(sorted(set(RunStatus) - {RunStatus.RUNNING})),
    retry_after_s=st.sampled_from([None, 0, 3600]),
    awaiting=st.sampled_from([None, [{"interruptId": "i", "signal": "a", "value": None}]]),
    seen_signals=st.integers(0, 3),
    failed=st.booleans(),
    last_checkpoint_id=st.sampled_from([None, "c"]),
)


def now(work: Coroutine[Any, Any, T]) -> T | None:
    """What a method that never awaits returns; None where it refuses."""
    try:
        work.send(None)
    except StopIteration as stop:
        value: T = stop.value
        return value
    except REFUSALS:
        return None
    raise AssertionError("the memory store awaited something")


@given(st.lists(st.sampled_from(list(RunStatus)), min_size=2))
def test_no_way_leads_out_of_the_end(way: list[RunStatus]) -> None:
    walked = [way[0]]
    for target in way[1:]:
        if may_become(walked[-1], target):
            walked.append(target)
    for status, following in pairwise(walked):
        assert status not in (RunStatus.COMPLETED, RunStatus.CANCELLED)
        assert status is not following
        assert status is not RunStatus.FAILED or following is RunStatus.PENDING
        assert following is not RunStatus.RUNNING or status is RunStatus.PENDING


@given(st.sampled_from(sorted(UNFINISHED)))
def test_every_unfinished_run_can_be_cancelled_and_every_other_state_goes_by_pending(status: RunStatus) -> None:
    assert may_become(status, RunStatus.CANCELLED)
    assert status in (RunStatus.PENDING, RunStatus.RUNNING) or may_become(status, RunStatus.PENDING)


class Runs(RuleBasedStateMachine):
    """Two owners and whoever else, over a few threads."""

    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryRunStore()
        self.store.absent = {2: "lock"}
        self.store.listener = lambda notice: self.heard.append((notice.kind, notice.run_ids))
        self.heard: list[tuple[str, tuple[str, ...]]] = []
        # Every row that was ever seen of each run, so that stale ones are sent too.
        self.seen: dict[str, list[Run]] = {}

    def _rows(self) -> dict[str, Run]:
        page = now(self.store.list_runs(RunFilter(), limit=10_000))
        assert page is not None
        return {run.run_id: run for run in page.runs}

    def _any(self, data: st.DataObject) -> Run:
        return data.draw(st.sampled_from(self.seen[self._id(data)]))

    def _id(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.seen)))

    @rule(
        thread=st.sampled_from([None, "t", "u"]),
        if_busy=st.sampled_from(["enqueue", "reject", "interrupt"]),
        owner=st.sampled_from([None, 1, 2]),
    )
    def create(self, thread: str | None, if_busy: IfBusy, owner: int | None) -> None:
        new = NewRun(new_run_id(), "w", {}, 2, "default", thread_id=thread)
        now(self.store.create(new, if_busy=if_busy, owner=owner))

    @precondition(lambda self: self.seen)
    @rule(data=st.data(), owner=st.sampled_from(OWNERS))
    def claim(self, data: st.DataObject, owner: int) -> None:
        run = self._any(data)
        claimed = now(self.store.claim(run, owner))
        assert claimed is None or claimed == now(self.store.claim(run, owner))

    @rule(owner=st.sampled_from(OWNERS), limit=st.integers(0, 3))
    def claim_next(self, owner: int, limit: int) -> None:
        claimed = now(self.store.claim_next(owner, ["w"], limit=limit)) or []
        assert len(claimed) <= limit

    @precondition(lambda self: self.seen)
    @rule(data=st.data(), outcome=OUTCOMES)
    def finish(self, data: st.DataObject, outcome: Outcome) -> None:
        run = self._any(data)
        ended = now(self.store.finish(run, outcome))
        assert ended is None or ended == now(self.store.finish(run, outcome))

    @precondition(lambda self: self.seen)
    @rule(data=st.data(), name=st.sampled_from(["a", "b"]), payload=st.sampled_from([None, 1, {"i": 1}]))
    def signal(self, data: st.DataObject, name: str, payload: Any) -> None:
        now(self.store.send_signal(self._id(data), NewSignal(name, payload)))

    @precondition(lambda self: self.seen)
    @rule(data=st.data(), what=st.sampled_from(["pause", "resume", "cancel"]))
    def ask(self, data: st.DataObject, what: str) -> None:
        now(getattr(self.store, what)(self._id(data)))

    @precondition(lambda self: self.seen)
    @rule(data=st.data(), key=st.sampled_from([None, "k", "l"]), payload=st.sampled_from([None, 1, {"i": 1}]))
    def answer(self, data: st.DataObject, key: str | None, payload: Any) -> None:
        run_id, signal = self._id(data), NewSignal(RESUME_SIGNAL, payload, key)
        resumed = now(self.store.resume(run_id, signal))
        known = [each for each in now(self.store.signals(run_id)) or () if key is not None and each.key == key]
        assert len(known) <= 1
        assert not known or resumed is None or now(self.store.resume(run_id, signal)) == resumed

    @rule(owner=st.sampled_from(OWNERS))
    def release(self, owner: int) -> None:
        now(self.store.release_all(owner))
        assert not [run for run in self._rows().values() if run.lease_owner == owner]

    @rule()
    def sweep(self) -> None:
        for absent in now(self.store.absent_owners(1)) or ():
            assert now(self.store.take_over(absent))
        assert not now(self.store.take_over(Absent(1, "lock")))
        now(self.store.wake_due())

    @invariant()
    def rows_moved_as_they_may(self) -> None:
        for run_id, row in self._rows().items():
            earlier = self.seen.setdefault(run_id, [])
            if earlier and earlier[-1] == row:
                continue
            if earlier and earlier[-1].status is not row.status:
                self._moved(earlier[-1], row)
            if earlier:
                assert row.epoch >= earlier[-1].epoch
                assert row.attempt >= earlier[-1].attempt
            earlier.append(row)
        self.heard.clear()

    def _moved(self, before: Run, row: Run) -> None:
        assert may_become(before.status, row.status), (before.status, row.status)
        if row.status in SETTLED:
            assert any(kind == "settled" and row.run_id in ids for kind, ids in self.heard)

    @invariant()
    def fields_go_with_the_state(self) -> None:
        for row in self._rows().values():
            running = row.status is RunStatus.RUNNING
            assert (row.lease_owner is not None) is running
            assert (row.lease_until is not None) is running
            assert (row.completed_at is not None) is (row.status in FINAL)
            assert row.awaiting is None or row.status is RunStatus.WAITING
            assert row.retry_at is None or row.status is RunStatus.SUSPENDED
            assert row.requested is None or row.status in (RunStatus.RUNNING, RunStatus.PENDING)
            assert row.signal_count == len(now(self.store.signals(row.run_id)) or ())

    @invariant()
    def one_run_of_a_thread_at_a_time(self) -> None:
        active = Counter(row.thread_key for row in self._rows().values() if row.status in ACTIVE)
        assert not active or max(active.values()) == 1


TestRuns = Runs.TestCase


def test_the_store_awaits_nothing() -> None:
    """So that each call is atomic on its event loop, which `now` above rests on."""
    assert asyncio.run(MemoryRunStore().wake_due()) == now(MemoryRunStore().wake_due()) == 0
