"""The options that every bench takes."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["RESULTS", "common"]

RESULTS = Path("bench-results")


def common(name: str, description: str) -> argparse.ArgumentParser:
    """A parser for the bench `name`, to which it may add options of its own."""
    parser = argparse.ArgumentParser(prog=f"scripts/bench {name}", description=description)
    parser.add_argument("--rounds", type=_positive, metavar="N", help="rounds to take medians of (5; with --quick 2)")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and a short warm-up")
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        default=RESULTS / f"{name}.json",
        help="where the numbers go; the chart goes beside it (%(default)s)",
    )
    parser.add_argument("--strict", action="store_true", help="exit code 1 where a figure misses its mark")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number
