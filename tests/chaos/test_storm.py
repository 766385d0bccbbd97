"""`scripts/chaos` itself: its schedule is a pure function, its checker finds what is wrong, and a short one holds."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.chaos.storm.__main__ import main
from tests.chaos.storm.checker import DUPLICATED, LOST, Execution, Records, Violation, violations
from tests.chaos.storm.faults import Blow
from tests.chaos.storm.load import Accepted, Load, Watched
from tests.chaos.storm.model import expected_end
from tests.chaos.storm.report import Report, recoveries
from tests.chaos.storm.run import Plan, run_storm
from tests.chaos.storm.schedule import Fault, Kind, make_schedule

SHORT = (Kind.KILL_WORKER, Kind.CRASH_POSTGRES, Kind.CUT, Kind.KILL_API, Kind.RAISE)


class TestTheSchedule:
    def test_the_same_seed_gives_the_same(self) -> None:
        schedules = [make_schedule(seed, 180, 5) for seed in (7, 7, 8)]
        assert schedules[0] == schedules[1] != schedules[2]

    @pytest.mark.parametrize("seed", range(20))
    def test_three_minutes_hold_every_kind_and_no_two_at_once(self, seed: int) -> None:
        faults = make_schedule(seed, 180, 5)
        assert {fault.kind for fault in faults} == set(Kind)
        assert Counter(fault.kind for fault in faults)[Kind.KILL_WORKER] >= 3
        for fault, following in pairwise(faults):
            assert fault.at_s + fault.lasts_s < following.at_s
        assert faults[-1].at_s + faults[-1].lasts_s <= 180

    def test_a_freeze_outlasts_the_lease(self) -> None:
        faults = make_schedule(1, 600, 15)
        assert min(fault.lasts_s for fault in faults if fault.kind is Kind.FREEZE_WORKER) > 15

    def test_it_is_printed(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--schedule", "--seed", "3", "--minutes", "0.5"]) == 0
        faults = make_schedule(3, 30, 5)
        lines = capsys.readouterr().out.splitlines()
        assert [line.split(" s  ")[1].split(",")[0] for line in lines] == [str(fault.kind) for fault in faults]

    @pytest.mark.parametrize("wrong", [["--minutes", "0"], ["--seed", "x"], ["--rate", "nan"], ["--what"]])
    def test_wrong_usage(self, wrong: list[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            main(wrong)
        assert ended.value.code == 2


GIVEN = {"value": 5, "pace_s": 0.0}
END = expected_end("chain", GIVEN)


def _run(**changes: Any) -> dict[str, Any]:
    trace = [f"{node} {node}-token" for node in END.nodes]
    run = {
        "run_id": "r",
        "thread_id": "r",
        "workflow_type": "chain",
        "status": "completed",
        "input": GIVEN,
        "output": {"value": END.value, "trace": trace},
        "error": None,
        "event_count": 3,
        "completed_at": 1000.0,
    }
    return {**run, **changes}


def _execution(depth: int, attempt: int, *, token: str = "", pid: int = 1) -> Execution:
    node = END.nodes[depth]
    return Execution(float(depth), pid, "r", node, token or f"{node}-token", depth, attempt)


ONCE = [_execution(depth, 1) for depth in range(len(END.nodes))]
EVENTS = [{"run_id": "r", "first": 1, "number": 2, "held": 2}, {"run_id": "r", "first": 3, "number": 3, "held": 1}]
GOOD = Records([_run()], [], EVENTS, [], {"r": ONCE})


async def _found(records: Records, change: Callable[[Load], object] = lambda load: None) -> list[Violation]:
    load = Load("http://127.0.0.1:1", seed=1, rate=1)
    load.accepted["r"] = Accepted("r", "chain", GIVEN)
    load.watched.append(Watched("r", [1, 2, 3]))
    change(load)
    try:
        return violations(records, load)
    finally:
        await load.close()


class TestTheChecker:
    async def test_nothing_is_wrong_with_a_good_run(self) -> None:
        assert await _found(GOOD) == []

    @pytest.mark.parametrize(
        ("changes", "checks"),
        [
            ({"status": "running"}, {"status"}),
            ({"status": "failed"}, {"status"}),
            ({"input": {"value": 6}}, {"accepted", "state"}),
            ({"output": {"value": 1, "trace": _run()["output"]["trace"]}}, {"state"}),
            ({"output": {"value": END.value, "trace": _run()["output"]["trace"][1:]}}, {"state", "work"}),
            ({"event_count": 4}, {"events", "watchers"}),
        ],
    )
    async def test_what_a_row_shows(self, changes: dict[str, Any], checks: set[str]) -> None:
        found = await _found(replace(GOOD, runs=[_run(**changes)]))
        assert {each.check for each in found} == checks
        assert {each.run_id for each in found} == {"r"}

    async def test_a_run_that_is_missing_is_lost(self) -> None:
        found = await _found(replace(GOOD, runs=[], events=[]))
        assert [each.check for each in found if each.check in LOST] == ["accepted"]

    @pytest.mark.parametrize(
        ("ran", "is_wrong"),
        [
            # Cut off in the third node, which the next attempt begins with.
            ([*ONCE[:2], _execution(2, 1, token="cut"), *(_execution(depth, 2) for depth in range(2, 8))], False),
            # Frozen before the third node, it ran that when the second attempt was further on.
            ([*ONCE[:2], *(_execution(depth, 2) for depth in range(2, 8)), _execution(2, 1, token="late")], False),
            # Frozen before its first node, it went on from where the second attempt was.
            ([*(_execution(depth, 2) for depth in range(7)), _execution(7, 1, token="late"), _execution(7, 2)], False),
            # The third node was begun, so that the second one was saved; yet it was run again.
            ([*ONCE[:3], _execution(1, 2, token="again"), *(_execution(depth, 2) for depth in range(2, 8))], True),
            # Run again after it was kept, by a later attempt.
            ([*ONCE, _execution(7, 2, token="again")], True),
        ],
    )
    async def test_work_that_is_done_again(self, ran: list[Execution], is_wrong: bool) -> None:
        found = await _found(replace(GOOD, executions={"r": ran}))
        assert {each.check for each in found} == ({"work"} if is_wrong else set())
        assert {"work"} <= DUPLICATED

    @pytest.mark.parametrize(
        "events",
        [
            EVENTS[1:],
            [EVENTS[0], {**EVENTS[1], "first": 2}],
            [EVENTS[0], {**EVENTS[1], "held": 2}],
            [EVENTS[0], {"run_id": "r", "first": 4, "number": 4, "held": 1}],
        ],
    )
    async def test_events_with_a_gap_or_a_repetition(self, events: list[dict[str, Any]]) -> None:
        assert "events" in {each.check for each in await _found(replace(GOOD, events=events))}

    @pytest.mark.parametrize("seen", [[1, 2], [1, 3], [1, 2, 2, 3], [1, 3, 2], []])
    async def test_a_watcher_that_missed_something(self, seen: list[int]) -> None:
        found = await _found(GOOD, lambda load: load.watched.append(Watched("r", seen)))
        assert [each.check for each in found] == ["watchers"]

    async def test_a_step_whose_result_was_not_used(self) -> None:
        step = {"run_id": "r", "status": "completed", "attempt": 1, "token": "other"}
        assert [each.check for each in await _found(replace(GOOD, steps=[step]))] == ["steps"]


class TestTheReport:
    def test_recovery_is_by_others_and_after_the_blow(self) -> None:
        fault = Fault(0, Kind.KILL_WORKER, 0, 1, 0.5)
        blow = Blow(fault, since=2.5, hit={"r", "over"}, pid=1)
        ran = [_execution(2, 1), _execution(4, 1), _execution(5, 2, pid=2)]
        over = _run(run_id="over", completed_at=1.0)
        records = replace(GOOD, runs=[_run(), over], executions={"r": ran, "over": ran})
        assert recoveries(blow, records, 0.0) == {"r": 2.5}
        rested = [{"run_id": "r", "at": 104.0}]
        assert recoveries(blow, replace(records, states=rested), 100.0) == {"r": 1.5}

    def test_it_holds_only_where_nothing_is_wrong(self, tmp_path: Path) -> None:
        blow = Blow(Fault(0, Kind.FREEZE_WORKER, 0, 1, 0.5), since=0.0, hit={"r"})
        report = Report(1, 3, 5, tmp_path, [blow], GOOD, [], 0.0)
        assert report.holds
        wrong = replace(report, violations=[Violation("work", "twice", "r"), Violation("state", "other", "r")])
        assert (wrong.holds, wrong.lost, wrong.duplicated) == (False, 1, 1)
        [line] = wrong.lines()
        assert (line.lost, line.duplicated, line.mark_s) == (1, 1, 8)
        console = Console(record=True, width=120, quiet=True)
        wrong.show(console)
        assert wrong.as_markdown().splitlines()[-1].startswith("| worker frozen | 1 | 1 |")
        assert json.loads(json.dumps(wrong.as_json()))["violations"][0]["runId"] == "r"


@pytest.mark.chaos
@pytest.mark.timeout(300)
async def test_a_short_storm(tmp_path: Path) -> None:
    """One of each of the quick faults. What every kind does takes minutes: `scripts/chaos`."""
    plan = Plan(seed=7, duration_s=14, lease_s=5, rate=4, kinds=SHORT)
    assert len(plan.schedule()) >= 3
    console = Console(width=120)
    report = await run_storm(plan, tmp_path, console)
    report.show(console)
    assert report.violations == []
    assert len(report.records.runs) >= plan.duration_s
    assert sum(len(blow.hit) for blow in report.blows) > 0
    # Nothing that was started is left.
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("the client")]
