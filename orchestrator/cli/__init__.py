"""The command `holdfast`. Exit codes: 0 done, 1 it failed, 2 wrong usage or settings, 3 a watched run rests."""

from __future__ import annotations

import gc
import sys

__all__ = ["main"]

# What the `server` extra brings; anything else that can't be imported is a defect and shows its traceback.
_EXTRA = {"typer", "click", "rich", "fastapi", "starlette", "uvicorn", "sse_starlette"}


def main() -> None:
    """Entry point of the console command."""
    try:
        from orchestrator.cli.app import run
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in _EXTRA:
            raise
        print(
            f"holdfast needs its `server` extra ({exc.name} is missing): pip install 'holdfast[server]'",
            file=sys.stderr,
        )
        sys.exit(2)
    try:
        run(sys.argv[1:])
    finally:
        # Else the interpreter, on its way out, goes through all that was imported: a third of a short command's time.
        gc.freeze()
