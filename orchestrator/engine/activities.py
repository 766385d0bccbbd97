"""Follows an attempt through LangGraph's stream: log lines, metrics, activities and events.

What is to be written is written for all runs together, a few times a second, never on the path of a node; what is
unwritten when the attempt ends goes along with its end.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from time import monotonic, monotonic_ns
from typing import Any

from orchestrator.engine.ticker import Ticker
from orchestrator.engine.unwritten import MAX_EVENT_CHARS, UnwrittenEvents
from orchestrator.errors import DatabaseUnavailableError
from orchestrator.metrics import ACTIVITY_SECONDS
from orchestrator.runs.activity import ActivityNote, ActivityStatus
from orchestrator.runs.events import NewEvent, RunNotes
from orchestrator.runs.failure import black_out
from orchestrator.runs.jsonable import to_json
from orchestrator.runs.model import Run
from orchestrator.runs.store import RunStore

__all__ = ["ActivityRecorder", "ActivityTrail"]

_log = logging.getLogger(__name__)
# A watcher sees what happened this much later.
_FLUSH_EVERY_S = 0.05
MAX_ERROR_CHARS = 2_000


class ActivityRecorder:
    """Collects what attempts have to tell and writes it for all of them in one statement."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._untold: dict[tuple[str, int], ActivityTrail] = {}
        self._something = asyncio.Event()
        self._writing = asyncio.Lock()
        self._ticker = Ticker("recording activities", self._tick, every_s=_FLUSH_EVERY_S)

    def start(self) -> None:
        """Begin writing in the background."""
        self._ticker.start()

    async def stop(self) -> None:
        """Stop writing."""
        await self._ticker.stop()

    def note(self, trail: ActivityTrail) -> None:
        """Remember that the attempt has something to tell; does not wait."""
        if trail.is_closed:
            return
        self._untold[trail.key] = trail
        self._something.set()

    async def last(self, trail: ActivityTrail) -> RunNotes:
        """What an attempt that is over has still to tell, to go along with its end.

        Raises `DatabaseUnavailableError` where what it told before can't be seen to be written.
        """
        async with self._writing:
            trail.leave()
            self._untold.pop(trail.key, None)
            if trail.unconfirmed is not None and not trail.is_closed:
                await self._write([trail])
            trail.is_closed = True
            return trail.take()

    async def flush(self) -> None:
        """Write what was noted since the last time."""
        async with self._writing:
            batch, self._untold = self._untold, {}
            if not batch:
                return
            try:
                await self._write(list(batch.values()))
            except BaseException:
                self._untold = batch | self._untold
                raise
            for trail in batch.values():
                if trail.has_untold:
                    self.note(trail)

    async def _write(self, trails: Sequence[ActivityTrail]) -> None:
        """Write what the attempts have to tell. What the store refuses is given up, for it would hold up all others."""
        try:
            await self._store.record([trail.take() for trail in trails])
        except DatabaseUnavailableError:
            raise
        except Exception:
            if len(trails) > 1:
                for trail in trails:
                    await self._write([trail])
                return
            _log.exception("[WorkflowOrchestrator] what run %s shows can't be written; it is lost", trails[0].key[0])
        for trail in trails:
            trail.confirm()

    async def _tick(self) -> None:
        await self._something.wait()
        self._something.clear()
        await self.flush()


