"""The events of one attempt that were not taken to be written yet: added from any thread, and bounded.

What nodes and models say is dropped, the oldest first, where there comes more of it than can be written: the run is
not slowed, and how much was lost is said in its place. Activities and checkpoints are always kept.
"""

from __future__ import annotations

import threading
from collections import deque
from itertools import count

from orchestrator.runs.events import NewEvent

__all__ = ["MAX_EVENT_CHARS", "MAX_UNWRITTEN_CHARS", "MAX_UNWRITTEN_EVENTS", "UnwrittenEvents"]

MAX_EVENT_CHARS = 64_000
MAX_UNWRITTEN_EVENTS = 5_000
MAX_UNWRITTEN_CHARS = 4_000_000


class UnwrittenEvents:
    """In the order in which they were added."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = count()
        self._events: dict[int, NewEvent] = {}
        self._spare: deque[tuple[int, int]] = deque()
        self._spare_chars = 0
        self._lost = 0

    def __bool__(self) -> bool:
        return bool(self._events)

    def add(self, event: NewEvent, chars: int | None = None) -> bool:
        """Add one, whether it is the first. One of so many `chars` may be dropped again; without, it may not."""
        with self._lock:
            is_first = not self._events
            number = next(self._numbers)
            self._events[number] = event
            if chars is not None:
                self._spare.append((number, chars))
                self._spare_chars += chars
                while len(self._spare) > MAX_UNWRITTEN_EVENTS or self._spare_chars > MAX_UNWRITTEN_CHARS:
                    self._drop_oldest()
            return is_first

    def _drop_oldest(self) -> None:
        number, chars = self._spare.popleft()
        del self._events[number]
        self._spare_chars -= chars
        self._lost += 1

    def take(self) -> list[NewEvent]:
        """All of them, which are then forgotten here; the pieces of a message that follow each other are one."""
        with self._lock:
            events, lost = self._events, self._lost
            oldest_kept = self._spare[0][0] if self._spare else None
            self._events, self._spare, self._spare_chars, self._lost = {}, deque(), 0, 0
        taken: list[NewEvent] = []
        for number, event in events.items():
            if lost and number == oldest_kept:
                taken.append(NewEvent("custom", {"payload": {"eventsLost": lost}}, event.at))
            taken.append(event)
        return _joined(taken)


def _joined(events: list[NewEvent]) -> list[NewEvent]:
    """The events with what a model says a word at a time as one, as long as it is not too much for one."""
    joined: list[NewEvent] = []
    words: list[str] = []
    chars = 0
    for event in events:
        last = joined[-1] if joined else None
        goes_on = last is not None and event.kind == last.kind == "message" and event.data["id"] == last.data["id"]
        if last is not None and goes_on and chars + len(event.data["text"]) <= MAX_EVENT_CHARS:
            words.append(event.data["text"])
            chars += len(words[-1])
            continue
        _say(joined, words)
        joined.append(event)
        words = [event.data["text"]] if event.kind == "message" else []
        chars = sum(map(len, words))
    _say(joined, words)
    return joined


def _say(joined: list[NewEvent], words: list[str]) -> None:
    if len(words) > 1:
        said = joined[-1]
        joined[-1] = NewEvent(said.kind, {**said.data, "text": "".join(words)}, said.at)
