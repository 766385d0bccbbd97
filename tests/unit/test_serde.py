"""Bytes from values and back: what may be rebuilt, compression, and data that lacks a layer."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import ormsgpack
import pytest
import zstandard
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.types import Send
from prometheus_client import REGISTRY
from pydantic import BaseModel

from checkpointer.errors import BlockedTypeError, SettingsError, UnreadableError, UnsavableError
from checkpointer.serde import AllowListSerializer, CompressedSerializer, parse_allowed_modules

# zstd's magic and a descriptor that says "eight bytes of content size follow"
FRAME_OF_SIZE = b"\x28\xb5\x2f\xfd" + bytes([0b1110_0000])


@dataclass
class Invoice:
    number: int
    lines: list[str]


class Order(BaseModel):
    number: int


class Colour(StrEnum):
    RED = "red"


VALUES: list[Any] = [
    None,
    True,
    2**63,
    -1.5,
    "",
    "a\x00b é 🙂",
    b"\x00\xff",
    bytearray(b"xy"),
    [1, [2, {"three": None}]],
    {1: "one", "two": 2},
    {"set", "of"},
    datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC),
    UUID(int=7),
    pathlib.Path("/a/b"),
    AIMessage(content="x" * 3000, id="m"),
    Send("node", {"messages": [HumanMessage(content="hi", id="h")]}),
]


def blocked_so_far() -> float:
    return REGISTRY.get_sample_value("checkpointer_blocked_types_total") or 0.0


def ext(code: int, module: str, name: str, argument: Any, method: str = "__call__") -> ormsgpack.Ext:
    """What an ext of LangGraph's holds: the names of a callable, what it is called with, and a method."""
    return ormsgpack.Ext(code, ormsgpack.packb([module, name, argument, method]))


def pack(value: Any) -> tuple[str, bytes]:
    return "msgpack", ormsgpack.packb(value)


# Argument shapes of LangGraph's ext codes 0 to 5: one argument, positional, keywords, method, pydantic 1, pydantic 2.
def shaped(code: int, argument: str) -> Any:
    return {0: argument, 1: [argument], 2: {"command": argument}, 3: argument}.get(code, {"command": argument})


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "bare": lambda inner: inner,
    "in a list": lambda inner: [1, [inner]],
    "in a dict": lambda inner: {"a": {"b": inner}},
    "as a key's neighbour": lambda inner: {"ok": 1, "bad": inner, "after": 2},
    "in a delta snapshot": lambda inner: ormsgpack.Ext(7, ormsgpack.packb([inner])),
    "in a set": lambda inner: ormsgpack.Ext(0, ormsgpack.packb(["builtins", "set", [inner]])),
    "in a Send": lambda inner: ormsgpack.Ext(1, ormsgpack.packb(["langgraph.types", "Send", ["n", {"x": inner}]])),
    "in a message": lambda inner: ormsgpack.Ext(
        5,
        ormsgpack.packb(
            ["langchain_core.messages.ai", "AIMessage", {"content": "", "additional_kwargs": {"x": inner}}, None]
        ),
    ),
    "in an array": lambda inner: ormsgpack.Ext(6, ormsgpack.packb(["|u1", [1], "C", inner])),
    "in another blocked one": lambda inner: ormsgpack.Ext(0, ormsgpack.packb(["os", "getcwd", inner])),
}


