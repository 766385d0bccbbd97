"""Points between the steps of an attempt, for tests to stop or kill the process at. They do nothing otherwise."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["on_point", "reached"]

_hook: Callable[[str, str], None] | None = None


def on_point(hook: Callable[[str, str], None] | None) -> None:
    """Call `hook` with the point's name and the run's id whenever one is reached; None for nobody."""
    global _hook
    _hook = hook


def reached(point: str, run_id: str) -> None:
    """Say that the run has come this far."""
    if _hook is not None:
        _hook(point, run_id)
