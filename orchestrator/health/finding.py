"""What a check found, and what all of them say together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

__all__ = ["Finding", "Report", "State", "within"]

# unknown: what the check looks at can't be reached; the check that says why fails.
State: TypeAlias = Literal["ok", "warn", "fail", "unknown"]
_STATUS = {"ok": "healthy", "warn": "degraded", "fail": "unhealthy"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what it measured, against what, and where it is not ok what to do about it."""

    name: str
    state: State
    message: str
    figure: float | int | str | None = None
    unit: str | None = None
    limit: float | int | None = None
    remedy: str | None = None

    def as_json(self) -> dict[str, Any]:
        """For machines; what does not apply is null."""
        return {
            "name": self.name,
            "state": self.state,
            "message": self.message,
            "figure": round(self.figure, 4) if isinstance(self.figure, float) else self.figure,
            "unit": self.unit,
            "limit": self.limit,
            "remedy": self.remedy if self.state in ("warn", "fail") else None,
        }


@dataclass(frozen=True, slots=True)
class Report:
    """All findings of one look."""

    findings: Sequence[Finding]
    checkpointer: str
    seconds: float

    @property
    def fails(self) -> bool:
        """Whether a check failed."""
        return any(each.state == "fail" for each in self.findings)

    @property
    def status(self) -> str:
        """`healthy`, `degraded` where something is to be looked at, or `unhealthy`."""
        states = {each.state for each in self.findings}
        return _STATUS["fail" if "fail" in states else "warn" if states & {"warn", "unknown"} else "ok"]

    def as_json(self) -> dict[str, Any]:
        """The answer of `/api/health/deep`."""
        return {
            "status": self.status,
            "checkpointer": self.checkpointer,
            "seconds": round(self.seconds, 3),
            "checks": [each.as_json() for each in self.findings],
        }


def within(
    name: str, figure: float, unit: str, *, warn: float, fail: float | None = None, message: str, remedy: str
) -> Finding:
    """A figure that should not be above its limits; `limit` shows the one that was passed, or the first."""
    state: State = "ok"
    limit = warn
    if fail is not None and figure > fail:
        state, limit = "fail", fail
    elif figure > warn:
        state = "warn"
    return Finding(name, state, message, figure, unit, limit, remedy)