class ActivityTrail:
    """One attempt's activities and events, as the stream, the saver and its nodes show them.

    Made on the event loop. Events may be added from any thread, for nodes that are plain functions run outside of it.
    """

    def __init__(
        self, run: Run, recorder: ActivityRecorder, names: Collection[str], secrets: Collection[str] = ()
    ) -> None:
        # The longest first: one may be part of another.
        self._secrets = sorted(filter(None, secrets), key=len, reverse=True)
        self.is_closed = False
        self.key = run.run_id, run.epoch
        self.current: str | None = None
        self.interrupts: list[dict[str, Any]] = []
        self.unconfirmed: RunNotes | None = None
        self._run = run
        self._recorder = recorder
        self._names = names
        self._open: dict[str, ActivityNote] = {}
        self._notes: dict[str, ActivityNote] = {}
        self._events = UnwrittenEvents()
        # Where this process drives the attempt anew, under the same epoch, its marks are higher than before.
        self._mark = monotonic_ns()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._done_before: set[str] = set()

    @property
    def has_untold(self) -> bool:
        """Whether there is something that was not taken yet."""
        return not self.is_closed and bool(self._notes or self._events)

    def take(self) -> RunNotes:
        """What is to be written: what was taken before if that is not confirmed, so that it is never told in part."""
        if self.unconfirmed is None:
            self._mark += 1
            notes, self._notes = self._notes, {}
            self.unconfirmed = RunNotes(*self.key, list(notes.values()), self._events.take(), self._mark)
        return self.unconfirmed

    def confirm(self) -> None:
        """Forget what was taken: it is written."""
        self.unconfirmed = None

    def custom(self, payload: object) -> None:
        """Add what a node gave the stream writer, as it is now: the node may go on to change it."""
        if self.is_closed:
            return
        try:
            value = to_json(payload)
            text = json.dumps(value)
        except Exception as exc:
            # LangGraph's own writer takes anything, so a payload that can't be shown must not fail its node.
            value = text = f"<{type(payload).__qualname__}: {type(exc).__name__}>"
        if len(text) > MAX_EVENT_CHARS:
            value = {"truncated": text[:MAX_EVENT_CHARS]}
        self._show("custom", {"payload": value}, min(len(text), MAX_EVENT_CHARS))

    def message(self, message_id: str, activity: str, text: str) -> None:
        """Add a piece of what a chat model says."""
        for begin in range(0, len(text), MAX_EVENT_CHARS):
            piece = text[begin : begin + MAX_EVENT_CHARS]
            self._show("message", {"id": message_id, "activity": activity, "text": piece}, len(piece))

    def saved(self, checkpoint_id: str, metadata: Mapping[str, Any]) -> None:
        """Add that a checkpoint of the outermost graph was saved."""
        step, source = metadata.get("step"), metadata.get("source")
        self._show("checkpoint", {"checkpointId": checkpoint_id, "step": step, "source": source})

    def _show(self, kind: str, data: dict[str, Any], chars: int | None = None) -> None:
        """Add an event. What comes after the end of the attempt is dropped."""
        if self.is_closed or not self._events.add(NewEvent(kind, data), chars):
            # Of those that came before, the recorder knows.
            return
        if threading.get_ident() == self._thread:
            self._recorder.note(self)
        else:
            with suppress(RuntimeError):  # the loop is closed: a thread may outlive it
                self._loop.call_soon_threadsafe(self._recorder.note, self)

    def checkpoint(self, event: Mapping[str, Any]) -> None:
        """Learn which of the next step's tasks an earlier attempt has finished; they will not run again."""
        self._done_before = {task["id"] for task in event["tasks"] if "result" in task}

    def task(self, event: Mapping[str, Any]) -> None:
        """Record that a task started or ended."""
        if "triggers" not in event:
            self._ended(event)
        elif event["id"] not in self._done_before:
            self._begun(event["id"], event["name"])

    def leave(self) -> None:
        """Record that the attempt ends: LangGraph tells of no end of a task that waits for a step, or was cut off."""
        for task_id in list(self._open):
            self._ended({"id": task_id, "error": None, "interrupts": ()}, ActivityStatus.INTERRUPTED)

    def _begun(self, task_id: str, activity: str) -> None:
        run = self._run
        activity = _storable(activity)
        note = ActivityNote(run.run_id, run.epoch, run.attempt, task_id, activity)
        self._open[task_id] = note
        self.current = activity
        self._noted(note)
        _log.info("[WorkflowOrchestrator] run %s activity %s started", run.run_id, activity)

    def _ended(self, event: Mapping[str, Any], status: ActivityStatus | None = None) -> None:
        begun = self._open.pop(event["id"], None)
        if begun is None:
            return
        ended = monotonic()
        error, interrupts = event["error"], event["interrupts"]
        if status is None:
            stopped = ActivityStatus.INTERRUPTED if interrupts else ActivityStatus.COMPLETED
            status = ActivityStatus.FAILED if error else stopped
        self.interrupts += interrupts
        run = self._run
        # A new note: the first one may be on its way to the database.
        note = ActivityNote(
            run.run_id,
            run.epoch,
            run.attempt,
            begun.task_id,
            begun.activity,
            status,
            _storable(black_out(str(error), self._secrets))[:MAX_ERROR_CHARS] if error else None,
            begun.started,
            ended,
        )
        self._noted(note)
        label = begun.activity if begun.activity in self._names else "other"
        ACTIVITY_SECONDS.labels(workflow=run.workflow_type, activity=label).observe(ended - begun.started)
        _log.info(
            "[WorkflowOrchestrator] run %s activity %s %s in %.2f s",
            run.run_id,
            begun.activity,
            "finished" if status is ActivityStatus.COMPLETED else status,
            ended - begun.started,
        )

    def _noted(self, note: ActivityNote) -> None:
        self._notes[note.task_id] = note
        self._show("activity", _activity(note))
        self._recorder.note(self)


def _storable(text: str) -> str:
    """The text as a text column takes it: without NUL, and without halves of surrogate pairs."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def _activity(note: ActivityNote) -> dict[str, Any]:
    data = {"activity": note.activity, "status": str(note.status), "attempt": note.attempt, "taskId": note.task_id}
    if note.ended is not None:
        data["seconds"] = round(note.ended - note.started, 6)
    if note.error is not None:
        data["error"] = note.error
    return data
