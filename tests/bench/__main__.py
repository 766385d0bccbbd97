"""`python -m tests.bench [NAME] [options]`: one bench, or all of them and one page of what they found."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from time import monotonic

from tests.bench.options import RESULTS, positive
from tests.bench.page import Entry, write_page

# Each is a module `tests.bench.NAME` with `main(arguments) -> exit code`, which takes the options of `options.common`.
BENCHES = {
    "saver": "LangGraph's savers and ours on the same work",
    "storage": "Long threads on disk, in the WAL and in time; whole, shared, and with retention",
    "orchestrator": "A run through the orchestrator, beside graph.ainvoke and a plain loop",
    "queue": "Runs through the queue and its workers",
    "http": "Runs over HTTP, beside graph.ainvoke",
    "batch": "A batch of documents, beside a plain loop",
    "extraction": "How right the offline extraction is",
    "crowd": "Saves and loads while 100 and 400 runs are under way",
    "recovery": "From the death of a server to the next node elsewhere",
    "soak": "Memory and storage under a load that goes on",
}


def main(arguments: Sequence[str]) -> int:
    """Run the bench that the first argument names, or every one; the worst exit code."""
    if not arguments or arguments[0].startswith("-"):
        return _every(_parser().parse_args(arguments))
    name, *rest = arguments
    if name not in BENCHES:
        print(f"error: there is no bench {name!r}; there is: {', '.join(BENCHES)}", file=sys.stderr)
        return 2
    return _run(name, rest)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Run all benches one after the other, and write one page of what they found.",
        epilog=f"One alone: scripts/bench NAME, with options of its own (--help). NAME is {', '.join(BENCHES)}.",
    )
    parser.add_argument("--quick", action="store_true", help="a first impression: fewer rounds, less work")
    parser.add_argument("--rounds", type=positive, metavar="N", help="rounds of each")
    parser.add_argument("--strict", action="store_true", help="exit code 1 where a figure misses its mark")
    parser.add_argument("--only", metavar="NAME,…", default=",".join(BENCHES), help="these, and not all of them")
    parser.add_argument("--page-only", action="store_true", help="run nothing: the page of what there is")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        default=RESULTS,
        help="where numbers, charts and the page go (%(default)s)",
    )
    return parser


def _every(chosen: argparse.Namespace) -> int:
    """One bench that breaks does not keep the others from being run; the page says that it did."""
    names = chosen.only.split(",")
    if unknown := [name for name in names if name not in BENCHES]:
        print(f"error: there is no bench {unknown[0]!r}; there is: {', '.join(BENCHES)}", file=sys.stderr)
        return 2
    worst, problems = 0, dict.fromkeys(names, "")
    for number, name in enumerate([] if chosen.page_only else names, 1):
        print(f"\n{number} of {len(names)}: {name}: {BENCHES[name]}", flush=True)
        begun = monotonic()
        try:
            worst = max(worst, _run(name, _passed_on(chosen, name)))
        except Exception as exc:
            traceback.print_exc()
            problems[name] = f"It broke: {type(exc).__name__}: {exc}"
            worst = max(worst, 1)
        print(f"{name}: {monotonic() - begun:.0f} s", flush=True)
    page = chosen.out / "report.html"
    write_page(page, [Entry(name, BENCHES[name], chosen.out / f"{name}.json", problems[name]) for name in names])
    print(f"wrote {page}")
    return worst


def _passed_on(chosen: argparse.Namespace, name: str) -> list[str]:
    options = ["--json", str(chosen.out / f"{name}.json")]
    options += ["--rounds", str(chosen.rounds)] if chosen.rounds else []
    options += [f"--{flag}" for flag in ("quick", "strict") if getattr(chosen, flag)]
    return options


def _run(name: str, arguments: Sequence[str]) -> int:
    code: int = import_module(f"tests.bench.{name}").main(arguments)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
