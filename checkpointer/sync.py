"""The same saver for code without an event loop: a portal over `open_saver`, not a second implementation.

One background thread runs one event loop; the saver lives there and its synchronous methods hand their work over
to it, from as many threads as there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from anyio.from_thread import start_blocking_portal
from langgraph.checkpoint.base import BaseCheckpointSaver

from checkpointer.factory import open_saver
from checkpointer.settings import CheckpointerSettings

__all__ = ["open_saver_sync"]


@contextmanager
def open_saver_sync(
    settings: CheckpointerSettings | None = None,
) -> Iterator[BaseCheckpointSaver[Any]]:
    """Open the saver that the settings ask for, for `graph.invoke` and `graph.stream` from any thread.

    Raises what `open_saver` raises.
    """
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(open_saver(settings)) as saver,
    ):
        yield saver
