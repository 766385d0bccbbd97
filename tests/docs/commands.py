"""Single commands of a page, for pages whose commands stand for themselves: each is run, and has to succeed."""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.docs.pages import ROOT, Block
from tests.forking import run_holdfast

__all__ = ["Terminal", "commands_of", "run_python"]

_ADDRESS = re.compile(r"(localhost|127\.0\.0\.1):3456")
_SETTING = re.compile(r"[A-Z_]+=")
# A stream ends with its run; one that does not is cut off, which is no failure of the command.
_SECONDS = "20"


def commands_of(block: Block) -> Iterator[str]:
    """The commands of a block: lines, but that quotes and backslashes hold several of them together."""
    held = ""
    for line in block.text.splitlines():
        held += line.rstrip("\\") if line.endswith("\\") else f"{line}\n"
        try:
            words = shlex.split(held, comments=True)
        except ValueError:
            continue
        if line.endswith("\\"):
            continue
        if words:
            yield held.strip()
        held = ""


@dataclass(frozen=True)
class Terminal:
    """Where commands are typed: a directory, an environment, and the port of the server that they mean."""

    directory: Path
    environment: Mapping[str, str]
    port: int

    async def type(self, command: str, *, allowed: Sequence[int] = ()) -> str:
        """Run it and return what it printed. Raises `AssertionError` where it failed.

        `allowed` are answers over HTTP that count as success beside those below 400.
        """
        given = shlex.split(_ADDRESS.sub(f"127.0.0.1:{self.port}", command), comments=True)
        settings = [word for word in given if _SETTING.match(word)]
        program, *arguments = given[len(settings) :]
        environment = {**self.environment, **dict(word.split("=", 1) for word in settings)}
        if program == "holdfast":
            done = await asyncio.to_thread(run_holdfast, arguments, cwd=self.directory, env=self._all(environment))
        elif program == "curl":
            return await self._curl(command, arguments, allowed)
        else:
            raise AssertionError(f"nobody runs {command!r}: give it a test, or a comment with what it needs")
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    async def _curl(self, command: str, arguments: list[str], allowed: Sequence[int]) -> str:
        asked = ["curl", "-sS", "--noproxy", "*", "--max-time", _SECONDS, "-w", "\n%{http_code}", *arguments]
        done = await asyncio.to_thread(
            subprocess.run, asked, cwd=self.directory, capture_output=True, text=True, check=False
        )
        body, _, status = done.stdout.rpartition("\n")
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        assert int(status) < 400 or int(status) in allowed, f"{command}\n{status} {body}"
        return body

    def _all(self, environment: Mapping[str, str]) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", **environment}


async def run_python(blocks: Sequence[Block], names: dict[str, Any]) -> None:
    """Run blocks one after the other with the same names; `await` may stand at their top level."""
    for block in blocks:
        code = compile(block.text, str(block), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        begun = eval(code, names)  # noqa: S307 - our own pages
        if inspect.isawaitable(begun):
            await begun
