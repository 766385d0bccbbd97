"""Recurring runs: a cron expression says when.

    Schedule("report", "0 6 * * mon-fri", "reports", {"kind": "daily"}, timezone="Europe/Berlin")

Every process looks once a second at what has come due since it last looked, and starts it under the idempotency key
`schedule:{name}:{due time in UTC}`. So a due time makes one run, however many processes look, whenever they do, and
whatever their clocks say. Times that were missed, because no process was there or the database was not, are made up
for by one run: of the latest of them, if it is not older than the schedule's `grace_s`.

Days with a change of the clocks, in `timezone`: an expression with a fixed hour is due once a day, in a repeated hour
the first time, in one that is left out at its end. With `*` or `*/n` as its hour, it is due as time passes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from orchestrator.engine.service import Orchestrator
from orchestrator.engine.ticker import Ticker
from orchestrator.errors import ClosingError, IdempotencyConflictError, InvalidRequestError, QueueError
from orchestrator.runs.jsonable import check_payload
from orchestrator.runs.model import Json, check_identifier, check_organization, check_queue
from orchestrator.settings import DEFAULT_ORGANIZATION

__all__ = ["MAX_GRACE_S", "Clock", "Schedule", "Scheduler"]

_log = logging.getLogger(__name__)
Clock = Callable[[], datetime]
# A look goes through the minutes one by one.
MAX_GRACE_S = 86_400.0
_LOOK_EVERY_S = 1.0
_MINUTE, _SHORT = timedelta(minutes=1), timedelta(minutes=5)
_MAX_NAME_CHARS = 200


@dataclass(frozen=True, slots=True)
class Schedule:
    """Starts a run of `workflow` whenever `cron`, five fields in `timezone`, is due; the other values are the run's.

    A time that was missed is made up for within `grace_s` seconds.
    """

    name: str
    cron: str
    workflow: str
    payload: Json
    _: KW_ONLY
    timezone: str = "UTC"
    thread_id: str | None = None
    organization_id: str = DEFAULT_ORGANIZATION
    queue: str = "flow"
    priority: int = 0
    grace_s: float = 60.0

    def check(self, workflows: Mapping[str, Any]) -> None:
        """Raise `InvalidRequestError` naming the schedule, or `QueueError` where croniter is not installed."""
        matcher()
        try:
            if not 0 < len(self.name) <= _MAX_NAME_CHARS:
                raise InvalidRequestError(f"its name takes 1 to {_MAX_NAME_CHARS} characters")
            check_identifier("its name", self.name)
            _check_cron(self.cron)
            _zone(self.timezone)
            if self.workflow not in workflows:
                raise InvalidRequestError(f"there is no workflow {self.workflow!r}; known: {', '.join(workflows)}")
            if not 0 <= self.grace_s <= MAX_GRACE_S:
                raise InvalidRequestError(f"grace_s takes 0 to {MAX_GRACE_S:g} seconds, not {self.grace_s}")
            check_payload(self.payload)
            check_organization(self.organization_id)
            check_queue(self.queue)
            if self.thread_id is not None:
                check_identifier("thread id", self.thread_id)
        except QueueError:
            raise
        except Exception as exc:
            raise InvalidRequestError(f"schedule {self.name!r}: {exc}") from exc

    def latest_due(self, after: datetime, until: datetime) -> datetime | None:
        """The latest due time that is later than `after` and not later than `until`; in UTC."""
        minute = until.astimezone(UTC).replace(second=0, microsecond=0)
        matches, zone = matcher(), _zone(self.timezone)
        by_hour = self.cron.split()[1].startswith("*")
        while minute > after:
            if any(matches(self.cron, wall) for wall in _wall_times(minute, zone, by_hour=by_hour)):
                return minute
            minute -= _MINUTE
        return None


def _wall_times(minute: datetime, zone: ZoneInfo, *, by_hour: bool) -> Iterator[datetime]:
    """What clocks in `zone` show at `minute`, and have passed over since the minute before."""
    now = minute.astimezone(zone)
    if by_hour or not now.fold:
        shown = now.replace(tzinfo=UTC, fold=0)
        yield shown
        before = (minute - _MINUTE).astimezone(zone).replace(tzinfo=UTC, fold=0)
        while not by_hour and (before := before + _MINUTE) < shown:
            yield before


def matcher() -> Callable[[str, datetime], bool]:
    """Says whether an expression is due at a minute. Raises `QueueError`."""
    try:
        from croniter import croniter
    except ImportError as exc:
        raise QueueError("schedules need the extra: pip install 'holdfast[server]'") from exc
    match: Callable[[str, datetime], bool] = croniter.match
    return match


def _check_cron(cron: str) -> None:
    from croniter import CroniterError, croniter

    problem = "it takes five fields: minute, hour, day, month, day of the week"
    try:
        if len(cron.split()) == len(("minute", "hour", "day", "month", "weekday")):
            croniter(cron, datetime.now(UTC)).get_next(datetime)
            return
    except (CroniterError, ValueError, KeyError, TypeError, AttributeError) as exc:
        problem = str(exc)
    raise InvalidRequestError(f"the cron expression {cron!r} can't be used: {problem}")


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError) as exc:
        raise InvalidRequestError(f"there is no timezone {name!r}; use a name such as Europe/Berlin") from exc


def utc_now() -> datetime:
    """This process's time."""
    return datetime.now(UTC)


