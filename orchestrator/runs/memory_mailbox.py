"""What is sent to runs in memory: signals, and the addresses from which they come."""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import count

from orchestrator.errors import HookNotFoundError, IllegalTransitionError
from orchestrator.runs.carried import CarriedHook, CarriedRun
from orchestrator.runs.memory_rows import MemoryRows, holds
from orchestrator.runs.model import CHILDREN_SIGNAL, Json, Run, RunStatus
from orchestrator.runs.signals import (
    RESUME_SIGNAL,
    Hook,
    NewHook,
    NewSignal,
    Signal,
    answers,
    is_awaited,
    is_repeated,
    open_waits,
    waits_of,
)
from orchestrator.runs.store import Notice

__all__ = ["MemoryMailbox"]


@dataclass(slots=True)
class _KnownHook:
    hook: Hook
    key: str
    uses: int = 0

    @property
    def is_usable(self) -> bool:
        return self.hook.expires_at > datetime.now(UTC) and (self.hook.multiple or not self.uses)


class MemoryMailbox(MemoryRows):
    """Signals and hooks, beside the rows. `signal_count` on a row is the number of signals kept for it."""

    def __init__(self) -> None:
        super().__init__()
        self._signals: defaultdict[str, dict[int, Signal]] = defaultdict(dict)
        self._signal_ids = count(1)
        self._hooks: dict[str, _KnownHook] = {}
        self._hook_keys: dict[tuple[str, str], str] = {}
        self._await_children: set[str] = set()

    async def send_signal(self, run_id: str, signal: NewSignal) -> Run:
        return self._send(run_id, signal)

    async def signals(self, run_id: str) -> list[Signal]:
        return self._kept(run_id)

    async def deliver(self, run: Run, answers: Mapping[int, str]) -> bool:
        if not holds(self._runs.get(run.run_id), run):
            return False
        kept = self._signals[run.run_id]
        for signal_id, interrupt_id in answers.items():
            # A signal is handed over once; sent again, this changes nothing.
            if signal_id in kept and kept[signal_id].interrupt_id is None:
                now = datetime.now(UTC)
                kept[signal_id] = replace(kept[signal_id], interrupt_id=interrupt_id, delivered_at=now)
        return True

    async def await_children(self, run_id: str) -> int:
        self._await_children.add(run_id)
        return len(self._children[run_id])

    def _child_ended(self, child: Run, batch_id: str) -> None:
        parent = self._runs.get(batch_id)
        if parent is None or parent.is_final:
            return
        self._add_event(batch_id, "document", {"childRunId": child.run_id, "status": str(child.status)})
        self.listener(Notice("event", (batch_id,)))
        if batch_id in self._await_children and not self._children[batch_id]:
            self._await_children.remove(batch_id)
            kept = self._keep(parent, NewSignal(CHILDREN_SIGNAL))
            if parent.status is RunStatus.WAITING and is_awaited(CHILDREN_SIGNAL, waits_of(parent)):
                self._tell(self._move(kept, RunStatus.PENDING, requested=kept.requested))

    async def create_hook(self, new: NewHook) -> Hook:
        run = self._row(new.run_id)
        if token := self._hook_keys.get((run.run_id, new.key)):
            return self._hooks[token].hook
        hook = Hook(
            token=secrets.token_urlsafe(32),
            run_id=run.run_id,
            name=new.name,
            multiple=new.multiple,
            expires_at=datetime.now(UTC) + timedelta(seconds=new.expires_in_s),
        )
        self._hooks[hook.token] = _KnownHook(hook, new.key)
        self._hook_keys[run.run_id, new.key] = hook.token
        return hook

    async def use_hook(self, token: str, payload: Json) -> Run:
        known = self._hooks.get(token)
        if known is None or not known.is_usable:
            raise HookNotFoundError
        # Not under the token, which is a secret: signals are shown.
        key = f"hook {known.key} {known.uses + 1}"
        run = self._send(known.hook.run_id, NewSignal(known.hook.name, payload, key))
        # Not before: what the run refused has not used the address up.
        known.uses += 1
        return run

    def _send(self, run_id: str, signal: NewSignal) -> Run:
        row = self._row(run_id)
        # What came twice is answered even where it has brought the run to its end.
        if is_repeated(row, signal, self._kept(run_id)):
            return row
        if row.is_final:
            raise IllegalTransitionError(row.status, "signalled")
        kept = self._keep(row, signal)
        if row.status is not RunStatus.WAITING or not is_awaited(signal.name, waits_of(row)):
            return kept
        free = self._move(kept, RunStatus.PENDING, requested=kept.requested)
        self._tell(free)
        return free

    def _answer(self, row: Run, signal: NewSignal) -> Run:
        """Keep what a waiting run is resumed with, handed over already. Raises `InvalidRequestError`."""
        given = answers(open_waits(row), signal.payload)
        if not given and row.last_checkpoint_id is not None:
            # It rests at a static breakpoint, which has no interrupt: the checkpoint stands for it.
            given = {row.last_checkpoint_id: signal.payload}
        for number, (interrupt_id, answer) in enumerate(given.items()):
            # A key is one row's; that it was seen tells for all of them.
            key = None if number else signal.key
            row = self._keep(row, NewSignal(RESUME_SIGNAL, answer, key), interrupt_id)
        return row

    def _keep_given(self, row: Run, signal: NewSignal | None) -> Run:
        """Keep what a run that does not wait is resumed with, for its next wait."""
        return row if signal is None or signal.payload is None else self._keep(row, signal)

    def _keep(self, row: Run, new: NewSignal, interrupt_id: str | None = None) -> Run:
        now = datetime.now(UTC)
        signal = Signal(
            signal_id=next(self._signal_ids),
            run_id=row.run_id,
            name=new.name,
            payload=new.payload,
            created_at=now,
            key=new.key,
            interrupt_id=interrupt_id,
            delivered_at=None if interrupt_id is None else now,
        )
        self._signals[row.run_id][signal.signal_id] = signal
        self._add_event(row.run_id, "signal", {"name": new.name, "key": new.key})
        return self._change(row, signal_count=row.signal_count + 1)

    def _is_known(self, run_id: str, signal: NewSignal) -> bool:
        return signal.key is not None and any(kept.key == signal.key for kept in self._kept(run_id))

    def _kept(self, run_id: str) -> list[Signal]:
        return list(self._signals.get(run_id, {}).values())

    def _carry_mail_in(self, carried: CarriedRun) -> None:
        for signal in carried.signals:
            # Numbers of its own: those given here must come after, whatever a database has counted to.
            kept = replace(signal, signal_id=next(self._signal_ids))
            self._signals[signal.run_id][kept.signal_id] = kept
        for each in carried.hooks:
            self._hooks[each.hook.token] = _KnownHook(each.hook, each.key, each.uses)
            self._hook_keys[each.hook.run_id, each.key] = each.hook.token
        if carried.awaits_children:
            self._await_children.add(carried.run.run_id)

    def _hooks_by_run(self) -> dict[str, list[CarriedHook]]:
        found: defaultdict[str, list[CarriedHook]] = defaultdict(list)
        for each in self._hooks.values():
            found[each.hook.run_id].append(CarriedHook(each.hook, each.key, each.uses))
        return found
