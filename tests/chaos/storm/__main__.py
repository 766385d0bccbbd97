"""`python -m tests.chaos.storm`: see `--help`. Exit code 0 where all holds, 1 where it does not, 2 for wrong usage."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from tests.chaos.storm.report import Report
from tests.chaos.storm.run import Plan, run_storm

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a storm as the arguments say, and print its report."""
    options = _parsed(arguments)
    console = Console(width=None if sys.stdout.isatty() else 120)
    plan = Plan(options.seed, options.minutes * 60, options.lease_seconds, options.rate)
    for fault in plan.schedule() if options.schedule else ():
        console.print(f"{fault.at_s:7.1f} s  {fault.kind}, for {fault.lasts_s:g} s", highlight=False)
    if options.schedule:
        return 0
    logs = Path(tempfile.mkdtemp(prefix="holdfast-chaos-"))
    try:
        report = asyncio.run(_run(plan, logs, console))
    except asyncio.CancelledError:
        console.print(f"stopped before its end; everything that was started is ended; logs: {logs}", highlight=False)
        return 1
    report.show(console)
    if options.json:
        options.json.write_text(json.dumps(report.as_json(), indent=2) + "\n")
        options.json.with_suffix(".md").write_text(report.as_markdown())
    return 0 if report.holds else 1


async def _run(plan: Plan, logs: Path, console: Console) -> Report:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        # Ctrl-C takes everything down that was started, in order.
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await run_storm(plan, logs, console)


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "scripts/chaos", description="The whole system under load, and everything that can go wrong, for some minutes."
    )
    parser.add_argument("--minutes", type=_positive, default=3.0, help="how long the load lasts (default 3)")
    parser.add_argument("--seed", type=int, default=7, help="decides the faults and the load (default 7)")
    parser.add_argument("--rate", type=_positive, default=4.0, help="runs a second (default 4)")
    parser.add_argument("--lease-seconds", type=_positive, default=5.0, help="RUN_LEASE_SECONDS (default 5)")
    parser.add_argument("--schedule", action="store_true", help="print what would happen when, and do nothing")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the report there, too, and its table beside it as Markdown"
    )
    return parser.parse_args(arguments)


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 10_000:
        raise argparse.ArgumentTypeError(f"takes a number above 0, not {text}")
    return value


if __name__ == "__main__":
    sys.exit(main())
