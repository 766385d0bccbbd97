"""Says that this process is alive, twice, from a thread of its own: a node that blocks the event loop must not make it
look dead.

- A session advisory lock on a random id, the *owner*. It dies with the connection, and the connection with the
  process, so others see a killed process within a second or two.
- Leases: every few seconds one statement renews those of all runs that the owner drives. A process that is frozen, or
  cut off, keeps its lock for long; its leases lapse after RUN_LEASE_SECONDS.

    thread:  connect ─► take the lock ─► LISTEN ─► renew ─► wait for notices until the next renewal ─► renew …
                 ▲                                   │            │
                 └────────── connection lost ◄───────┘            └─► event loop: notices, and what is held

The same connection hears what other processes tell (`runs/store.py`, Notice), so no run costs a connection. It must
not go through a transaction pooler, which keeps neither locks nor LISTEN.

A connection that is lost while the process lives is made again at once. Until the lock is held again the process's
runs may be taken over; the fence makes that safe. Only the database's clock decides about leases.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import selectors
import socket
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import psycopg
from psycopg.rows import DictRow, dict_row

from checkpointer.errors import ConnectError
from checkpointer.postgres.pool import connection_options
from checkpointer.postgres.queries import load_queries
from checkpointer.postgres.retry import summary
from orchestrator.runs.model import Request
from orchestrator.runs.sender import QUERIES, channel_of
from orchestrator.runs.store import Notice

__all__ = ["Held", "LeaseKeeper", "Runner", "new_owner_id"]

_log = logging.getLogger(__name__)
_RENEWALS_PER_LEASE = 5
_RECONNECT_EVERY_S = 0.25
_ANSWER_WITHIN_S = 5
_JOIN_WITHIN_S = 2.0
# Notices that wait for an event loop that is blocked. The oldest are dropped: they are hints.
_MAX_UNHEARD = 10_000


def new_owner_id() -> int:
    """A random positive bigint, other than 0."""
    return secrets.randbelow(2**63 - 1) + 1


@dataclass(frozen=True, slots=True)
class Held:
    """What the owner drives by its rows, at a renewal: run id → (epoch, what it was asked)."""

    runs: Mapping[str, tuple[int, Request | None]]


@dataclass(frozen=True, slots=True)
class Runner:
    """How this process shows itself in `workflow_runner`."""

    owner: int
    kind: str
    version: str
    workflows: Sequence[str]
    hostname: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)


class LeaseKeeper:
    """Keeps `runner`'s lock and leases over a connection of its own to `conninfo`.

    `heard` is called on the event loop, with what is held at every renewal and with what others tell.
    """

    def __init__(
        self, conninfo: str, schema: str, runner: Runner, *, lease_s: float, heard: Callable[[Held | Notice], None]
    ) -> None:
        self._conninfo = conninfo
        self._queries = {name: query.encode() for name, query in load_queries(QUERIES, schema).items()}
        self._channel = channel_of(schema)
        self._runner = runner
        self._lease_s = lease_s
        self._heard = heard
        self._unheard: deque[Held | Notice] = deque(maxlen=_MAX_UNHEARD)
        self._stopping = threading.Event()
        self._wake_in, self._wake_out = socket.socketpair()
        self._first: asyncio.Future[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._conn: psycopg.Connection[DictRow] | None = None

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Hold the lock for the block. Raises `checkpointer.ConnectError` where the first connection fails."""
        self._loop = asyncio.get_running_loop()
        # The thread may answer, and forget the future, before this goes on.
        first = self._first = self._loop.create_future()
        thread = threading.Thread(target=self._run, name="leases", daemon=True)
        thread.start()
        try:
            await first
            yield
        finally:
            self._stopping.set()
            with suppress(OSError):
                self._wake_in.send(b"x")
            await asyncio.to_thread(thread.join, _JOIN_WITHIN_S)
            if not thread.is_alive():
                self._wake_in.close()
                self._wake_out.close()

    def _run(self) -> None:
        """The thread: connected until stopped."""
        lost = False
        while not self._stopping.is_set():
            try:
                with self._connected() as conn:
                    self._conn = conn
                    if lost:
                        _log.info("[POSTGRES] the connection that says this server is alive is back")
                    lost = False
                    self._keep(conn)
            except (psycopg.Error, OSError) as exc:
                if not self._answer_first(exc) and not lost:
                    _log.warning("[POSTGRES] the connection that says this server is alive was lost: %s", summary(exc))
                lost = True
                self._stopping.wait(_RECONNECT_EVERY_S)
            except Exception as exc:
                # Whatever it was: a process that stops saying that it is alive loses its runs.
                if not self._answer_first(exc):
                    _log.exception("[WorkflowOrchestrator] saying that this server is alive failed; it begins anew")
                lost = True
                self._stopping.wait(_RECONNECT_EVERY_S)

    def _connected(self) -> psycopg.Connection[DictRow]:
        options = connection_options(prepare_threshold=None, row_factory=dict_row, connect_timeout=_ANSWER_WITHIN_S)
        conn = psycopg.Connection[DictRow].connect(self._conninfo, **options)
        row = conn.execute(self._queries["hold_owner_lock"], {"owner": self._runner.owner}).fetchone()
        if row is None or not row["held"]:
            # Our own lost session, which the server has not noticed yet, or someone who looks for the dead.
            conn.close()
            raise psycopg.OperationalError("its lock is not free yet")
        conn.execute(f'LISTEN "{self._channel}"'.encode())
        return conn

    def _keep(self, conn: psycopg.Connection[DictRow]) -> None:
        """Renew and listen until stopped, then forget the runner. Raises psycopg's errors."""
        every_s = self._lease_s / _RENEWALS_PER_LEASE
        with selectors.DefaultSelector() as selector:
            selector.register(conn.fileno(), selectors.EVENT_READ)
            selector.register(self._wake_out, selectors.EVENT_READ)
            while not self._stopping.is_set():
                due = monotonic() + every_s
                self._renew(conn)
                self._answer_first(None)
                while not self._stopping.is_set() and (left_s := due - monotonic()) > 0:
                    if selector.select(left_s):
                        for notify in conn.notifies(timeout=0):
                            self._tell(_notice(notify.payload))
        conn.execute(self._queries["remove_runner"], {"owner": self._runner.owner})

    def _renew(self, conn: psycopg.Connection[DictRow]) -> None:
        runner = self._runner
        params: dict[str, Any] = {
            "owner": runner.owner,
            "kind": runner.kind,
            "hostname": runner.hostname,
            "pid": runner.pid,
            "version": runner.version,
            "workflows": list(runner.workflows),
            "lease_s": self._lease_s,
        }
        rows = conn.execute(self._queries["renew"], params).fetchall()
        self._tell(Held({str(row["run_id"]): (row["epoch"], _request(row["requested"])) for row in rows}))

    def _tell(self, news: Held | Notice) -> None:
        """Hand over to the event loop, once for all that it has not heard yet."""
        was_empty = not self._unheard
        self._unheard.append(news)
        if was_empty and self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._listen)

    def _listen(self) -> None:
        news = [self._unheard.popleft() for _ in range(len(self._unheard))]
        # After a time in which the loop was blocked, only the last renewal tells how things are.
        last = next((each for each in reversed(news) if isinstance(each, Held)), None)
        for each in news:
            if each is last or isinstance(each, Notice):
                self._heard(each)

    def _answer_first(self, error: Exception | None) -> bool:
        """Let the one who opened go on, or fail; whether this was the first answer."""
        first, self._first = self._first, None
        if first is None or self._loop is None:
            return False
        if error is not None:
            self._stopping.set()
        self._loop.call_soon_threadsafe(_settle, first, error)
        return True


def _settle(first: asyncio.Future[None], error: Exception | None) -> None:
    if first.done():
        return
    if error is None:
        first.set_result(None)
    else:
        failure = ConnectError(f"the lock that says this server is alive can't be taken: {summary(error)}")
        failure.__cause__ = error
        first.set_exception(failure)


def _notice(payload: str) -> Notice:
    kind, *run_ids = payload.split() or ["free"]
    return Notice(kind if kind in ("settled", "asked", "event") else "free", tuple(run_ids))  # type: ignore[arg-type]


def _request(value: str | None) -> Request | None:
    return None if value is None else Request(value)
