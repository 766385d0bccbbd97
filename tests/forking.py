"""`holdfast` as a process, without the second that its imports take: forked from one process that has made them.

The fork server imports the command line once and then waits for requests on a socket. For each it forks; the child
takes over the caller's directory, environment and files, and runs the command to its end like a process begun anew.
It is a process like any other: with a pid of its own, to be signalled, frozen and killed. What differs is what the
interpreter or a library reads from the environment while it is imported; a test of that starts a process itself.

The fork server has one thread only, and lives as long as the process that asked for it. How a child ended it writes
into a pipe that came with the request.
"""

from __future__ import annotations

import array
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

__all__ = ["Forked", "fork_holdfast", "run_holdfast"]

ROOT = Path(__file__).parent.parent
_IMPORTED = (
    "orchestrator.cli.app",
    "orchestrator.cli.database",
    "orchestrator.cli.runs",
    "orchestrator.cli.serve",
    "orchestrator.cli.worker",
    "orchestrator.queues.postgres",
    "uvicorn.lifespan.on",
)
_MAX_REQUEST = 1 << 20


class Forked:
    """A process under way; what is there of `subprocess.Popen` behaves like it."""

    def __init__(self, pid: int, ended: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = ended

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code once it is over. Raises `subprocess.TimeoutExpired`."""
        code = self._look(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("holdfast", timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it is still there."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def _look(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._ended], [], [], timeout)[0]:
            # Nothing at all: the fork server is gone, and its children's ends are not known.
            self.returncode = int(os.read(self._ended, 16) or b"-9")
            os.close(self._ended)
        return self.returncode


def fork_holdfast(
    arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], stdout: IO[Any], stderr: IO[Any]
) -> Forked:
    """Start `holdfast` with these arguments; `env` is its whole environment."""
    return _server().fork({"arguments": list(arguments), "cwd": str(cwd), "env": dict(env)}, stdout, stderr)


def run_holdfast(
    arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run `holdfast` to its end. Raises `subprocess.TimeoutExpired`, after killing it."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = fork_holdfast(arguments, cwd=cwd, env=env, stdout=out, stderr=err)
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
    return subprocess.CompletedProcess(["holdfast", *arguments], code, *texts)


class _ForkServer:
    """The fork server as its caller sees it."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.forking", str(theirs.fileno())],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self._one_at_a_time = threading.Lock()

    def fork(self, request: Mapping[str, Any], stdout: IO[Any], stderr: IO[Any]) -> Forked:
        ended, tell = os.pipe()
        try:
            with self._one_at_a_time:
                socket.send_fds(self._socket, [json.dumps(request).encode()], [stdout.fileno(), stderr.fileno(), tell])
                return Forked(int(self._socket.recv(16)), ended)
        finally:
            os.close(tell)


_starting = threading.Lock()


def _server() -> _ForkServer:
    """This process's fork server, started when it is first needed."""
    with _starting:
        return _server_of(os.getpid())


@cache
def _server_of(pid: int) -> _ForkServer:
    return _ForkServer()


def _serve(control: socket.socket) -> list[str] | None:
    """Fork for every request. In the child, returns its arguments; None once the caller is gone."""
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    children: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([control.fileno(), wake], [], [])
        if wake in ready:
            os.read(wake, 4096)
            _reap(children)
        if control.fileno() not in ready:
            continue
        data, files = _receive(control)
        if not data:
            return None
        stdout, stderr, tell = files
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            control.close()
            for file in (wake, woken, tell, *children.values()):
                os.close(file)
            return _become(json.loads(data), stdout, stderr)
        os.close(stdout)
        os.close(stderr)
        children[pid] = tell
        control.send(str(pid).encode())


def _receive(control: socket.socket) -> tuple[bytes, list[int]]:
    files = array.array("i")
    data, ancillary, _, _ = control.recvmsg(_MAX_REQUEST, socket.CMSG_LEN(3 * files.itemsize))
    for _, _, content in ancillary:
        files.frombytes(content)
    return data, list(files)


def _reap(children: dict[int, int]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        tell = children.pop(pid)
        with suppress(BrokenPipeError):
            os.write(tell, str(os.waitstatus_to_exitcode(status)).encode())
        os.close(tell)


def _become(request: Mapping[str, Any], stdout: int, stderr: int) -> list[str]:
    """Take over what the caller gave."""
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.close(stdout)
    os.close(stderr)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    # As after `python -c`: the working directory, then PYTHONPATH.
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:0] = ["", *paths]
    sys.argv = ["holdfast", *request["arguments"]]
    return list(request["arguments"])


def _main() -> None:
    for name in _IMPORTED:
        __import__(name)
    # What is imported stays: no child is to go through it, and so to copy it.
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as control:
        arguments = _serve(control)
    if arguments is not None:
        from orchestrator.cli import main

        main()


if __name__ == "__main__":
    _main()
