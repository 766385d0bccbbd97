"""`holdfast` as a process, without the second that its imports take: forked from one process that has made them.

The fork server imports the command line once and then waits for requests on a socket. For each it forks; the child
takes over the caller's directory, environment and files, and runs the command to its end like a process begun anew.
It is a process like any other: with a pid of its own, to be signalled, frozen and killed. What differs is what the
interpreter or a library reads from the environment while it is imported; a test of that starts a process itself.

The fork server has one thread only, and lives as long as the process that asked for it. How a child ended it writes
into a pipe that came with the request.

Scripts have it too: what `write_command` writes is a `holdfast` that a shell finds on its PATH. See `tests.forked`.
"""

from __future__ import annotations

import array
import atexit
import gc
import json
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, Any, NoReturn
from uuid import uuid4

from tests import forked

__all__ = ["Forked", "fork_address", "fork_holdfast", "run_holdfast", "write_command"]

ROOT = Path(__file__).parent.parent
_IMPORTED = (
    "orchestrator.cli.app",
    "orchestrator.cli.database",
    "orchestrator.cli.doctor",
    "orchestrator.cli.moves",
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
        self._reading = threading.Lock()
        # Not as soon as it was read: another thread may be waiting for it.
        weakref.finalize(self, os.close, ended)

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
            with self._reading:
                if self.returncode is None:
                    # Nothing at all: the fork server is gone, and its children's ends are not known.
                    self.returncode = int(os.read(self._ended, 16) or b"-9")
        return self.returncode


def fork_holdfast(
    arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], stdout: IO[Any], stderr: IO[Any]
) -> Forked:
    """Start `holdfast` with these arguments; `env` is its whole environment."""
    return _server().fork({"arguments": list(arguments), "cwd": str(cwd), "env": dict(env)}, stdout, stderr)


def run_holdfast(
    arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], timeout: float = 180
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


def fork_address() -> str:
    """Where this process's fork server takes the requests of others (`tests.forked`)."""
    return _server().address


def write_command(file: Path) -> None:
    """Write a program that is `holdfast` for everybody in this process's session."""
    words = shlex.join([sys.executable, "-I", "-S", forked.__file__, fork_address()])
    file.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    file.chmod(0o755)


class _ForkServer:
    """The fork server as its caller sees it."""

    def __init__(self) -> None:
        self.address = f"holdfast-{uuid4().hex}"
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as commands:
            commands.bind(f"\0{self.address}")
            commands.listen()
            files = (theirs.fileno(), commands.fileno())
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.forking", *map(str, files)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=files,
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


class _Children:
    """The processes that were forked and have not ended, and where each one's end is told."""

    def __init__(self, poll: select.poll) -> None:
        self._poll = poll
        self._tell: dict[int, int] = {}

    def add(self, pid: int, tell: int, *, is_bound: bool) -> None:
        """A bound one is killed when nobody listens there any more."""
        self._tell[pid] = tell
        if is_bound:
            self._poll.register(tell, 0)  # which is woken by a hangup alone

    def forget(self) -> None:
        """In a child: these are the parent's."""
        for tell in self._tell.values():
            os.close(tell)

    def reap(self) -> None:
        """Tell of those that have ended."""
        while self._tell and (ended := os.waitpid(-1, os.WNOHANG))[0]:
            self._tell_end(*ended)

    def kill_bound(self, ready: Collection[int]) -> None:
        """Kill those whose commands are gone, and wait until they are, too."""
        for pid in [pid for pid, tell in self._tell.items() if tell in ready]:
            os.kill(pid, signal.SIGKILL)
            self._tell_end(*os.waitpid(pid, 0))

    def _tell_end(self, pid: int, status: int) -> None:
        tell = self._tell.pop(pid)
        with suppress(KeyError):
            self._poll.unregister(tell)
        with suppress(ConnectionError):
            os.write(tell, str(os.waitstatus_to_exitcode(status)).encode())
        os.close(tell)


def _serve(control: socket.socket, commands: socket.socket) -> list[str] | None:
    """Fork for every request. In the child, returns its arguments; None once the caller is gone."""
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    poll = select.poll()
    for source in (control.fileno(), commands.fileno(), wake):
        poll.register(source, select.POLLIN)
    children = _Children(poll)
    while True:
        ready = {file for file, _ in poll.poll()}
        if wake in ready:
            os.read(wake, 4096)
            children.reap()
        children.kill_bound(ready)
        if control.fileno() in ready:
            data, files = _receive(control)
            if not data:
                return None
        elif commands.fileno() in ready and (received := _called(commands)):
            data, files = received
        else:
            continue
        request = json.loads(data)
        stdout, stderr, tell = files
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            control.close()
            commands.close()
            children.forget()
            if "group" in request:
                _follow(tell, request["group"])
            for file in (wake, woken, tell):
                os.close(file)
            return _become(request, stdout, stderr)
        os.close(stdout)
        os.close(stderr)
        children.add(pid, tell, is_bound=bool(request.get("group")))
        if control.fileno() in ready:
            control.send(str(pid).encode())


def _called(commands: socket.socket) -> tuple[bytes, list[int]] | None:
    """What a command asks for; its end is told where it was asked. None if it was killed before it could ask."""
    command, _ = commands.accept()
    with suppress(ConnectionError):
        data, files = _receive(command)
        if data:
            return data, [*files, command.detach()]
    command.close()
    return None


def _follow(command: int, group: int) -> None:
    """Be killed with the command's group, 0 for a session of its own; end if the command does not live to see that."""
    with suppress(OSError):
        if group:
            os.setpgid(0, group)
        else:
            os.setsid()
        os.write(command, str(os.getpid()).encode())
        if os.read(command, 1):
            return
    os._exit(1)


def _receive(control: socket.socket) -> tuple[bytes, list[int]]:
    files = array.array("i")
    data, ancillary, _, _ = control.recvmsg(_MAX_REQUEST, socket.CMSG_LEN(3 * files.itemsize))
    for _, _, content in ancillary:
        files.frombytes(content)
    return data, list(files)


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
    with socket.socket(fileno=int(sys.argv[1])) as control, socket.socket(fileno=int(sys.argv[2])) as commands:
        arguments = _serve(control, commands)
    if arguments is not None:
        from orchestrator.cli import main

        try:
            main()
        except SystemExit as exc:
            if isinstance(exc.code, int):
                _leave(exc.code)
            raise


def _leave(code: int) -> NoReturn:
    """End in good order, but leave it to the system to take everything that is in memory apart.

    That would be two thirds of a short command's time, for it all has to be copied first.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _main()
