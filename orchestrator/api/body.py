"""Reads a request's JSON body within bounds, whatever is sent.

FastAPI's own reading is not used: it takes NaN, buffers any size, and looks at the content type, which a plain
`curl -d` gets wrong.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, NoReturn, TypeAlias, TypeVar

from fastapi import Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, WithJsonSchema
from pydantic.alias_generators import to_camel
from starlette.requests import ClientDisconnect

from orchestrator.api.errors import shape_problems
from orchestrator.errors import BodyTooLargeError, InvalidRequestError, MalformedBodyError
from orchestrator.runs.model import MAX_IDENTIFIER_CHARS

__all__ = [
    "IDENTIFIER",
    "MAX_BODY_BYTES",
    "WHOLE",
    "Identifier",
    "JsonBody",
    "Nothing",
    "documented",
    "read_body",
    "read_json",
]

MAX_BODY_BYTES = 1 << 20
# What is over the limit is read and thrown away up to here: a server that closes while a client is still sending
# resets the connection, and the client never sees why.
MAX_DISCARDED_BYTES = 16 << 20


class JsonBody(BaseModel):
    """A JSON object with just the fields that are known, in camelCase, and nothing converted.

    The text below a field describes it, in the OpenAPI document too.
    """

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", strict=True, use_attribute_docstrings=True)


class Nothing(JsonBody):
    """No fields: the path says it all."""


# What `check_identifier` takes.
IDENTIFIER: dict[str, Any] = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_IDENTIFIER_CHARS,
    "pattern": r"^[^\u0000-\u001f\u007f-\u009f]*$",
}
Identifier: TypeAlias = Annotated[str, WithJsonSchema(IDENTIFIER)]


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


# JSON knows one kind of number: 7.0 is a whole one. Bounds stand before it, or the document would not have them.
WHOLE = BeforeValidator(_whole)

M = TypeVar("M", bound=JsonBody)


async def read_body(request: Request, model: type[M], *, optional: bool = False) -> M:
    """The body as `model`; where it is `optional`, no body is an empty object.

    Raises `BodyTooLargeError`, `MalformedBodyError` or `InvalidRequestError`.
    """
    body = await _read(request)
    value = {} if optional and not body.strip() else _parse(body)
    try:
        return model.model_validate(value)
    except ValidationError as exc:
        problems = shape_problems(exc.errors(include_url=False, include_input=False, include_context=False))
        raise InvalidRequestError(problems.encode("utf-8", "replace").decode()) from None


async def read_json(request: Request) -> Any:
    """The body as it is, whatever JSON that is; None where there is none. Raises as `read_body` does."""
    body = await _read(request)
    return _parse(body) if body.strip() else None


def documented(model: type[JsonBody], *, optional: bool = False) -> dict[str, Any]:
    """What OpenAPI is to say of a body that `read_body` reads: FastAPI does not see it."""
    schema = model.model_json_schema(ref_template="{model}")
    # The schema stands below one call, where a reference to a part of it could not be resolved.
    parts = schema.pop("$defs", {})
    content = {"application/json": {"schema": _inlined(schema, parts)}}
    return {"requestBody": {"required": not optional, "content": content}}


def _inlined(schema: Any, parts: dict[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_inlined(each, parts) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if isinstance(name := schema.get("$ref"), str):
        # What stands beside the reference is said of this place, and goes before what is said of the part.
        return _inlined(parts[name] | {key: value for key, value in schema.items() if key != "$ref"}, parts)
    return {key: _inlined(value, parts) for key, value in schema.items()}


async def _read(request: Request) -> bytes:
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and int(announced[:20]) > MAX_DISCARDED_BYTES:
        raise BodyTooLargeError(MAX_BODY_BYTES)
    body = bytearray()
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size <= MAX_BODY_BYTES:
                body += chunk
            elif size > MAX_DISCARDED_BYTES:
                break
    except ClientDisconnect:
        raise MalformedBodyError("the body ended early") from None
    if size > MAX_BODY_BYTES:
        raise BodyTooLargeError(MAX_BODY_BYTES)
    return bytes(body)


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body, parse_constant=_refuse_constant)
    except RecursionError:
        raise MalformedBodyError("the body is nested too deep") from None
    except ValueError as exc:
        # The message of a UnicodeDecodeError quotes bytes, and that of an int past 4300 digits is about Python.
        reason = f": {exc}" if isinstance(exc, json.JSONDecodeError) else ""
        raise MalformedBodyError(f"the body is not JSON{reason}") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)
