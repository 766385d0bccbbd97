"""Hears SIGTERM and SIGINT, and ends a process that does not come to its end by itself.

    signal ─► thread ─► event loop: stops in good order, within DRAIN_TIMEOUT and a little
                 └─► after DRAIN_TIMEOUT + STOP_GRACE_S: ends the process, with code 0

asyncio tells of a signal when its loop comes round to it, which a node that blocks the loop keeps it from; and Python
waits for every thread before a process ends, however long a node stays in one. So a thread of its own hears the
signals. Where the process is still there when its time is up, what it drives is left to its leases: its lock goes with
it, and others take the runs over within a second or two. Only a node that never lets go of Python's global lock holds
this thread up, too.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from types import FrameType

from orchestrator.exporting import stop_exporting

__all__ = ["STOP_GRACE_S", "hear_signals"]

_log = logging.getLogger(__name__)
# After DRAIN_TIMEOUT: the last answers, what was cut off, handing runs back, and closing.
STOP_GRACE_S = 10.0
_LOOK_AGAIN_S = 0.5
_LAST_WORDS_WITHIN_S = 1.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def hear_signals(
    tell: Callable[[signal.Signals], None], *, drain_s: float, may_end: Callable[[], bool] = lambda: True
) -> None:
    """Call `tell` on the running event loop with each signal, from now to the end of the process.

    The process is gone `drain_s` and a grace after the first one, unless `may_end`, which is called in another thread,
    says that it must not be cut off yet.
    """
    loop = asyncio.get_running_loop()
    heard, wake = socket.socketpair()
    wake.setblocking(False)
    for number in _SIGNALS:
        # What is done about it is the thread's. It has to be Python's for the socket to be written to.
        signal.signal(number, _pass)
        signal.siginterrupt(number, False)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)

    def listen() -> None:
        end_at: float | None = None
        with wake:  # kept open as long as it is listened to
            while True:
                heard.settimeout(None if end_at is None else max(end_at - monotonic(), _LOOK_AGAIN_S))
                with suppress(TimeoutError):
                    for number in heard.recv(64):
                        if number in _SIGNALS:
                            end_at = end_at or monotonic() + drain_s + STOP_GRACE_S - _LAST_WORDS_WITHIN_S
                            with suppress(RuntimeError):  # the loop is closed
                                loop.call_soon_threadsafe(tell, signal.Signals(number))
                if end_at is not None and monotonic() >= end_at and may_end():
                    _end()

    threading.Thread(target=listen, name="signals", daemon=True).start()


def _end() -> None:
    # In a thread, for a node may hold up logging too.
    last_words = threading.Thread(target=_say_so, name="last words", daemon=True)
    last_words.start()
    last_words.join(_LAST_WORDS_WITHIN_S)
    os._exit(0)


def _say_so() -> None:
    _log.warning(
        "[WorkflowOrchestrator] something holds this process up, such as a node that blocks: it ends now, and what it "
        "had under way is taken over"
    )
    stop_exporting()
    logging.shutdown()


def _pass(number: int, frame: FrameType | None) -> None:
    """The thread has heard it."""
