"""A command that the fork server runs (`tests.forking`): python -I -S forked.py ADDRESS ARGUMENT…

It has the command's standard output and error, directory and environment, hands SIGTERM and SIGINT on to it, waits for
its end and ends with its code. Whoever kills this process kills the command: the fork server sees to that. Whoever
kills its process group kills both at once: the command begins only when it has joined the group, and this process has
lived to see that.

The standard library only, and little of it: that is what makes it quick.
"""

import json
import os
import signal
import socket
import sys
from contextlib import suppress

__all__ = ["begin", "main"]


def begin(server: socket.socket, address: str, arguments: list[str], files: tuple[int, int], group: int) -> int:
    """Connect, and have a process ready that waits for one byte to begin; its pid. In group 0 it leads a session."""
    server.connect(f"\0{address}")
    request = {"arguments": arguments, "cwd": os.getcwd(), "env": dict(os.environ), "group": group}
    socket.send_fds(server, [json.dumps(request).encode()], files)
    pid = server.recv(16)
    if not pid:
        sys.exit("the fork server has not begun it: is this a session of its own?")
    return int(pid)


def main() -> None:
    """Run the command to its end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        pid = begin(server, sys.argv[1], sys.argv[2:], (1, 2), os.getpgrp())

        def hand_on(number: int, _: object) -> None:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, hand_on)
        server.send(b"!")
        code = int(server.recv(16))
    sys.exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
