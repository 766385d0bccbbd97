"""How long runs are kept, by workflow and state: `30d`, or `completed=7d,failed=90d,extraction:completed=1d`.

Entries are separated by commas. Each is a time (a number with s, m, h or d, or `forever`), with what it is for in
front of it: a state in which runs are over (`completed`, `failed`, `cancelled`), a workflow and a state, or a workflow
and `*`; without that it is for all. The most specific entry counts; runs that none is for are kept for good.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["OVER", "KeepClass", "KeepFor", "parse_duration"]

OVER = ("completed", "failed", "cancelled")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_DURATION = re.compile(r"(\d{1,9})([smhd])")
_FOREVER = "forever"
_TAKES = (
    "takes a time such as 30d, or entries such as completed=7d,failed=90d,extraction:completed=1d,audit:*=forever; "
    "a time is a number with s, m, h or d, or forever, and a state is completed, failed or cancelled"
)

# A workflow and a state, either of them None for any; seconds, None for ever.
_Scope: TypeAlias = "tuple[str | None, str | None]"


@dataclass(frozen=True, slots=True)
class KeepClass:
    """Runs that are kept equally long: of one state, of one workflow or of all but `others_than`."""

    status: str
    workflow: str | None
    others_than: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class KeepFor:
    """Times by workflow and state."""

    times: tuple[tuple[_Scope, float | None], ...]

    @classmethod
    def parse(cls, text: str) -> KeepFor:
        """Raises `ValueError` naming the entry that can't be used, and what is taken."""
        times: dict[_Scope, float | None] = {}
        for entry in (part.strip() for part in text.split(",")):
            scope_text, equals, duration = entry.rpartition("=")
            scope = _scope(scope_text.strip(), entry) if equals else (None, None)
            seconds = _seconds(duration.strip(), entry)
            if scope in times:
                raise ValueError(f"{_TAKES}; {entry!r} is for what another entry is for too")
            times[scope] = seconds
        return cls(tuple(times.items()))

    @classmethod
    def always(cls, seconds: float, *, workflow: str | None = None, status: str | None = None) -> KeepFor:
        """One time for all, or for those of a workflow or in a state."""
        return cls((((workflow, status), seconds),))

    def seconds(self, workflow: str | None, status: str) -> float | None:
        """How long such a run is kept once it is over; None for ever. Without a workflow: one that is not named."""
        times = dict(self.times)
        scopes: tuple[_Scope, ...] = ((workflow, status), (workflow, None), (None, status), (None, None))
        return next((times[scope] for scope in scopes if scope in times), None)

    def classes(self, *, workflow: str | None = None, status: str | None = None) -> Iterator[KeepClass]:
        """What is not kept for ever, for one query each; only of a workflow or a state where given."""
        named = tuple(sorted({name for (name, _), _ in self.times if name is not None}))
        wanted: tuple[str | None, ...] = (*named, None) if workflow is None else (workflow,)
        for state in OVER if status is None else (status,):
            for name in wanted:
                seconds = self.seconds(name, state)
                if seconds is not None:
                    yield KeepClass(state, name, named if name is None else (), seconds)


def parse_duration(text: str) -> float:
    """Seconds, from such as `90s`, `15m`, `12h` or `30d`. Raises `ValueError`."""
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no time: it takes a number with s, m, h or d, such as 30d")
    return int(found[1]) * _UNITS[found[2]]


def _seconds(text: str, entry: str) -> float | None:
    if text == _FOREVER:
        return None
    try:
        return parse_duration(text)
    except ValueError:
        raise ValueError(f"{_TAKES}; {entry!r} is neither") from None


def _scope(text: str, entry: str) -> _Scope:
    workflow, colon, status = text.rpartition(":")
    if colon and workflow and status in (*OVER, "*"):
        return workflow, None if status == "*" else status
    if not colon and status in OVER:
        return None, status
    raise ValueError(f"{_TAKES}; {entry!r} is for none of them")
