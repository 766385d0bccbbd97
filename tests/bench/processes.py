"""`holdfast` as a process of its own, with default settings, and what it and PostgreSQL take of the processors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import process_time
from typing import IO

import psutil

from tests.postgres import Cluster

__all__ = ["ROOT", "CpuClock", "Process", "postmaster_of", "started"]

ROOT = Path(__file__).parent.parent.parent
_COMMAND = "from orchestrator.cli import main; main()"
# Nothing else of whoever measures is to reach a process that is measured: its settings are the defaults.
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV")
_STOP_WITHIN_S = 30


class Process:
    """A `holdfast` command that runs in `directory`, from when it is made."""

    def __init__(
        self, directory: Path, arguments: list[str], environment: Mapping[str, str], *, profile: Path | None = None
    ) -> None:
        self._log = directory / f"{arguments[0]}.log"
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        with self._log.open("ab") as log:
            given = {**kept, "PYTHONPATH": str(ROOT), **environment}
            self._process = _begun(directory, arguments, given, log, profile)
        self.ps = psutil.Process(self._process.pid)

    @property
    def log(self) -> str:
        """What it wrote."""
        return self._log.read_text()

    def check(self) -> None:
        """Raises `RuntimeError` where it ended."""
        if self._process.poll() is not None:
            raise RuntimeError(f"holdfast ended with {self._process.returncode}: {self.log[-2000:]}")

    def stop(self) -> None:
        """Ask it to end, and wait."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def _begun(
    directory: Path, arguments: list[str], environment: Mapping[str, str], log: IO[bytes], profile: Path | None
) -> subprocess.Popen[bytes]:
    entry = directory / "entry.py"
    entry.write_text(f"{_COMMAND}\n")
    watched = ["-m", "cProfile", "-o", str(profile)] if profile else []
    return subprocess.Popen(
        [sys.executable, *watched, str(entry), *arguments],
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
    )


@contextmanager
def started(
    directory: Path, *arguments: str, environment: Mapping[str, str], profile: Path | None = None
) -> Iterator[Process]:
    """A `holdfast` command in a directory, stopped at the end; with `profile`, its cProfile goes there."""
    directory.mkdir(exist_ok=True)
    process = Process(directory, list(arguments), environment, profile=profile)
    try:
        yield process
    finally:
        process.stop()


def postmaster_of(cluster: Cluster) -> int:
    """The id of the process that all of the server's come from."""
    return int((cluster.data / "postmaster.pid").read_text().splitlines()[0])


class CpuClock:
    """Seconds on a processor since it was made: of this process, of others by name, and of PostgreSQL's."""

    def __init__(self, postmaster: int, **others: list[Process]) -> None:
        self._postmaster = psutil.Process(postmaster)
        self._others = others
        self._since = self._now()

    def spent(self) -> dict[str, float]:
        """Since it was made, by name; `here` is this process. What a server process took that ended is not in it."""
        now = self._now()
        return {name: _sum(now[name]) - _sum(self._since[name], of=now[name]) for name in now}

    def _now(self) -> dict[str, dict[int, float]]:
        others = {name: {each.ps.pid: _busy(each.ps) for each in group} for name, group in self._others.items()}
        server = {each.pid: _busy(each) for each in (self._postmaster, *self._postmaster.children())}
        return {"here": {os.getpid(): process_time()}, **others, "PostgreSQL": server}


def _sum(busy: Mapping[int, float], *, of: Mapping[int, float] | None = None) -> float:
    return sum(seconds for pid, seconds in busy.items() if of is None or pid in of)


def _busy(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)