class TestAllowList:
    @pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
    def test_round_trip_of_what_langgraph_uses(self, value: Any) -> None:
        serde = AllowListSerializer()
        found = serde.loads_typed(serde.dumps_typed(value))
        assert found == value
        assert type(found) is type(value)

    @pytest.mark.parametrize("wrapper", WRAPPERS)
    @pytest.mark.parametrize("code", range(6))
    @pytest.mark.parametrize(("module", "name"), [("builtins", "print"), ("os", "system"), ("builtins", "eval")])
    def test_a_crafted_row_is_refused_and_nothing_runs(
        self, module: str, name: str, code: int, wrapper: str, tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        marker = tmp_path / "was-here"
        row = pack(WRAPPERS[wrapper](ext(code, module, name, shaped(code, f"touch {marker}"))))
        before = blocked_so_far()
        with pytest.raises(BlockedTypeError, match=r"which is not on the allow-list") as caught:
            AllowListSerializer().loads_typed(row)
        assert caught.value.name.startswith((f"{module}.{name}", "os.getcwd"))
        assert blocked_so_far() == before + 1
        assert not marker.exists()
        assert capfd.readouterr().out == ""

    @pytest.mark.parametrize("code", range(3))
    def test_methods_other_than_the_listed_are_refused(self, code: int) -> None:
        methods = [
            ("datetime", "datetime", "now"),
            ("pathlib", "Path", "write_text"),
            ("langchain_core.messages.ai", "AIMessage", "parse_raw"),
        ]
        row = pack(ext(3, *methods[code][:2], None, methods[code][2]))
        with pytest.raises(BlockedTypeError, match=methods[code][2]):
            AllowListSerializer().loads_typed(row)

    def test_the_same_serializer_still_loads_after_a_refusal(self) -> None:
        serde = AllowListSerializer()
        with pytest.raises(BlockedTypeError):
            serde.loads_typed(pack(ext(0, "os", "system", "true")))
        assert serde.loads_typed(serde.dumps_typed({"a": 1})) == {"a": 1}

    def test_a_refusal_in_one_thread_does_not_show_in_another(self) -> None:
        serde = AllowListSerializer()
        good, bad = serde.dumps_typed([AIMessage(content="x")]), pack(ext(0, "os", "system", "true"))

        def load(number: int) -> str:
            try:
                serde.loads_typed(bad if number % 2 else good)
            except BlockedTypeError:
                return "refused"
            return "loaded"

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(load, range(2000))) == ["loaded", "refused"] * 1000

    @pytest.mark.parametrize("named", [False, True])
    def test_an_allowed_class_round_trips(self, named: bool) -> None:
        kinds: list[type] = [Invoice, Order, Colour]
        serde = AllowListSerializer([(kind.__module__, kind.__name__) for kind in kinds] if named else kinds)
        value = {"invoice": Invoice(1, ["a"]), "orders": [Order(number=2)], "colour": Colour.RED}
        assert serde.loads_typed(serde.dumps_typed(value)) == value

    def test_a_class_off_the_list_is_refused_and_named(self) -> None:
        serde = AllowListSerializer([Order])
        with pytest.raises(BlockedTypeError, match=r"CHECKPOINT_ALLOWED_MODULES=\S+\.Invoice") as caught:
            serde.loads_typed(serde.dumps_typed([Invoice(1, [])]))
        # what the message says to set is what the setting takes
        [pair] = parse_allowed_modules(caught.value.name)
        assert AllowListSerializer([pair]).loads_typed(serde.dumps_typed(Invoice(1, []))) == Invoice(1, [])

    def test_more_types_can_be_added(self) -> None:
        serde = AllowListSerializer()
        more = serde.with_msgpack_allowlist([Invoice])
        data = more.dumps_typed(Invoice(1, ["x"]))
        assert more.loads_typed(data) == Invoice(1, ["x"])
        with pytest.raises(BlockedTypeError):
            serde.loads_typed(data)
        wrapped = CompressedSerializer(serde).with_msgpack_allowlist([Invoice])
        assert wrapped.loads_typed(data) == Invoice(1, ["x"])

    @pytest.mark.parametrize("kind", ["pickle", "", "msgpack.gz", "cloudpickle"])
    def test_another_serializers_type_is_unreadable(self, kind: str) -> None:
        with pytest.raises(UnreadableError, match=repr(kind)):
            AllowListSerializer().loads_typed((kind, b"\x80\x04N."))

    def test_the_older_json_format_is_read(self) -> None:
        name = ["langchain_core", "messages", "ai", "AIMessage"]
        message = {"lc": 2, "type": "constructor", "id": name, "kwargs": {"content": "x"}}
        serde = AllowListSerializer()
        assert serde.loads_typed(("json", b'{"a": [1, null]}')) == {"a": [1, None]}
        assert serde.loads_typed(("json", json.dumps(message).encode())) == AIMessage(content="x")

    @pytest.mark.parametrize("lc", [1, 2])
    @pytest.mark.parametrize("name", [["builtins", "print"], ["os", "system"]])
    def test_a_crafted_row_in_the_older_json_format_is_refused(
        self, lc: int, name: list[str], tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        marker = tmp_path / "was-here"
        envelope = {"lc": lc, "type": "constructor", "id": name, "args": [f"touch {marker}"], "kwargs": {}}
        before = blocked_so_far()
        with pytest.raises(BlockedTypeError, match=r"\.".join(name)):
            AllowListSerializer().loads_typed(("json", json.dumps({"a": [envelope]}).encode()))
        assert blocked_so_far() == before + 1
        assert not marker.exists()
        assert capfd.readouterr().out == ""


class TestCompression:
    @pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
    def test_older_data_without_the_tag_is_read(self, value: Any) -> None:
        older = JsonPlusSerializer().dumps_typed(value)
        plain = AllowListSerializer().loads_typed(older)
        assert CompressedSerializer().loads_typed(older) == plain

    @pytest.mark.parametrize("threshold", [1, 64, 1024])
    def test_only_what_is_long_enough_and_gets_smaller(self, threshold: int) -> None:
        serde = CompressedSerializer(threshold=threshold)
        short, long, noise = "x" * (threshold // 2), "x" * 100_000, os.urandom(100_000)
        assert serde.dumps_typed(short)[0] == "msgpack"
        kind, packed = serde.dumps_typed(long)
        assert kind == "msgpack.zstd"
        assert len(packed) < 1000
        assert serde.dumps_typed(noise) == ("bytes", noise)
        for value in (short, long, noise):
            assert serde.loads_typed(serde.dumps_typed(value)) == value

    def test_from_many_threads_at_once(self) -> None:
        serde = CompressedSerializer(threshold=1)
        values = [[(first * number) % 997 for number in range(3000)] for first in range(64)]

        def there_and_back(value: list[int]) -> bool:
            return all(bool(serde.loads_typed(serde.dumps_typed(value)) == value) for _ in range(5))

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(there_and_back, values))

    @pytest.mark.parametrize(
        ("frame", "words"),
        [
            (FRAME_OF_SIZE + (2 << 30).to_bytes(8, "little") + b"\x01\x00\x00", "impossible"),
            (FRAME_OF_SIZE + b"\xff" * 8 + b"\x01\x00\x00", "impossible|damaged"),
            # no content size at all
            (zstandard.ZstdCompressor(write_content_size=False).compress(b"x" * 5000), "impossible"),
            (zstandard.compress(b"x" * 5000)[:-3], "damaged"),
            (b"", "damaged"),
            (b"not zstd", "damaged"),
        ],
    )
    def test_a_crafted_or_damaged_frame_is_unreadable(self, frame: bytes, words: str) -> None:
        with pytest.raises(UnreadableError, match=words):
            CompressedSerializer().loads_typed(("msgpack.zstd", frame))

    def test_a_crafted_type_inside_a_frame_is_refused(self) -> None:
        row = pack(ext(0, "os", "system", "true"))[1]
        with pytest.raises(BlockedTypeError):
            CompressedSerializer().loads_typed(("msgpack.zstd", zstandard.compress(row)))

    def test_past_the_largest_value_it_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("checkpointer.serde.MAX_VALUE_BYTES", 2000)
        with pytest.raises(UnsavableError, match=r"2,505 bytes.* less than 2,000"):
            CompressedSerializer().dumps_typed("x" * 2502)


class TestAllowedModules:
    def test_both_spellings(self) -> None:
        pairs = [("my_app.models", "Invoice"), ("a", "B")]
        assert parse_allowed_modules("my_app.models:Invoice, a.B") == pairs
        assert parse_allowed_modules("my_app.models.Invoice,a:B,") == pairs
        assert parse_allowed_modules("") == []

    @pytest.mark.parametrize("text", ["Invoice", "my-app:Invoice", "a:b:c d", ":", "a:", ":b", "a..b"])
    def test_what_it_does_not_take(self, text: str) -> None:
        with pytest.raises(SettingsError, match="CHECKPOINT_ALLOWED_MODULES"):
            parse_allowed_modules(text)
