"""Runs every check at the same time, each with a bound of its own, and makes one report."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from time import monotonic
from typing import Any, TypeAlias

import psycopg

from checkpointer.postgres.retry import summary
from orchestrator.engine.service import Orchestrator
from orchestrator.errors import DatabaseUnavailableError
from orchestrator.health.checks import (
    check_clock,
    check_connections,
    check_engine,
    check_pool,
    check_round_trip,
    check_schema,
)
from orchestrator.health.finding import Finding, Report
from orchestrator.health.gauges import Gauges
from orchestrator.health.run_checks import (
    check_errors,
    check_growth,
    check_loads,
    check_queue,
    check_retention,
    check_runners,
    check_saves,
    check_stuck,
)
from orchestrator.health.snapshot import sender_of
from orchestrator.health.subject import Subject

__all__ = ["CHECKS", "DeepHealth", "engine_of", "examine"]

_log = logging.getLogger(__name__)

Check: TypeAlias = Callable[[Subject], Coroutine[Any, Any, Finding]]

CHECKS: dict[str, Check] = {
    "engine": check_engine,
    "checkpoint": check_round_trip,
    "schema": check_schema,
    "pool": check_pool,
    "connections": check_connections,
    "clock": check_clock,
    "queue": check_queue,
    "runners": check_runners,
    "stuck runs": check_stuck,
    "saves": check_saves,
    "loads": check_loads,
    "errors": check_errors,
    "retention": check_retention,
    "storage": check_growth,
}
_RESTS_ON_DATABASE = {"schema", "pool", "connections", "clock", "queue", "runners", "stuck runs", "storage"}
_NO_ANSWER = "not known: PostgreSQL does not answer"
_EACH_S = 3.0


async def examine(subject: Subject, *, each_s: float = _EACH_S) -> list[Finding]:
    """What every check finds; answers within `each_s` seconds whatever the server does."""
    tasks = {name: asyncio.create_task(check(subject), name=f"check {name}") for name, check in CHECKS.items()}
    _, late = await asyncio.wait(tasks.values(), timeout=each_s)
    for task in late:
        # Left to end by itself: a statement on a server that fell silent takes seconds to be given up.
        task.cancel()
        task.add_done_callback(_forget)
    findings = [_found(name, task, each_s) for name, task in tasks.items()]
    is_down = any(each.name == "engine" and each.state == "fail" for each in findings)
    return [_unknown(each) if is_down else each for each in findings]


def _found(name: str, task: asyncio.Task[Finding], each_s: float) -> Finding:
    remedy = "see the check `engine`; without a fault there, look at what the server is busy with in pg_stat_activity"
    if task.cancelling() or not task.done():
        return Finding(name, "fail", f"no answer within {each_s:g} s", each_s, "s", each_s, remedy)
    error = task.exception()
    if error is None:
        return task.result()
    if isinstance(error, DatabaseUnavailableError):
        return Finding(name, "unknown", _NO_ANSWER)
    _log.warning("[WorkflowOrchestrator] the health check %s stumbled", name, exc_info=error)
    # What a statement is refused for holds no secret; anything else might.
    what = summary(error) if isinstance(error, psycopg.Error) else type(error).__name__
    return Finding(name, "fail", f"the check stumbled: {what}", remedy="see the log of the process that looked")


def engine_of(findings: Sequence[Finding]) -> str:
    """The saver's name, as the check of the engine found it."""
    return next((str(each.figure) for each in findings if each.name == "engine" and each.unit is None), "unknown")


def _unknown(finding: Finding) -> Finding:
    """What a check of the database makes of it while that does not answer: its own remedy would lead astray."""
    if finding.name not in _RESTS_ON_DATABASE or finding.state not in ("warn", "fail"):
        return finding
    return Finding(finding.name, "unknown", f"{_NO_ANSWER} ({finding.message})")


def _forget(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()


class DeepHealth:
    """The examination of a server. Those who ask while one is under way share its report."""

    def __init__(self, orchestrator: Orchestrator, gauges: Gauges) -> None:
        self._orchestrator = orchestrator
        self._gauges = gauges
        self._examining: asyncio.Task[Report] | None = None
        self._probe_thread: str | None = None

    async def report(self) -> Report:
        """The report; within five seconds."""
        if self._examining is None or self._examining.done():
            self._examining = asyncio.create_task(self._examine(), name="deep health")
        # Shielded: one who hangs up must not spoil it for the others.
        return await asyncio.shield(self._examining)

    async def _examine(self) -> Report:
        started = monotonic()
        orchestrator = self._orchestrator
        latest = await self._gauges.refresh(within_s=1.5, max_age_s=0.0)
        # The saver is nobody else's business, so that an orchestrator does not show it.
        saver = orchestrator._saver
        options = {"probe_thread": self._probe_thread} if self._probe_thread else {}
        subject = Subject(
            saver,
            orchestrator.settings,
            sender_of(orchestrator.store),
            latest,
            self._gauges.first,
            serves=True,
            **options,
        )
        self._probe_thread = subject.probe_thread
        findings = await examine(subject)
        return Report(findings, engine_of(findings), monotonic() - started)
