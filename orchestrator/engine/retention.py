"""Retention: runs and checkpoints that were kept long enough are forgotten, in small transactions beside live load.

What is never touched: a run that is not over (pending, running, waiting, paused, suspended), every thread that has such
a run, and what others need (`runs/expiry/queries.sql`, `unneeded`).

One pass, each step of it in pages; after each page it rests for as long as the page took, so that it never takes more
than half of one connection:

1. runs that have been over for as long as they are kept go, with all that belongs to them;
2. threads on which no run goes on are shortened to their last checkpoints;
3. where that is asked for, so are threads that no run is on;
4. what is left over goes: jobs, fences, rows of threads without checkpoints.

Each page is committed by itself: whoever is killed leaves nothing half-done, and the next pass goes on from there.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from time import monotonic

from checkpointer.postgres.retention import Freed
from checkpointer.postgres.retention_held import OWNED_TABLES
from orchestrator.engine.ticker import Ticker
from orchestrator.keeping import KeepClass, KeepFor
from orchestrator.metrics import RETENTION_LAST, RETENTION_ROWS
from orchestrator.runs.expiry.database import Database, NotOurTurnError
from orchestrator.runs.expiry.leftovers import FENCE_KEPT_S, delete_fences, delete_jobs, delete_orphans
from orchestrator.runs.expiry.removal import Page, Place, measure_page, remove_page, shorten_run
from orchestrator.runs.expiry.shortening import bare_threads, long_threads, shorten_bare, shorten_thread
from orchestrator.settings import OrchestratorSettings

__all__ = ["Report", "Retention", "RetentionRules", "retention_ticker"]

_log = logging.getLogger(__name__)
# Checkpoints that one transaction takes from a thread.
_PIECE = 500
_MIN_REST_S, _MAX_REST_S = 0.01, 1.0
# Ends are committed a little later than the time that they are written down with.
_COMMITTED_WITHIN = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class RetentionRules:
    """What is kept. Without any of the first three, everything is.

    `checkpoints` says how long all checkpoints of a run are kept once it is over; after that the last `keep_last` of
    its thread are, by default one. `workflow` and `status` narrow both to some runs. `all_threads` shortens threads
    that no run is on too, those unused for `unused_s` where given. `orphans` looks for rows without checkpoints.
    """

    runs: KeepFor | None = None
    checkpoints: KeepFor | None = None
    keep_last: int | None = None
    workflow: str | None = None
    status: str | None = None
    all_threads: bool = False
    unused_s: float | None = None
    orphans: bool = False

    @classmethod
    def of(cls, settings: OrchestratorSettings) -> RetentionRules:
        """What the settings say."""
        return cls(settings.runs_keep_for, settings.checkpoints_keep_for, settings.checkpoint_keep_last)

    def __bool__(self) -> bool:
        return self.runs is not None or self.shortens

    @property
    def shortens(self) -> bool:
        """Whether threads are shortened."""
        return self.checkpoints is not None or self.keep_last is not None

    @property
    def whole_for(self) -> KeepFor:
        """How long all checkpoints are kept."""
        return self.checkpoints or KeepFor.always(0.0)

    def classes(self, keep: KeepFor | None) -> Iterable[KeepClass]:
        """The classes of runs that are looked at for one of the two times."""
        return keep.classes(workflow=self.workflow, status=self.status) if keep is not None else ()


@dataclass(slots=True)
class Report:
    """What went, or would go: runs by workflow and state, threads that were shortened, rows and bytes by table.

    `by_state` has rows and bytes by workflow and state, where it was only measured.
    """

    runs: Counter[tuple[str, str]] = field(default_factory=Counter)
    by_state: dict[tuple[str, str], Freed] = field(default_factory=dict)
    threads: int = 0
    freed: Freed = field(default_factory=Freed)

    def add(self, freed: Freed) -> None:
        """Count what went."""
        self.freed += freed


class Retention:
    """Passes over the database; `dry` ones only measure. `progress` is told after each page."""

    def __init__(
        self,
        db: Database,
        rules: RetentionRules,
        *,
        dry: bool = False,
        fence_kept_s: float = FENCE_KEPT_S,
        progress: Callable[[Report], None] = lambda report: None,
    ) -> None:
        self._db = db
        self._rules = rules
        self._dry = dry
        self._fence_kept_s = fence_kept_s
        self._progress = progress
        self._report = Report()
        self._going: set[str] = set()
        # What was to be shortened by then has been.
        self._shortened_until: datetime | None = None

    async def run(self) -> Report:
        """One pass. Raises `DatabaseUnavailableError`, and `NotOurTurnError` where it is done in turn."""
        self._report, self._going = Report(), set()
        for kind in self._rules.classes(self._rules.runs):
            await self._remove(kind)
        if self._rules.shortens:
            await self._shorten_threads()
        if self._rules.all_threads:
            await self._shorten_bare()
        await self._clear_away()
        return self._report

    async def _remove(self, kind: KeepClass) -> None:
        after: Place | None = None
        shortened: set[str] = set()
        page = Page(is_last=False)
        while not page.is_last:
            async with self._paged():
                page = await (
                    self._measured(kind, after) if self._dry else remove_page(self._db, kind, after, shortened)
                )
                self._report.add(page.freed)
                self._report.runs.update({(workflow, kind.status): count for workflow, count in page.runs.items()})
            after = page.after
            if page.too_long is not None:
                await self._in_pieces(partial(shorten_run, self._db, page.too_long, at_most=_PIECE))
                shortened.add(page.too_long["run_id"])

    async def _measured(self, kind: KeepClass, after: Place | None) -> Page:
        page = await measure_page(self._db, kind, after)
        self._going.update(page.threads)
        for workflow, freed in page.by_workflow.items():
            known = self._report.by_state.get((workflow, kind.status), Freed())
            self._report.by_state[workflow, kind.status] = known + freed
        return page

    async def _shorten_threads(self) -> None:
        [clock] = await self._db.ask("database_time")
        keep, keep_last, since = self._rules.whole_for, self._rules.keep_last or 1, self._shortened_until
        for kind in self._rules.classes(keep):
            after: Place | None = None
            while rows := await long_threads(self._db, kind, after, keep_last, since):
                for row in rows:
                    if row["thread"] not in self._going:
                        self._going.add(row["thread"])
                        await self._shorten(partial(shorten_thread, self._db, row, keep, keep_last))
                after = rows[-1]["completed_at"], rows[-1]["run_id"]
        self._shortened_until = clock["now"] - _COMMITTED_WITHIN

    async def _shorten_bare(self) -> None:
        keep_last, after = self._rules.keep_last or 1, ""
        while threads := await bare_threads(self._db, after, keep_last, self._rules.unused_s):
            for thread in threads:
                await self._shorten(partial(shorten_bare, self._db, thread, keep_last))
            after = threads[-1]

    async def _shorten(self, work: Callable[..., Awaitable[tuple[Freed, bool]]]) -> None:
        self._report.threads += await self._in_pieces(partial(work, at_most=_PIECE, dry=self._dry))

    async def _clear_away(self) -> None:
        if not self._dry:
            await self._in_pieces(partial(delete_jobs, self._db))
            await self._in_pieces(partial(delete_fences, self._db, kept_s=self._fence_kept_s))
        for table in OWNED_TABLES if self._rules.orphans else ():
            after: str | None = ""
            while after is not None:
                async with self._paged():
                    freed, after = await delete_orphans(self._db, table, after, dry=self._dry)
                    self._report.add(freed)

    async def _in_pieces(self, piece: Callable[[], Awaitable[tuple[Freed, bool]]]) -> bool:
        """Do a piece after the other; whether anything went."""
        more, any_went = True, False
        while more:
            async with self._paged():
                freed, more = await piece()
                self._report.add(freed)
            any_went = any_went or bool(freed)
        return any_went

    @asynccontextmanager
    async def _paged(self) -> AsyncIterator[None]:
        """Say how far it is, and rest as long as the page took."""
        began, before = monotonic(), self._report.freed
        yield
        self._progress(self._report)
        if not self._dry:
            for table, rows in self._report.freed.rows.items():
                RETENTION_ROWS.labels(table=table).inc(rows - before.rows.get(table, 0))
            await asyncio.sleep(min(max(monotonic() - began, _MIN_REST_S), _MAX_REST_S))


def retention_ticker(db: Database, settings: OrchestratorSettings) -> Ticker | None:
    """Passes in the background by what the settings say, or None where they keep everything."""
    rules = RetentionRules.of(settings)
    if not rules:
        return None
    retention = Retention(replace(db, in_turn=True), rules)

    async def tick() -> None:
        try:
            report = await retention.run()
        except NotOurTurnError:
            return
        RETENTION_LAST.set_to_current_time()
        if report.freed:
            _log.info(
                "[WorkflowOrchestrator] retention removed %d runs and shortened %d threads: %d rows, about %d KB",
                report.runs.total(),
                report.threads,
                report.freed.total_rows,
                report.freed.total_bytes // 1024,
            )

    return Ticker("retention", tick, every_s=settings.run_retention_every)
