"""Garbage is collected as in a server, which goes through what it has imported once and never again."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.cli.heap import settle_heap

__all__ = ["settled"]


@contextmanager
def settled() -> Iterator[None]:
    """For all contenders alike: else one of them meets, at random, a collection of the whole heap, of 150 ms."""
    thresholds = gc.get_threshold()
    settle_heap()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
