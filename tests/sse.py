"""Server-Sent Events as a client reads them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["Message", "messages", "parsed"]


@dataclass(frozen=True, slots=True)
class Message:
    """One block of a stream; a `comment` has nothing else."""

    id: str | None = None
    event: str | None = None
    retry: str | None = None
    comment: str | None = None
    data: Any = None


def _message(lines: Iterable[str]) -> Message:
    fields: dict[str, Any] = {}
    for line in lines:
        name, _, value = line.partition(":")
        fields[name or "comment"] = value.strip()
    if "data" in fields:
        fields["data"] = json.loads(fields["data"])
    return Message(**fields)


def parsed(text: str) -> list[Message]:
    """The blocks of a whole stream, or of what came of it: one that is cut off is left out."""
    *blocks, _ = text.replace("\r\n", "\n").split("\n\n")
    return [_message(block.split("\n")) for block in blocks]


async def messages(lines: AsyncIterator[str]) -> AsyncIterator[Message]:
    """The blocks as they come."""
    block: list[str] = []
    async for line in lines:
        if line:
            block.append(line)
        elif block:
            yield _message(block)
            block = []
