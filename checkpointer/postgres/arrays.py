"""Columns of a batch as PostgreSQL arrays in the binary wire format.

psycopg's own list dumper adapts every element through Python; a batch of hundreds of rows would be mostly that. Here
every value is turned into a *cell* once, where it is made: its size and its bytes, as they stand on the wire. A column
is then cells joined. Format, big-endian (array_recv in
https://github.com/postgres/postgres/blob/master/src/backend/utils/adt/arrayfuncs.c): int32 dimensions, int32
has-nulls, uint32 element type, then per dimension int32 length and int32 lower bound, then per element int32 size
(-1 for NULL) and its bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Any, ClassVar

from psycopg.adapt import AdaptersMap, Dumper
from psycopg.pq import Format

__all__ = [
    "NULL",
    "ByteaArray",
    "Float8Array",
    "Int4Array",
    "Int8Array",
    "JsonbArray",
    "TextArray",
    "UuidArray",
    "cell",
    "float8_cell",
    "int4_cell",
    "int8_cell",
    "register_arrays",
]

_HEADER = Struct("!iiIii")
_EMPTY = Struct("!iiI")
_SIZE = Struct("!i")
# Most values are short; their sizes are looked up instead of packed.
_SIZES = tuple(_SIZE.pack(size) for size in range(4096))
_INT4, _INT8, _FLOAT8 = Struct("!ii"), Struct("!iq"), Struct("!id")

NULL = _SIZE.pack(-1)


def cell(data: bytes) -> bytes:
    """A value of text, bytea or jsonb (with its version byte) as it stands in an array."""
    size = len(data)
    return (_SIZES[size] if size < 4096 else _SIZE.pack(size)) + data


def int4_cell(value: int) -> bytes:
    """An int4 as it stands in an array."""
    return _INT4.pack(4, value)


def int8_cell(value: int) -> bytes:
    """An int8 as it stands in an array."""
    return _INT8.pack(8, value)


def float8_cell(value: float) -> bytes:
    """A float8 as it stands in an array."""
    return _FLOAT8.pack(8, value)


class _Array:
    """One array parameter, from cells; `data` is its wire format."""

    __slots__ = ("data",)
    element_oid: ClassVar[int]
    array_oid: ClassVar[int]

    def __init__(self, cells: Sequence[bytes]) -> None:
        # The flag for NULLs may be set without any: the server goes by the sizes.
        full = _HEADER.pack(1, 1, self.element_oid, len(cells), 1)
        header = full if cells else _EMPTY.pack(0, 0, self.element_oid)
        self.data = header + b"".join(cells)


class TextArray(_Array):
    """text[], of UTF-8."""

    element_oid, array_oid = 25, 1009


class ByteaArray(_Array):
    """bytea[]."""

    element_oid, array_oid = 17, 1001


class JsonbArray(_Array):
    """jsonb[]; a cell's data is the version byte 1 and JSON text."""

    element_oid, array_oid = 3802, 3807


class UuidArray(_Array):
    """uuid[]; a cell's data is 16 bytes."""

    element_oid, array_oid = 2950, 2951


class Int4Array(_Array):
    """int4[]."""

    element_oid, array_oid = 23, 1007


class Int8Array(_Array):
    """int8[]."""

    element_oid, array_oid = 20, 1016


class Float8Array(_Array):
    """float8[]."""

    element_oid, array_oid = 701, 1022


def _dumper(kind: type[_Array]) -> type[Dumper]:
    class ArrayDumper(Dumper):
        format = Format.BINARY
        oid = kind.array_oid

        def dump(self, obj: Any) -> bytes:
            data: bytes = obj.data
            return data

    return ArrayDumper


_DUMPERS = {
    kind: _dumper(kind) for kind in (TextArray, ByteaArray, JsonbArray, UuidArray, Int4Array, Int8Array, Float8Array)
}


def register_arrays(adapters: AdaptersMap) -> None:
    """Teach a connection to take these arrays as parameters."""
    for kind, dumper in _DUMPERS.items():
        adapters.register_dumper(kind, dumper)
