"""Where Python values become JSON: a run's input strictly, its output as far as it goes."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any
from uuid import UUID

import orjson
from pydantic import BaseModel

from orchestrator.errors import InvalidPayloadError
from orchestrator.runs.model import Json

__all__ = ["canonical", "check_payload", "to_json"]

MAX_DEPTH = 100
_NOTHING_BUT_JSON = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS
_SURROGATE = re.compile(r"[\ud800-\udfff]")
# What a checkpoint's msgpack can hold.
_INT_RANGE = range(-(2**63), 2**64)


def to_json(value: object) -> Json:
    """The value as JSON; never fails. LangChain messages and other pydantic models become their fields.

    What has no form in JSON becomes its type's name in angle brackets, NaN and infinities become null, and what is
    nested deeper than 100 levels is cut off.
    """
    try:
        # Most values are JSON already. Seeing that here takes a tenth of the time of a walk through them.
        return orjson.loads(orjson.dumps(value, option=_NOTHING_BUT_JSON))
    except (TypeError, ValueError):
        return _convert(value, 0)


def check_payload(value: object) -> Json:
    """The value as the JSON a run is started with. Raises `InvalidPayloadError` where something would be lost."""
    _refuse(value)
    return _convert(value, 0)


def canonical(value: Json) -> str:
    """The same text for the same JSON, to compare payloads by."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


_SCALARS: dict[type, Callable[[Any], Json]] = {
    datetime: lambda value: value.isoformat(),
    date: lambda value: value.isoformat(),
    time: lambda value: value.isoformat(),
    timedelta: lambda value: value.total_seconds(),
    Decimal: str,
    UUID: str,
    PurePath: str,
    bytes: lambda value: base64.b64encode(value).decode("ascii"),
}


def _convert(value: object, depth: int) -> Json:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return _convert(value.value, depth)
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    for kind, convert in _SCALARS.items():
        if isinstance(value, kind):
            return convert(value)
    if depth >= MAX_DEPTH:
        return "<too deep>"
    return _convert_container(value, depth + 1)


def _convert_container(value: object, depth: int) -> Json:
    if (inner := _parts(value)) is not None:
        return {_SURROGATE.sub("\ufffd", str(key)): _convert(item, depth) for key, item in inner.items()}
    if isinstance(value, (list, tuple)):
        return [_convert(item, depth) for item in value]
    if isinstance(value, AbstractSet):
        return sorted((_convert(item, depth) for item in value), key=canonical)
    return f"<{type(value).__module__}.{type(value).__qualname__}>"


def _parts(value: object) -> Mapping[Any, object] | None:
    """The named parts of a model, a dataclass or a mapping."""
    if isinstance(value, BaseModel):
        return value.model_dump()
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return value if isinstance(value, Mapping) else None


def _refuse(payload: object) -> None:
    # A loop with a list of its own: a payload nested a million deep must not use up the stack.
    if payload is None:
        raise InvalidPayloadError("the input is null; a run needs something to start from, such as {}")
    left: list[tuple[object, int]] = [(payload, 0)]
    while left:
        value, depth = left.pop()
        if problem := _problem(value, depth):
            raise InvalidPayloadError(f"the input {problem}")
        if isinstance(value, (list, tuple)):
            left.extend((item, depth + 1) for item in value)
        elif (inner := _parts(value)) is not None:
            for key, item in inner.items():
                left.append((key, depth + 1))
                left.append((item, depth + 1))


def _problem(value: object, depth: int) -> str | None:
    if depth > MAX_DEPTH:
        return f"is nested deeper than {MAX_DEPTH} levels"
    if isinstance(value, str) and (found := _SURROGATE.search(value)):
        return f"holds {found[0]!r}, half of a surrogate pair, which is no text"
    if isinstance(value, int) and value not in _INT_RANGE:
        return "holds an integer of more than 64 bits; send it as a string"
    if isinstance(value, float) and not math.isfinite(value):
        return f"holds {value}, which JSON does not have"
    known = value is None or isinstance(value, (str, int, float, list, tuple, Enum, *_SCALARS))
    if not known and _parts(value) is None:
        return f"holds a {type(value).__qualname__}, which has no form in JSON"
    return None
