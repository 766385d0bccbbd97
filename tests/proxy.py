"""A TCP proxy that goes deaf, drops its connections, or refuses new ones: a network, as a test needs it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

__all__ = ["Proxy"]


class _Line:
    """One connection through the proxy; while it is not `open`, bytes stay where they are."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.ends = (client, server)
        self.open = asyncio.Event()
        self.delay_s = 0.0

    def cut(self) -> None:
        for end in self.ends:
            end.transport.abort()


class Proxy:
    """Passes bytes on to a server at `host` and `port`, from a `port` of its own on loopback."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._lines: set[_Line] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._hears_new = True
        self._accepts_new = True
        self._delay_s = 0.0
        self.port = 0
        self.accepted = 0

    @classmethod
    @asynccontextmanager
    async def to(cls, host: str, port: int) -> AsyncIterator[Proxy]:
        """A proxy for the block."""
        proxy = cls(host, port)
        server = await asyncio.start_server(proxy._begin, "127.0.0.1", 0)
        proxy.port = server.sockets[0].getsockname()[1]
        try:
            yield proxy
        finally:
            server.close()
            proxy.hear()
            proxy.cut()
            await asyncio.gather(*proxy._tasks)

    def deafen(self, *, new: bool = True) -> None:
        """Pass nothing on any more: for connections that are there, and, unless `new` is false, later ones."""
        self._hears_new = not new
        for line in self._lines:
            line.open.clear()

    def hear(self) -> None:
        """Pass everything on again, what came meanwhile first."""
        self._hears_new = True
        for line in self._lines:
            line.open.set()

    def slow(self, delay_s: float) -> None:
        """Pass every piece on so much later, each way; 0 for at once."""
        self._delay_s = delay_s
        for line in self._lines:
            line.delay_s = delay_s

    def cut(self) -> None:
        """Drop every connection."""
        for line in list(self._lines):
            line.cut()

    def refuse(self) -> None:
        """Drop every connection, and new ones at once."""
        self._accepts_new = False
        self.cut()

    def accept(self) -> None:
        """Take new connections again."""
        self._accepts_new = True

    async def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if not self._accepts_new:
                writer.transport.abort()
                return
            self.accepted += 1
            with suppress(OSError):
                await self._pass_on(reader, writer)
        finally:
            # Also where the server refuses: the client must not wait for it.
            writer.transport.abort()
            self._tasks.discard(task)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection(*self._target)
        line = _Line(writer, to_server)
        line.delay_s = self._delay_s
        if self._hears_new:
            line.open.set()
        self._lines.add(line)
        try:
            ways = [asyncio.create_task(_pump(line, *way)) for way in ((reader, to_server), (from_server, writer))]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        finally:
            line.cut()
            self._lines.discard(line)


async def _pump(line: _Line, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        await line.open.wait()
        if line.delay_s:
            await asyncio.sleep(line.delay_s)
        writer.write(data)
        await writer.drain()
