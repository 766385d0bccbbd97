"""Which failures are the server's, and riding them out.

A failure is the server's where the same statement, sent again, may well succeed: the connection was lost, the
server is starting, stopping or failing over, the pool had no connection in time, or two transactions collided.
Everything sent through `ride_out` must be safe to send twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import psycopg
from psycopg_pool import PoolClosed, PoolTimeout
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from checkpointer.errors import SaverUnavailableError
from checkpointer.metrics import RETRIES

__all__ = ["ride_out", "server_fault", "summary"]

T = TypeVar("T")

# https://www.postgresql.org/docs/current/errcodes-appendix.html, by class or by whole code.
_FAULTS = {
    "08": "connection",
    "57P01": "restart",
    "57P02": "restart",
    "57P03": "restart",
    "57P05": "connection",
    "53": "resources",
    "25006": "failover",
    "40001": "serialization",
    "40P01": "deadlock",
    "55P03": "lock",
    "58": "system",
}


def server_fault(error: BaseException) -> str | None:
    """Why the server is to blame (a short word, used as a metric's label), or None where the data is."""
    if isinstance(error, PoolTimeout):
        return "pool"
    if isinstance(error, (PoolClosed, asyncio.CancelledError)):
        return None
    if isinstance(error, (TimeoutError, ConnectionError)):
        return "connection"
    if not isinstance(error, psycopg.Error):
        return None
    state = error.sqlstate
    if state is None:
        # Raised by the client: the connection is gone. Programming errors have other types.
        return "connection" if isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)) else None
    return _FAULTS.get(state) or _FAULTS.get(state[:2])


def summary(error: BaseException) -> str:
    """The error's first line, for a log or a message."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _count(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    if error is not None:
        RETRIES.labels(reason=server_fault(error) or "other").inc()


async def ride_out(operation: str, attempt: Callable[[], Awaitable[T]], *, for_s: float) -> T:
    """Run `attempt`, again while the server is at fault, for at most `for_s` seconds.

    Raises `SaverUnavailableError` when the time is used up, and whatever `attempt` raises for its own reasons.
    """
    started = time.monotonic()
    retrying = AsyncRetrying(
        retry=retry_if_exception(lambda error: server_fault(error) is not None),
        wait=wait_random_exponential(multiplier=0.05, max=1.0),
        before_sleep=_count,
        reraise=True,
    )
    last: BaseException = TimeoutError(f"no answer within {for_s:g} s")

    async def remembered() -> T:
        nonlocal last
        try:
            return await attempt()
        except Exception as exc:
            last = exc
            raise

    try:
        async with asyncio.timeout(for_s) as clock:
            return await retrying(remembered)
    except TimeoutError as exc:
        if not clock.expired():
            raise
        raise SaverUnavailableError(operation, time.monotonic() - started, summary(last)) from exc
