"""Carrying values whose types are not known here.

A graph declares the types of its state when it is compiled; whoever carries threads has no graphs. What may not be
rebuilt is not lost for that: it travels as the bytes that were stored, and only the process that has the graph makes a
value of them.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Any

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.base import SerializerProtocol

from checkpointer.errors import BlockedTypeError
from checkpointer.serde import AllowListSerializer

__all__ = ["Sealed", "VerbatimSerializer", "verbatim_memory"]


@dataclass(frozen=True, slots=True)
class Sealed:
    """A value as it was stored."""

    tag: str
    data: bytes


class VerbatimSerializer(SerializerProtocol):
    """Rebuilds what `inner` may, and hands everything else through as `Sealed`."""

    def __init__(self, inner: SerializerProtocol) -> None:
        self.inner = inner

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """What is sealed is written as it was."""
        return (obj.tag, obj.data) if isinstance(obj, Sealed) else self.inner.dumps_typed(obj)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """What is off the list is sealed."""
        try:
            return self.inner.loads_typed(data)
        except BlockedTypeError:
            return Sealed(*data)


def verbatim_memory(saver: InMemorySaver) -> tuple[InMemorySaver, SerializerProtocol]:
    """The same saver, over the same threads, that hands unknown types through; and what writes its values to files."""
    # LangGraph's own serializer would rebuild whatever can be imported, and lose what can't.
    plain = VerbatimSerializer(AllowListSerializer())
    clone = copy(saver)
    clone.serde = plain
    return clone, plain