class Scheduler:
    """Starts what is due. `clock` gives the time, with its zone.

    Raises `InvalidRequestError` for a schedule that is wrong, and for two of one name.
    """

    def __init__(self, orchestrator: Orchestrator, schedules: Sequence[Schedule], *, clock: Clock = utc_now) -> None:
        for number, schedule in enumerate(schedules):
            schedule.check(orchestrator.graphs)
            if any(schedule.name == other.name for other in schedules[:number]):
                raise InvalidRequestError(f"schedule {schedule.name!r}: there are two of this name")
        self._orchestrator = orchestrator
        self._schedules = schedules
        self._clock = clock
        self._looked: dict[str, datetime] = {}
        self._ticker = Ticker("schedules", self.tick, every_s=_LOOK_EVERY_S)

    def start(self) -> None:
        """Begin looking in the background."""
        self._ticker.start()

    async def stop(self) -> None:
        """Start nothing more."""
        await self._ticker.stop()

    async def tick(self) -> None:
        """Look once."""
        now = self._clock()
        for schedule in self._schedules:
            oldest = now - timedelta(seconds=schedule.grace_s, microseconds=1)
            # A clock that was put back must not silence a schedule; what was started already has its key.
            looked = min(max(self._looked.get(schedule.name, oldest), oldest), now)
            if now - looked < _SHORT:
                due = schedule.latest_due(looked, now)
            else:
                # Each minute takes a good part of a millisecond.
                due = await asyncio.to_thread(schedule.latest_due, looked, now)
            if due is None or await self._start(schedule, due):
                self._looked[schedule.name] = now

    async def _start(self, schedule: Schedule, due: datetime) -> bool:
        """Start the run of a due time, unless somebody has; False where that can't be done yet."""
        try:
            created = await self._orchestrator.start_or_find(
                schedule.workflow,
                schedule.payload,
                thread_id=schedule.thread_id,
                idempotency_key=f"schedule:{schedule.name}:{due.isoformat()}",
                organization_id=schedule.organization_id,
                queue=schedule.queue,
                priority=schedule.priority,
            )
        except IdempotencyConflictError as exc:
            # Another process, with another version of the schedule, was first.
            _log.warning("[WorkflowOrchestrator] schedule %s: %s", schedule.name, exc)
            return True
        except ClosingError:
            return False
        if created.is_new:
            _log.info("[WorkflowOrchestrator] schedule %s, due %s: run %s", schedule.name, due, created.run.run_id)
        return True
