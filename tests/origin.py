"""One origin for a page and the API, as a reverse proxy makes it: its own pages, and all else handed on with a token.

A browser's EventSource sends no headers of its own, and no token; a proxy that knows who is signed in adds it.
Where the server is away, the connection is closed: a browser then tries again, which it does not after a 502.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Origin", "origin"]


@dataclass
class Origin:
    """`page` is at `/`. `told` is what it posted to `/told`; `last_ids` are the Last-Event-IDs of its requests."""

    upstream: int
    token: str
    page: str = ""
    port: int = 0
    told: list[Any] = field(default_factory=list)
    last_ids: list[str | None] = field(default_factory=list)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request, and close."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            request, *lines = head.rstrip().split("\r\n")
            method, path, _ = request.split(" ")
            fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            if path.startswith("/api/"):
                self.last_ids.append(fields.get("last-event-id"))
                await self._hand_on(request, lines, writer)
            elif method == "POST":
                self.told.append(json.loads(await reader.readexactly(int(fields["content-length"]))))
                writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
            else:
                page = self.page.encode() if path == "/" else b""
                kind = "text/html; charset=utf-8"
                answer = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(page)}\r\n"
                writer.write(f"{answer}Connection: close\r\n\r\n".encode() + page)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _hand_on(self, request: str, lines: list[str], writer: asyncio.StreamWriter) -> None:
        kept = [line for line in lines if not line.lower().startswith(("connection:", "authorization:"))]
        head = "\r\n".join((request, *kept, f"Authorization: Bearer {self.token}", "Connection: close"))
        reader, upstream = await asyncio.open_connection("127.0.0.1", self.upstream)
        try:
            upstream.write(f"{head}\r\n\r\n".encode("latin-1"))
            while part := await reader.read(65536):
                writer.write(part)
                await writer.drain()
        finally:
            upstream.close()


@asynccontextmanager
async def origin(upstream: int, token: str) -> AsyncIterator[Origin]:
    """An origin on a port of its own, in front of the server on `upstream`."""
    made = Origin(upstream, token)
    server = await asyncio.start_server(made.answer, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
