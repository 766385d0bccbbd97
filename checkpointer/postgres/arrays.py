"""Columns of a batch as PostgreSQL arrays in the binary wire format.

psycopg's own list dumper adapts every element through Python; a batch of hundreds of rows is mostly that. Here the
elements are bytes already and are joined. Format, big-endian (array_recv in
https://github.com/postgres/postgres/blob/master/src/backend/utils/adt/arrayfuncs.c): int32 dimensions, int32
has-nulls, uint32 element type, then per dimension int32 length and int32 lower bound, then per element int32 size
(-1 for NULL) and its bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct
from typing import Any, ClassVar

from psycopg.adapt import AdaptersMap, Dumper
from psycopg.pq import Format

__all__ = ["ByteaArray", "Int4Array", "Int8Array", "JsonbArray", "TextArray", "register_arrays"]

_HEADER = Struct("!iiIii")
_EMPTY = Struct("!iiI")
_SIZE = Struct("!i")
_NULL = _SIZE.pack(-1)
# Most elements are short; their size prefixes are looked up instead of packed.
_SIZES = tuple(_SIZE.pack(size) for size in range(4096))


class _Array:
    """One array parameter; `data` is its wire format."""

    __slots__ = ("data",)
    element_oid: ClassVar[int]
    array_oid: ClassVar[int]

    def __init__(self, items: Iterable[bytes | None]) -> None:
        parts: list[bytes] = []
        add = parts.append
        count = nulls = 0
        for item in items:
            count += 1
            if item is None:
                nulls = 1
                add(_NULL)
                continue
            size = len(item)
            add(_SIZES[size] if size < 4096 else _SIZE.pack(size))
            add(item)
        header = _HEADER.pack(1, nulls, self.element_oid, count, 1) if count else _EMPTY.pack(0, 0, self.element_oid)
        self.data = header + b"".join(parts)


class TextArray(_Array):
    """text[] of UTF-8 bytes."""

    element_oid, array_oid = 25, 1009


class ByteaArray(_Array):
    """bytea[] of bytes."""

    element_oid, array_oid = 17, 1001


class JsonbArray(_Array):
    """jsonb[] of JSON texts, each with the version byte that jsonb's binary format begins with."""

    element_oid, array_oid = 3802, 3807


class Int4Array(_Array):
    """int4[] of 4-byte big-endian integers."""

    element_oid, array_oid = 23, 1007


class Int8Array(_Array):
    """int8[] of 8-byte big-endian integers."""

    element_oid, array_oid = 20, 1016


def _dumper(kind: type[_Array]) -> type[Dumper]:
    class ArrayDumper(Dumper):
        format = Format.BINARY
        oid = kind.array_oid

        def dump(self, obj: Any) -> bytes:
            data: bytes = obj.data
            return data

    return ArrayDumper


_DUMPERS = {kind: _dumper(kind) for kind in (TextArray, ByteaArray, JsonbArray, Int4Array, Int8Array)}


def register_arrays(adapters: AdaptersMap) -> None:
    """Teach a connection to take these arrays as parameters."""
    for kind, dumper in _DUMPERS.items():
        adapters.register_dumper(kind, dumper)
