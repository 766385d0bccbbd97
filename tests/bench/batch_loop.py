"""The plain loop that a batch is measured against: `ExtractionPipeline` over files, in processes of their own.

`python -m tests.bench.batch_loop DIRECTORY PART PARTS` says `ready`, waits for a line, reads every PARTS-th file and
extracts from it, and prints its seconds. What is found is counted and thrown away.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from time import perf_counter

from orchestrator.workflows.extraction import ExtractionPipeline

__all__ = ["loop"]


def loop(directory: Path, processes: int) -> float:
    """Seconds until the last of so many processes is done with its share of the files."""
    parts = [_started(directory, part, processes) for part in range(processes)]
    try:
        for part in parts:
            _line(part)
        for part in parts:
            assert part.stdin is not None
            part.stdin.write("go\n")
            part.stdin.flush()
        return max(float(_line(part)) for part in parts)
    finally:
        for part in parts:
            part.kill()
            part.communicate()


def _started(directory: Path, part: int, parts: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.bench.batch_loop", str(directory), str(part), str(parts)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"the loop ended with {process.wait()}")
    return line


def _extract(directory: Path, part: int, parts: int) -> float:
    pipeline = ExtractionPipeline()
    pipeline.run("Anna Keller works for Acme Inc. in Basel.")  # what is made once is made before
    files = sorted(directory.iterdir())[part::parts]
    print("ready", flush=True)
    sys.stdin.readline()
    begun = perf_counter()
    found = sum(len(pipeline.run(file.read_text())["entities"]) for file in files)
    if not found:
        raise RuntimeError("the loop found nothing")
    return perf_counter() - begun


if __name__ == "__main__":
    print(_extract(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])), flush=True)
