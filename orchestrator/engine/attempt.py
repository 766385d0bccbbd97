"""What a node can ask of the run it belongs to: a key for the outside world, and addresses to be answered at.

The run under way is a context variable, which LangGraph carries into every node, thread and task of the attempt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID, uuid5

from langgraph.config import get_config

from orchestrator.engine.pushing import Pusher
from orchestrator.errors import InvalidRequestError, NoAttemptError
from orchestrator.runs.model import Json, Run, check_identifier
from orchestrator.runs.signals import Hook, NewHook
from orchestrator.runs.store import RunStore

__all__ = [
    "Attempt",
    "Client",
    "create_hook",
    "create_hook_sync",
    "current_attempt",
    "idempotency_key",
    "step_under_way",
    "under_way",
]

_NAMESPACE = UUID("0199c0de-0000-7000-8000-686f6c646661")
_DAY_S = 86_400.0
_LONGEST_S = 366 * _DAY_S


class Client(Protocol):
    """What a node can have the process do for its run."""

    async def start_child(
        self, parent: Run, workflow: str, payload: Json, *, run_id: str, idempotency_key: str | None = None
    ) -> Run:
        """Start a run of the batch that `parent` is; the same `run_id` again is the same run."""
        ...


@dataclass(frozen=True, slots=True)
class Attempt:
    """The attempt under way: its run as it was claimed, and what a node may need of the process."""

    run: Run
    store: RunStore
    loop: asyncio.AbstractEventLoop
    pusher: Pusher | None = None
    client: Client | None = None


_current: ContextVar[Attempt] = ContextVar("holdfast_attempt")
# The key of the call that a dispatched step is running for; it has no attempt of its own.
_step_key: ContextVar[str | None] = ContextVar("holdfast_step", default=None)


@contextmanager
def under_way(run: Run, store: RunStore, pusher: Pusher | None = None, client: Client | None = None) -> Iterator[None]:
    """Make `run` the one that the functions below are about."""
    token = _current.set(Attempt(run, store, asyncio.get_running_loop(), pusher, client))
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def step_under_way(key: str) -> Iterator[None]:
    """Let `idempotency_key` go by a step's call."""
    token = _step_key.set(key)
    try:
        yield
    finally:
        _step_key.reset(token)


def idempotency_key(name: str = "") -> str:
    """A key that is the same on every attempt of this node's execution, and different everywhere else.

    Give it to the outside world where a thing must not happen twice. `name` tells several such things in one node
    apart. A step that any worker runs has the key of its call. Raises `NoAttemptError` outside of a run.
    """
    if (step := _step_key.get()) is not None:
        return str(uuid5(_NAMESPACE, repr(["step", step, name])))
    run = current_attempt("idempotency_key").run
    metadata = get_config().get("metadata") or {}
    place = str(metadata.get("langgraph_checkpoint_ns", ""))
    # Each level is `node:task id`. The last id depends on the checkpoint, which an attempt that died before its first
    # save makes anew; the step and the path say as much, and stay.
    *above, node = place.split("|")
    path = metadata.get("langgraph_path", ())
    parts = [run.run_id, *above, node.partition(":")[0], metadata.get("langgraph_step"), path, name]
    return str(uuid5(_NAMESPACE, repr(parts)))


async def create_hook(name: str, *, expires_in: float = _DAY_S, multiple: bool = False) -> Hook:
    """An address for an outside system to post to, once, or several times if `multiple`.

    What is posted comes to the run as the signal `name`: wait for it with `interrupt({"signal": name})`. The address
    lasts `expires_in` seconds. A node that runs again finds the address it made. Raises `NoAttemptError` outside of
    a run, and `InvalidRequestError`.
    """
    attempt = current_attempt("create_hook")
    return await attempt.store.create_hook(_new_hook(attempt, name, expires_in, multiple))


def create_hook_sync(name: str, *, expires_in: float = _DAY_S, multiple: bool = False) -> Hook:
    """`create_hook` for a node that is a plain function.

    Raises `asyncio.InvalidStateError` in one that is not: there it would wait for itself.
    """
    attempt = current_attempt("create_hook_sync")
    if _is_running(attempt.loop):
        raise asyncio.InvalidStateError("create_hook_sync() was called in an async node: await create_hook() there")
    making = attempt.store.create_hook(_new_hook(attempt, name, expires_in, multiple))
    return asyncio.run_coroutine_threadsafe(making, attempt.loop).result()


def _new_hook(attempt: Attempt, name: str, expires_in: float, multiple: bool) -> NewHook:
    if not 0 < expires_in <= _LONGEST_S:
        raise InvalidRequestError(f"expires_in takes seconds, at most {_LONGEST_S:.0f}, not {expires_in}")
    key = idempotency_key(f"hook {check_identifier('signal name', name)}")
    return NewHook(attempt.run.run_id, key, name, expires_in, multiple)


def _is_running(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether this is the thread of `loop`."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def current_attempt(function: str) -> Attempt:
    """The attempt that the caller belongs to. Raises `NoAttemptError`, naming `function`, outside of one."""
    attempt = _current.get(None)
    if attempt is None:
        raise NoAttemptError(function)
    return attempt
