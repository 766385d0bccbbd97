"""`python -m tests.bench [NAME] [options]`: one bench, or all of them with the same options."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

# Each is a module with `main(arguments) -> exit code`, which takes at least the options of `options.common`.
BENCHES = {
    "saver": "tests.bench.saver",
    "storage": "tests.bench.storage",
    "orchestrator": "tests.bench.orchestrator",
    "queue": "tests.bench.queue",
    "http": "tests.bench.http",
}


def main(arguments: Sequence[str]) -> int:
    """Run the bench that the first argument names, or every one; the worst exit code."""
    if arguments and not arguments[0].startswith("-"):
        name, *rest = arguments
        if name not in BENCHES:
            print(f"error: there is no bench {name!r}; there is: {', '.join(BENCHES)}", file=sys.stderr)
            return 2
        return _run(name, rest)
    return max(_run(name, arguments) for name in BENCHES)


def _run(name: str, arguments: Sequence[str]) -> int:
    code: int = import_module(BENCHES[name]).main(arguments)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
