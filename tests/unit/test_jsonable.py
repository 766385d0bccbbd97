from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import HumanMessage
from pydantic import BaseModel

from orchestrator.errors import InvalidPayloadError
from orchestrator.runs.jsonable import canonical, check_payload, to_json


class Colour(Enum):
    RED = "red"


class Model(BaseModel):
    name: str
    at: datetime


@dataclass
class Point:
    x: int
    colour: Colour


NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Colour.RED, "red"),
        (Model(name="n", at=NOON), {"name": "n", "at": "2026-01-01T12:00:00+00:00"}),
        (Point(1, Colour.RED), {"x": 1, "colour": "red"}),
        ({3, 1, 2}, [1, 2, 3]),
        ((1, "a"), [1, "a"]),
        ({1: Decimal("1.50")}, {"1": "1.50"}),
        (b"\xff\x00", "/wA="),
        ([math.nan, math.inf, 1.5], [None, None, 1.5]),
        (Path("a/b"), "a/b"),
        (UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        ("half \ud800", "half \ufffd"),
        (object(), "<builtins.object>"),
    ],
)
def test_values_become_json(value: object, expected: Any) -> None:
    assert to_json(value) == expected


def test_a_message_shows_its_type_and_content() -> None:
    shown = to_json({"messages": [HumanMessage("hello")]})
    assert (shown["messages"][0]["type"], shown["messages"][0]["content"]) == ("human", "hello")


def test_a_value_that_holds_itself_is_cut_off() -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert "<too deep>" in json.dumps(to_json(loop))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(JSON.filter(lambda value: value is not None))
def test_json_stays_as_it_is(value: Any) -> None:
    assert check_payload(value) == value
    assert json.loads(json.dumps(to_json(value))) == value


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (None, "null"),
        ({"a": [math.nan]}, "nan"),
        ({"a": math.inf}, "inf"),
        ({"a": 10**30}, "64 bits"),
        ({"a": {"\udfff": 1}}, "surrogate"),
        (_nested(101), "deeper than 100"),
        (_nested(200_000), "deeper than 100"),
        ({"a": object()}, "object"),
    ],
)
def test_a_payload_that_would_lose_something_is_refused(payload: object, why: str) -> None:
    with pytest.raises(InvalidPayloadError, match=why):
        check_payload(payload)


def test_a_payload_may_hold_nul_and_messages() -> None:
    assert check_payload({"a": "x\x00y"}) == {"a": "x\x00y"}
    assert check_payload({"messages": [HumanMessage("hi")]})["messages"][0]["content"] == "hi"


def test_equal_json_has_equal_text() -> None:
    assert canonical({"b": 1, "a": [1]}) == canonical({"a": [1], "b": 1})
    assert canonical({"a": 1}) != canonical({"a": True})
