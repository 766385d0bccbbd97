"""The options that every bench takes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from rich.console import Console

from tests.bench.figures import Figure
from tests.bench.machine import is_busy

__all__ = ["RESULTS", "common", "open_console", "positive", "publish"]

RESULTS = Path("bench-results")


def common(name: str, description: str) -> argparse.ArgumentParser:
    """A parser for the bench `name`, to which it may add options of its own."""
    parser = argparse.ArgumentParser(prog=f"scripts/bench {name}", description=description)
    parser.add_argument("--rounds", type=positive, metavar="N", help="rounds to take medians of (5; with --quick 2)")
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


def open_console() -> Console:
    """Where a bench prints; says at once if figures will come out wrong."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    if is_busy():
        console.print("other work runs on this machine: figures in ms will come out too high, and ratios will scatter")
    return console


class _Report(Protocol):
    @property
    def figures(self) -> Sequence[Figure]: ...

    def show(self, console: Console) -> None: ...

    def write(self, path: Path) -> None: ...


ReportT = TypeVar("ReportT", bound=_Report)


def publish(
    report: ReportT, draw: Callable[[ReportT, Path], None], chosen: argparse.Namespace, console: Console
) -> int:
    """Print the report, write it and its chart, and give the exit code."""
    report.show(console)
    report.write(chosen.json)
    draw(report, chosen.json.with_suffix(".png"))
    console.print("wrote", *(chosen.json.with_suffix(suffix) for suffix in (".json", ".md", ".png")))
    return 1 if chosen.strict and not all(figure.met for figure in report.figures) else 0


def positive(text: str) -> int:
    """A number from 1 on."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number
