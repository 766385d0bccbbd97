"""Recurring runs: what is due when, one run per due time whoever looks, and what is missed and made up for."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from checkpointer import CheckpointerSettings
from orchestrator import (
    InvalidRequestError,
    Orchestrator,
    OrchestratorSettings,
    QueueError,
    Run,
    RunStatus,
    Schedule,
    open_orchestrator,
)
from orchestrator.engine import schedules
from orchestrator.engine.schedules import MAX_GRACE_S, Scheduler
from orchestrator.errors import DatabaseUnavailableError
from orchestrator.runs.store import RunFilter
from tests.graphs import chain
from tests.waiting import until

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
HOURLY = Schedule("hourly", "0 * * * *", "chain", {"text": "tick"})
GRAPHS = {"chain": chain()}


class Clock:
    """A time that the test moves."""

    def __init__(self, now: datetime = NOON) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def to(self, hour: int, minute: int = 0, second: int = 0, *, day: int = 20) -> None:
        self.now = datetime(2026, 11, day, hour, minute, second, tzinfo=UTC)


@pytest.fixture(params=["memory", "postgres"])
def settings(request: pytest.FixtureRequest) -> OrchestratorSettings:
    if request.param == "memory":
        return OrchestratorSettings()
    postgres: CheckpointerSettings = request.getfixturevalue("checkpointer_settings")
    return OrchestratorSettings(**postgres.model_dump(exclude_unset=True))


@pytest.fixture
async def orchestrator(settings: OrchestratorSettings) -> AsyncIterator[Orchestrator]:
    async with open_orchestrator(GRAPHS, settings=settings) as orchestrator:
        yield orchestrator


async def keys(orchestrator: Orchestrator) -> list[str]:
    """The idempotency keys of all runs, oldest first, without what they all begin with."""
    page = await orchestrator.list_runs(RunFilter(), limit=100)
    return [str(run.idempotency_key).removeprefix("schedule:hourly:2026-11-") for run in reversed(page.runs)]


async def test_each_due_time_starts_one_run(orchestrator: Orchestrator) -> None:
    clock = Clock()
    clock.to(11, 58, 30)
    scheduler = Scheduler(orchestrator, [replace(HOURLY, priority=4, queue="flow")], clock=clock)
    for hour, minute, second in ((11, 58, 30), (11, 59, 59), (12, 0, 0), (12, 0, 1), (12, 30, 0), (13, 0, 1)):
        clock.to(hour, minute, second)
        await scheduler.tick()
        await scheduler.tick()
    assert await keys(orchestrator) == ["20T12:00:00+00:00", "20T13:00:00+00:00"]
    [run, *_] = (await orchestrator.list_runs(RunFilter(), limit=1)).runs
    ended = await orchestrator.wait(run.run_id, timeout=30)
    assert (ended.status, ended.input, ended.priority) == (RunStatus.COMPLETED, {"text": "tick"}, 4)


async def test_of_what_was_missed_the_latest_is_made_up_for_within_the_grace(orchestrator: Orchestrator) -> None:
    clock = Clock()
    clock.to(12, 1, 0)
    await Scheduler(orchestrator, [HOURLY], clock=clock).tick()
    assert await keys(orchestrator) == ["20T12:00:00+00:00"]
    clock.to(13, 1, 1)
    await Scheduler(orchestrator, [HOURLY], clock=clock).tick()
    assert await keys(orchestrator) == ["20T12:00:00+00:00"]
    clock.to(17, 20)
    await Scheduler(orchestrator, [replace(HOURLY, grace_s=3 * 3600)], clock=clock).tick()
    assert await keys(orchestrator) == ["20T12:00:00+00:00", "20T17:00:00+00:00"]


async def test_a_process_that_slept_makes_up_for_one_time_too(orchestrator: Orchestrator) -> None:
    clock = Clock()
    clock.to(11, 59)
    scheduler = Scheduler(orchestrator, [replace(HOURLY, grace_s=MAX_GRACE_S)], clock=clock)
    clock.to(12, 30)
    await scheduler.tick()
    clock.to(20, 30)
    await scheduler.tick()
    await scheduler.tick()
    assert await keys(orchestrator) == ["20T12:00:00+00:00", "20T20:00:00+00:00"]


async def test_a_clock_that_is_put_back_neither_doubles_nor_silences(orchestrator: Orchestrator) -> None:
    clock = Clock()
    scheduler = Scheduler(orchestrator, [HOURLY], clock=clock)
    await scheduler.tick()
    clock.to(12, day=22)
    await scheduler.tick()
    clock.to(12, 0, 30)
    await scheduler.tick()
    clock.to(13)
    await scheduler.tick()
    assert await keys(orchestrator) == ["20T12:00:00+00:00", "22T12:00:00+00:00", "20T13:00:00+00:00"]


async def test_many_processes_start_one_run(checkpointer_settings: CheckpointerSettings) -> None:
    settings = OrchestratorSettings(**checkpointer_settings.model_dump(exclude_unset=True))
    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(open_orchestrator(GRAPHS, settings=settings)) for _ in range(3)]
        # Their clocks differ by up to ten seconds.
        clocks = [Clock(NOON + timedelta(seconds=5 * number)) for number in range(3)]
        schedulers = [Scheduler(each, [HOURLY], clock=clock) for each, clock in zip(opened, clocks, strict=True)]
        for _ in range(5):
            await asyncio.gather(*(scheduler.tick() for scheduler in schedulers))
            for clock in clocks:
                clock.now += timedelta(hours=1)
        assert await keys(opened[0]) == [f"20T{hour}:00:00+00:00" for hour in range(12, 17)]


async def test_processes_of_two_versions_start_one_run(
    orchestrator: Orchestrator, caplog: pytest.LogCaptureFixture
) -> None:
    changed = replace(HOURLY, payload={"text": "new"})
    for schedule in (HOURLY, changed):
        scheduler = Scheduler(orchestrator, [schedule], clock=Clock())
        await scheduler.tick()
        await scheduler.tick()
    assert await keys(orchestrator) == ["20T12:00:00+00:00"]
    assert caplog.text.count("was started with another payload") == 1


async def test_what_the_database_did_not_take_is_tried_again(
    orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = Scheduler(orchestrator, [HOURLY], clock=Clock())

    async def unavailable(*args: object, **kwargs: object) -> Any:
        raise DatabaseUnavailableError("as the test wants")

    with monkeypatch.context() as patch:
        patch.setattr(orchestrator, "start_or_find", unavailable)
        with pytest.raises(DatabaseUnavailableError):
            await scheduler.tick()
    await scheduler.tick()
    assert await keys(orchestrator) == ["20T12:00:00+00:00"]


async def test_runs_of_a_schedule_take_turns_on_its_thread(orchestrator: Orchestrator) -> None:
    clock = Clock()
    scheduler = Scheduler(orchestrator, [replace(HOURLY, thread_id="report", organization_id="acme")], clock=clock)
    await scheduler.tick()
    clock.to(13)
    await scheduler.tick()
    run = await orchestrator.latest_of_thread("report", organization_id="acme")
    ended = await orchestrator.wait(run.run_id, timeout=30)
    assert isinstance(ended.output, dict)
    assert ended.output["trace"] == ["one", "two", "three"] * 2


async def test_an_opened_orchestrator_looks_by_itself(settings: OrchestratorSettings) -> None:
    often = Schedule("often", "* * * * *", "chain", {})
    async with open_orchestrator(GRAPHS, settings=settings, schedules=[often]) as orchestrator:

        async def first() -> Any:
            runs = (await orchestrator.list_runs(RunFilter(), limit=1)).runs
            return runs[0] if runs else None

        run: Run = await until(first)
        assert (await orchestrator.wait(run.run_id, timeout=30)).status is RunStatus.COMPLETED


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"cron": "0 * * *"}, "it takes five fields"),
        ({"cron": "0 0 * * * *"}, "it takes five fields"),
        ({"cron": ""}, "it takes five fields"),
        ({"cron": "61 * * * *"}, "the cron expression '61 \\* \\* \\* \\*' can't be used: .*out of range"),
        ({"cron": "0 0 31 2 *"}, "can't be used: failed to find next date"),
        ({"cron": "a b c d e"}, "can't be used"),
        ({"timezone": "Europe/Atlantis"}, "there is no timezone 'Europe/Atlantis'"),
        ({"timezone": "../etc/passwd"}, "there is no timezone"),
        ({"workflow": "other"}, "there is no workflow 'other'; known: chain"),
        ({"payload": {"a": object()}}, "JSON"),
        ({"grace_s": -1}, "grace_s takes 0 to 86400 seconds, not -1"),
        ({"queue": ""}, "queue takes 1 to 31 letters"),
        ({"thread_id": "a\nb"}, "thread id can't hold"),
        ({"organization_id": "a/b"}, "organization_id takes"),
    ],
)
async def test_a_schedule_that_is_wrong_is_named_when_it_is_opened(change: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"schedule 'hourly': .*{why}"):
        async with open_orchestrator(GRAPHS, schedules=[replace(HOURLY, **change)]):
            pass


async def test_names_are_taken_once_and_fit_into_a_key() -> None:
    for wrong, why in (
        ([HOURLY, HOURLY], "schedule 'hourly': there are two of this name"),
        ([replace(HOURLY, name="")], "schedule '': its name takes 1 to 200 characters"),
        ([replace(HOURLY, name="n" * 201)], "its name takes 1 to 200 characters"),
    ):
        with pytest.raises(InvalidRequestError, match=why):
            async with open_orchestrator(GRAPHS, schedules=wrong):
                pass


async def test_without_croniter_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "croniter", None)
    with pytest.raises(QueueError, match=r"pip install 'holdfast\[server\]'"):
        schedules.matcher()


def due_on(schedule: Schedule, day: datetime) -> list[str]:
    """The due times within a day and a half, as one finds them who looks every minute."""
    found: list[datetime] = []
    looked = day
    while looked < day + timedelta(hours=30):
        now = looked + timedelta(minutes=1)
        if (due := schedule.latest_due(looked, now)) is not None:
            found.append(due)
        looked = now
    return [f"{due:%dT%H:%M}" for due in found]


@pytest.mark.parametrize(
    ("cron", "spring", "autumn"),
    [
        # At 01:00 UTC the clocks of Berlin go from 02:00 to 03:00, or from 03:00 back to 02:00.
        ("30 2 * * *", ["29T01:00", "30T00:30"], ["25T00:30", "26T01:30"]),
        ("0 2 * * *", ["29T01:00", "30T00:00"], ["25T00:00", "26T01:00"]),
        ("0 3 * * *", ["29T01:00", "30T01:00"], ["25T02:00", "26T02:00"]),
        ("0 4 29,25 * *", ["29T02:00"], ["25T03:00"]),
    ],
)
def test_when_the_clocks_change_a_fixed_hour_is_due_once_a_day(cron: str, spring: list[str], autumn: list[str]) -> None:
    schedule = replace(HOURLY, cron=cron, timezone="Europe/Berlin")
    assert due_on(schedule, datetime(2026, 3, 28, 23, tzinfo=UTC)) == spring
    assert due_on(schedule, datetime(2026, 10, 24, 22, tzinfo=UTC)) == autumn


@pytest.mark.parametrize("cron", ["*/20 * * * *", "*/20 */1 * * *"])
def test_when_the_clocks_change_what_recurs_within_the_day_goes_on(cron: str) -> None:
    schedule = replace(HOURLY, cron=cron, timezone="Europe/Berlin")
    for day in (datetime(2026, 3, 28, 23, tzinfo=UTC), datetime(2026, 10, 24, 22, tzinfo=UTC)):
        assert len(due_on(schedule, day)) == 30 * 3


def test_weekdays_are_those_of_the_timezone() -> None:
    monday = replace(HOURLY, cron="0 0 * * mon", timezone="Pacific/Auckland")
    assert monday.latest_due(NOON - timedelta(days=7), NOON) == datetime(2026, 11, 15, 11, tzinfo=UTC)
