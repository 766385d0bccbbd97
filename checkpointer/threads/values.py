"""Values as JSON that a person can read, without losing anything.

`None`, booleans, numbers, strings, lists and dicts with string keys are written as they are. Everything else is what
LangGraph's serializer makes of it, tagged, with a short text for the reader that loading ignores:

    {"$type": "msgpack", "$data": "BASE64", "$shown": "HumanMessage(content='hi')"}

A dict of the user's whose keys begin with `$` gets one `$` more before each of those, so it is never taken for a tag.
"""

from __future__ import annotations

import base64
import binascii
import math
from typing import Any

from langgraph.checkpoint.serde.base import SerializerProtocol

from checkpointer.errors import UnreadableError

__all__ = ["decode", "encode"]

_MAX_DEPTH = 100  # json gives up somewhat below a thousand
_SHOWN_CHARS = 120
_SHOWN_BELOW_BYTES = 4096


def encode(value: Any, serde: SerializerProtocol, *, shown: bool = True, depth: int = 0) -> Any:
    """The value as JSON, without `$shown` if so asked. Raises what the serializer raises."""
    kind = type(value)
    if value is None or kind in (bool, int, str) or (kind is float and math.isfinite(value)):
        return value
    if depth < _MAX_DEPTH:
        if kind is list:
            return [encode(item, serde, shown=shown, depth=depth + 1) for item in value]
        if kind is dict and all(type(key) is str for key in value):
            return {
                f"${key}" if key.startswith("$") else key: encode(item, serde, shown=shown, depth=depth + 1)
                for key, item in value.items()
            }
    return _tagged(value, serde, shown)


def _tagged(value: Any, serde: SerializerProtocol, shown: bool) -> dict[str, str]:
    tag, data = serde.dumps_typed(value)
    tagged = {"$type": tag, "$data": base64.b64encode(data).decode("ascii")}
    if shown and len(data) < _SHOWN_BELOW_BYTES and not isinstance(value, (bytes, bytearray)):
        text = repr(value)
        tagged["$shown"] = text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…"
    return tagged


def decode(value: Any, serde: SerializerProtocol) -> Any:
    """The value of what `encode` made. Raises `UnreadableError`, or `BlockedTypeError` by the serializer's list."""
    if isinstance(value, list):
        return [decode(item, serde) for item in value]
    if not isinstance(value, dict):
        return value
    if "$type" in value:
        try:
            data = base64.b64decode(value["$data"], validate=True)
        except (KeyError, TypeError, binascii.Error) as exc:
            raise UnreadableError(f"a value tagged {value['$type']!r} has no readable $data") from exc
        return serde.loads_typed((str(value["$type"]), data))
    return {key[1:] if key.startswith("$") else key: decode(item, serde) for key, item in value.items()}
