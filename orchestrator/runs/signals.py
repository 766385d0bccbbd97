"""Signals: answers that are sent to a run, and the waits that they are for. Pure; no I/O.

A node waits with LangGraph's `interrupt(value)`. The value says which signal it is for:

    interrupt({"signal": "approval", …})   that one ("name" instead of "signal" does as well)
    interrupt("approval")                  that one: a single word
    interrupt(anything else)               any signal

A signal is handed over to one wait, and each wait gets one. One that comes early, or whose name nobody waits for, is
kept, in the order of coming. One that comes twice is the same:
- with a key, whatever comes under that key again;
- without one, what equals the last signal of its name, unless the run waits for that name by now: then it is the
  answer to a new question.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from orchestrator.errors import IllegalTransitionError, InvalidRequestError
from orchestrator.runs.jsonable import canonical
from orchestrator.runs.model import STEP_SIGNAL, Json, Run, RunStatus

__all__ = [
    "ANY_SIGNAL",
    "RESUME_SIGNAL",
    "Hook",
    "NewHook",
    "NewSignal",
    "Signal",
    "answers",
    "awaited_signal",
    "is_awaited",
    "is_repeated",
    "match_signals",
    "open_waits",
    "waits_of",
]

ANY_SIGNAL = "*"
# The name under which `resume(payload)` is kept; it answers any wait.
RESUME_SIGNAL = "resume"
_WORD = re.compile(r"[A-Za-z][\w.:-]{0,99}")


@dataclass(frozen=True, slots=True)
class NewSignal:
    """What is sent. Two with the same `key` are one."""

    name: str
    payload: Json = None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Signal:
    """One row of `workflow_signal`; `interrupt_id` is the wait it was handed over to."""

    signal_id: int
    run_id: str
    name: str
    payload: Json
    created_at: datetime
    key: str | None = None
    interrupt_id: str | None = None
    delivered_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class NewHook:
    """An address to be given out: whoever posts to it sends the signal `name` to the run."""

    run_id: str
    key: str
    name: str
    expires_in_s: float
    multiple: bool = False


@dataclass(frozen=True, slots=True)
class Hook:
    """One row of `workflow_hook`. `path` is below the server's address; who knows it may post to it."""

    token: str
    run_id: str
    name: str
    multiple: bool
    expires_at: datetime

    @property
    def path(self) -> str:
        """Where to post to, such as `/.well-known/workflow/v1/webhook/…`."""
        return f"/.well-known/workflow/v1/webhook/{self.token}"


def awaited_signal(value: object) -> str:
    """The name of the signal that `interrupt(value)` is for; `*` for any."""
    if isinstance(value, Mapping):
        value = value.get("signal", value.get("name"))
    return value if isinstance(value, str) and _WORD.fullmatch(value) else ANY_SIGNAL


def waits_of(run: Run) -> dict[str, str]:
    """What a waiting run waits for: interrupt id → name of the signal."""
    return {wait["interruptId"]: wait["signal"] or ANY_SIGNAL for wait in run.awaiting or ()}


def is_awaited(name: str, waits: Mapping[str, str]) -> bool:
    """Whether one of the waits is for a signal of this name."""
    return any(_fits(name, wanted) for wanted in waits.values())


def is_repeated(run: Run, new: NewSignal, earlier: Sequence[Signal]) -> bool:
    """Whether `new` is one of the `earlier` signals of the run, come again."""
    if new.key is not None:
        return any(signal.key == new.key for signal in earlier)
    if run.status is RunStatus.WAITING and is_awaited(new.name, waits_of(run)):
        return False
    last = next((signal for signal in reversed(earlier) if signal.name == new.name), None)
    return last is not None and last.key is None and canonical(last.payload) == canonical(new.payload)


def match_signals(waits: Mapping[str, str], signals: Sequence[Signal]) -> dict[str, Signal]:
    """Interrupt id → its signal: the one handed over to it before, else the oldest kept one that fits."""
    matched = {signal.interrupt_id: signal for signal in signals if signal.interrupt_id in waits}
    free = [signal for signal in signals if signal.interrupt_id is None]
    found: dict[str, Signal] = {}
    for interrupt_id, wanted in waits.items():
        signal = matched.get(interrupt_id) or next((each for each in free if _fits(each.name, wanted)), None)
        if signal is not None:
            found[interrupt_id] = signal
            if signal in free:
                free.remove(signal)
    return found


def open_waits(run: Run) -> dict[str, str]:
    """The waits that `resume` may answer, which those for steps are not.

    Raises `IllegalTransitionError` where there are no others.
    """
    if run.waits_for_steps:
        raise IllegalTransitionError("waiting for its steps", RunStatus.PENDING)
    return {key: name for key, name in waits_of(run).items() if not name.startswith(STEP_SIGNAL)}


def answers(waits: Mapping[str, str], payload: Json) -> dict[str, Json]:
    """What `resume(payload)` answers: interrupt id → answer. Raises `InvalidRequestError` where that is open."""
    if len(waits) <= 1:
        return dict.fromkeys(waits, payload)
    if isinstance(payload, dict) and payload and payload.keys() <= waits.keys():
        return payload
    raise InvalidRequestError(
        f"the run waits for {len(waits)} answers; resume takes them by interrupt id: {', '.join(sorted(waits))}"
    )


def _fits(name: str, wanted: str) -> bool:
    # A step is nobody's to answer.
    return wanted in (ANY_SIGNAL, name) or (name == RESUME_SIGNAL and not wanted.startswith(STEP_SIGNAL))
