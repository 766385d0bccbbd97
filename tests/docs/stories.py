"""A page as a story: its blocks in their order, in one shell and one directory, as a reader would type them.

`holdfast` is there, and so are the files that the page shows (Python that begins with `# NAME.py`). What the reader
leaves running in another terminal runs in the background: a server in the foreground of the page is ready when the next
line comes, and is stopped when the page starts another one, or ends.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from tests.docs.pages import ROOT, Block
from tests.forking import write_command

__all__ = ["play"]

_FILE = re.compile(r"# (\w+\.py)\n")
_ADDRESS = re.compile(r"(localhost|127\.0\.0\.1):3456")
# What makes an environment, which here is there already, and what is run by itself.
_ELSEWHERE = re.compile(r"(python3 -m venv|pip install|\./scripts/\w+)\b")
_WITHIN_S = 150
_PREAMBLE = r"""
set -euo pipefail
servers=()
stop_servers() {
  for pid in "${servers[@]}"; do
    kill "$pid"
    wait "$pid"
  done
  servers=()
}
kill_jobs() { jobs -p | while read -r pid; do kill -9 "$pid" 2>/dev/null || true; done; }
trap kill_jobs EXIT
holdfast() {
  case "$1" in serve|worker) ;; *) command holdfast "$@"; return ;; esac
  if [ "$BASH_SUBSHELL" -gt 0 ]; then exec "$BIN/holdfast" "$@"; fi
  if [ "$1" = serve ]; then stop_servers; fi
  local at_work
  at_work=$(workers)
  command holdfast "$@" &
  servers+=("$!")
  if [ "$1" = serve ]; then
    until command curl -sf "http://127.0.0.1:$PORT/api/health/live" >/dev/null; do kill -0 "$!"; sleep 0.1; done
  else
    until [ "$(workers)" -gt "$at_work" ]; do kill -0 "$!"; sleep 0.1; done
  fi
}
workers() { grep -c 'working on' page.log || true; }
"""


def play(
    blocks: Sequence[Block], directory: Path, port: int, environment: Mapping[str, str], replaced: Mapping[str, str]
) -> str:
    """Run the blocks in `directory`; what they printed. Raises `AssertionError` with it where one of them fails.

    `replaced` are words of the page that stand for something else here, such as the address of a server.
    """
    for word, instead in replaced.items():
        blocks = [replace(block, text=block.text.replace(word, instead)) for block in blocks]
    script = "\n".join([_PREAMBLE, *_commands(blocks, directory), "stop_servers"])
    script = _ADDRESS.sub(f"127.0.0.1:{port}", script)
    (directory / "page.sh").write_text(script)
    output = directory / "page.log"
    with output.open("wb") as file:
        process = subprocess.Popen(
            ["bash", "page.sh"],
            cwd=directory,
            env=_environment(directory, port, environment),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            process_group=0,
        )
        try:
            code = process.wait(_WITHIN_S)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    printed = output.read_text()
    assert code == 0, f"{blocks[0].page} ended with {code}:\n{printed[-6000:]}"
    return printed


def _commands(blocks: Sequence[Block], directory: Path) -> list[str]:
    """The page as lines for the shell. What is for a file is written there; Python that is for none is run."""
    lines = []
    for block in blocks:
        if block.needs or block.language not in ("python", "sh"):
            continue
        lines.append(f"echo {shlex.quote(f'=== {block}')}")
        if block.language == "sh":
            lines += [line for line in block.text.splitlines() if not _ELSEWHERE.match(line)]
        elif name := _FILE.match(block.text):
            (directory / name[1]).write_text(block.text)
        else:
            (directory / f"line{block.line}.py").write_text(block.text)
            lines.append(f"python3 line{block.line}.py")
    return lines


def _environment(directory: Path, port: int, changes: Mapping[str, str]) -> dict[str, str]:
    programs = directory / "bin"
    programs.mkdir()
    write_command(programs / "holdfast")
    (programs / "python3").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    (programs / "python3").chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "BIN": str(programs),
        "PYTHONPATH": str(ROOT),
        "PORT": str(port),
        "NO_PROXY": "127.0.0.1",
        **changes,
    }
