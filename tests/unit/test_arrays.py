"""Arrays as PostgreSQL takes them on the wire, compared with psycopg's own and with what a server makes of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
import pytest
from psycopg.adapt import PyFormat, Transformer
from psycopg.types.json import Jsonb

from checkpointer.postgres.arrays import (
    NULL,
    ByteaArray,
    Int4Array,
    Int8Array,
    JsonbArray,
    TextArray,
    cell,
    int4_cell,
    int8_cell,
    register_arrays,
)

Texts = ["", "a", "é 🙂", "x" * 4095, "x" * 4096, "x" * 100_000, "{}", "NULL", "\\", '"', ","]
CASES: dict[str, tuple[type, Callable[[Any], bytes], Sequence[Any]]] = {
    "text": (TextArray, lambda value: cell(value.encode()), Texts),
    "bytea": (ByteaArray, cell, [b"", b"\x00", bytes(range(256)) * 40, b"x" * 4095, b"x" * 4096]),
    "int4": (Int4Array, int4_cell, [0, 1, -1, 2**31 - 1, -(2**31)]),
    "int8": (Int8Array, int8_cell, [0, 1, -1, 2**63 - 1, -(2**63)]),
    "jsonb": (
        JsonbArray,
        lambda value: cell(b"\x01" + json.dumps(value).encode()),
        [{}, [], {"a": [1, None, "é"]}, "x" * 5000, 1.5, True, None],
    ),
}


def columns(kind: str, values: Sequence[Any]) -> Any:
    array, encode, _ = CASES[kind]
    return array([NULL if value is MISSING else encode(value) for value in values])


MISSING = object()


@pytest.mark.parametrize("kind", CASES)
def test_the_server_reads_what_was_meant(admin_dsn: str, kind: str) -> None:
    values = list(CASES[kind][2])
    with psycopg.connect(admin_dsn, autocommit=True) as conn:
        register_arrays(conn.adapters)
        for given in (values, values[:1], [], [MISSING], [*values, MISSING, *values], values * 200):
            row = conn.execute(
                "SELECT a, array_ndims(a), cardinality(a), array_lower(a, 1), pg_typeof(a)::text"
                " FROM (SELECT %s) AS x (a)",
                [columns(kind, given)],
            ).fetchone()
            assert row is not None
            assert row[0] == [None if value is MISSING else value for value in given]
            assert row[2] == len(given)
            assert row[4] == f"{kind}[]".replace("int4", "integer").replace("int8", "bigint")
            assert (row[1], row[3]) == ((1, 1) if given else (None, None))


@pytest.mark.parametrize("kind", CASES)
def test_the_server_sees_no_difference_to_psycopgs_own(admin_dsn: str, kind: str) -> None:
    values = [value for value in CASES[kind][2] if not (kind == "jsonb" and value is None)]
    with psycopg.connect(admin_dsn, autocommit=True) as conn:
        register_arrays(conn.adapters)
        for given in (values, values[:1], values * 50):
            theirs = [Jsonb(value) for value in given] if kind == "jsonb" else given
            query = f"SELECT %(ours)s = %(theirs)b::{kind}[], array_send(%(ours)s) = array_send(%(theirs)b::{kind}[])"
            row = conn.execute(query.encode(), {"ours": columns(kind, given), "theirs": theirs}).fetchone()
            assert row == (True, True)


@pytest.mark.parametrize(("kind", "array"), [("text", TextArray), ("bytea", ByteaArray), ("int8", Int8Array)])
def test_byte_for_byte_what_psycopg_sends(kind: str, array: type) -> None:
    """But for the flag that says whether there are NULLs, which the server does not go by."""
    values = [value for value in CASES[kind][2] if value != 0] if kind != "int8" else [2**40, -(2**40)]
    dumper = Transformer().get_dumper(values, PyFormat.BINARY)
    theirs = bytes(dumper.dump(values) or b"")
    ours = columns(kind, values).data
    assert ours[:4] == theirs[:4]
    assert ours[8:] == theirs[8:]


def test_unnested_side_by_side(admin_dsn: str) -> None:
    """As group commit uses them: columns of one length, in order, with NULLs in place."""
    with psycopg.connect(admin_dsn, autocommit=True) as conn:
        register_arrays(conn.adapters)
        rows = conn.execute(
            "SELECT * FROM unnest(%s, %s, %s)",
            [columns("int4", [1, 2, 3]), columns("text", ["a", MISSING, ""]), columns("bytea", [b"", b"x", MISSING])],
        ).fetchall()
    assert rows == [(1, "a", b""), (2, None, b"x"), (3, "", None)]
