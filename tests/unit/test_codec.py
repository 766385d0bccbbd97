"""Which values stand in a checkpoint's JSON, which become rows, and what ids may hold."""

from __future__ import annotations

import json
import math
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from checkpointer.errors import BlockedTypeError, UnreadableError, UnsavableError
from checkpointer.postgres.arrays import cell
from checkpointer.postgres.codec import Codec, SizeMemory, decode_json, json_text, jsonb, text
from checkpointer.serde import AllowListSerializer, Cipher
from tests.checkpoints import checkpoint

KEYS = Cipher([("one", bytes(range(32)))])


class Colour(StrEnum):
    RED = "red"


def split(values: dict[str, Any], cipher: Cipher | None = None) -> tuple[dict[str, Any], set[str]]:
    """What of these values stands in the JSON, and which channels have a row."""
    made = checkpoint(values)
    codec = Codec(AllowListSerializer(), cipher)
    inline, rows = codec.blobs("thread", "ns", made, made["channel_versions"])
    for row in rows:
        assert row[:2] == (cell(b"thread"), cell(b"ns"))
    found = {name for name in values for row in rows if row[2] == cell(name.encode())}
    assert len(found) == len(rows)
    return inline, found


INLINE: dict[str, Any] = {"none": None, "yes": True, "number": 7, "big": 2**70, "half": 0.5, "text": "é🙂", "empty": ""}
ROWS: dict[str, Any] = {
    "nul": "a\x00",
    "nan": math.nan,
    "infinite": -math.inf,
    "would come back as an integer": 1e16,
    "would lose its sign": -0.0,
    "list": [],
    "dict": {},
    "bytes": b"",
}


def test_what_jsonb_can_hold_stands_in_it() -> None:
    assert split({**INLINE, **ROWS}) == (INLINE, set(ROWS))


def test_with_keys_nothing_does() -> None:
    assert split({**INLINE, **ROWS}, KEYS) == ({}, {*INLINE, *ROWS})


def test_a_snapshot_leaves_its_marker() -> None:
    for cipher in (None, KEYS):
        assert split({"delta": _DeltaSnapshot([1])}, cipher) == ({"delta": True}, {"delta"})


def test_only_new_versions_of_objects_are_written_and_every_hidden_primitive() -> None:
    """A primitive's version may have been saved in the JSON, before keys were set."""
    made = checkpoint({"list": [1], "text": "x", "nul": "\x00", "new": [2]})
    for cipher, expected in ((None, {"nul", "new"}), (KEYS, {"text", "nul", "new"})):
        _, rows = Codec(AllowListSerializer(), cipher).blobs("t", "", made, {"new": made["channel_versions"]["new"]})
        assert {row[2] for row in rows} == {cell(name.encode()) for name in expected}


@pytest.mark.parametrize(
    "value", [None, True, 7, -(2**70), 2**64 - 1, 0.5, math.inf, "x", "\x00", [1, "a"], {"a": b"x"}, b"", "x" * 10_000]
)
def test_there_and_back(value: Any) -> None:
    place = ("blob", "t", "", "c", "1")
    for cipher in (None, KEYS):
        codec = Codec(AllowListSerializer(), cipher)
        kind, data = codec.seal(value, place)
        found = codec.load(kind, bytes(data), place)
        assert found == value
        assert type(found) is type(value)
        if cipher is None:  # the stock saver reads it
            assert JsonPlusSerializer().loads_typed((kind, bytes(data))) == value
        else:
            with pytest.raises(UnreadableError):
                codec.load(kind, bytes(data), ("write", *place[1:]))


def test_an_enum_in_a_hidden_primitive_comes_back_as_its_value() -> None:
    """As it does from the JSON; rebuilding it would need the allow-list."""
    made = checkpoint({"colour": Colour.RED})
    codec = Codec(AllowListSerializer(), KEYS)
    _, [row] = codec.blobs("t", "", made, made["channel_versions"])
    kind, data = row[4][4:].decode(), row[5][4:]
    version = str(made["channel_versions"]["colour"])
    assert codec.load(kind, data, ("blob", "t", "", "colour", version)) == "red"
    kind, data = codec.seal([Colour.RED], ("x",))
    with pytest.raises(BlockedTypeError):
        codec.load(kind, data, ("x",))


@given(st.text() | st.integers() | st.uuids())
def test_ids(value: object) -> None:
    shown = str(value)
    try:
        expected = shown.encode()
    except UnicodeEncodeError:
        expected = None
    if expected is None or b"\0" in expected:
        with pytest.raises(UnsavableError, match="some_id"):
            text("some_id", value)
    else:
        assert text("some_id", value) == cell(expected)
        assert text("some_id", value) == cell(expected)  # remembered or not


def test_long_ids() -> None:
    for length in (127, 128, 129, 5000):
        assert text("id", "é" * length) == cell(("é" * length).encode())
        with pytest.raises(UnsavableError, match="NUL"):
            text("id", "é" * length + "\0")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), st.integers() | st.text(st.characters(codec="utf-8"))))
def test_json_as_upstream_writes_it(value: dict[str, Any]) -> None:
    assert json.loads(json_text(value)) == value
    assert jsonb(value)[4:] == b"\x01" + json_text(value)
    assert decode_json(json_text(value)) == value
    assert decode_json(json_text({"channel_values": value, "v": 4})) == {"channel_values": value, "v": 4}


@given(json_values)
def test_any_json_is_written_or_refused(value: Any) -> None:
    try:
        data = json_text({"a": value})
    except UnsavableError:
        return
    assert json.loads(data) == {"a": value}


@pytest.mark.parametrize("value", [{"a": object()}, {"a": {1, 2}}, {("a", "b"): 1}])
def test_what_is_not_json(value: Any) -> None:
    with pytest.raises(UnsavableError, match="JSON"):
        json_text(value)


class TestSizes:
    def test_large_values_are_known_by_their_length_or_by_the_last_time(self) -> None:
        sizes = SizeMemory()
        assert not sizes.is_large("t", [("a", "x"), ("b", [1]), ("c", None), ("d", object())])
        assert sizes.is_large("t", [("a", "x" * 100_000)])
        assert sizes.is_large("t", [("a", list(range(10_000)))])
        sizes.note("t", "d", 100_000)
        assert sizes.is_large("t", [("d", object())])
        assert not sizes.is_large("other", [("d", object())])
        sizes.note("t", "d", 10)
        assert not sizes.is_large("t", [("d", object())])

    def test_it_remembers_so_many_and_no_more(self) -> None:
        sizes = SizeMemory(most=3)
        for number in range(10):
            sizes.note(f"t{number}", "a", 100_000)
        assert [number for number in range(10) if sizes.is_large(f"t{number}", [("a", 1)])] == [7, 8, 9]
