"""The calls of the HTTP API and what they give, from the OpenAPI document that the server has at `/openapi.json`."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestrator import OrchestratorSettings, open_orchestrator
from orchestrator.api.app import create_app

__all__ = ["answers", "calls", "document", "errors"]

Json = Mapping[str, Any]
# A call belongs to the first of these that its path begins with.
SECTIONS = {
    "start": r"POST /api/invoke",
    "runs": r".* /api/(runs|invoke-status)",
    "batches": r".* /api/(batches|entities|merges)",
    "hooks": r".* /\.well-known/workflow/v1/webhook",
    "workers": r".* /\.well-known/workflow/v1/(flow|step)",
    "health": r".* (/api/health|/metrics)",
}
_USUAL = {"200", "201", "202", "204"}
# What has so many fields is not written out again where another type or body has all of them.
_MANY = 10


def document() -> Json:
    """The OpenAPI document, as a server with no graphs of anybody's gives it."""

    async def make() -> Json:
        async with open_orchestrator({}, settings=OrchestratorSettings(use_postgres_saver=False)) as orchestrator:
            return create_app(orchestrator).openapi()

    return asyncio.run(make())


def calls(api: Json, section: str) -> str:
    """Each call of a section: what it is for, what it takes, what it answers."""
    bodies: dict[str, str] = {}
    lines = [line for call, operation in _calls_of(api, section) for line in _call(call, operation, bodies)]
    return "\n".join(lines).strip() + "\n"


def _calls_of(api: Json, section: str) -> Iterator[tuple[str, Json]]:
    for path, methods in api["paths"].items():
        for method, operation in methods.items():
            call = f"{method.upper()} {path}"
            if next((name for name, pattern in SECTIONS.items() if re.match(pattern, call)), None) == section:
                yield call, operation


def _call(call: str, operation: Json, bodies: dict[str, str]) -> Iterator[str]:
    yield f"### {call}"
    yield ""
    yield operation.get("description", operation.get("summary", "")).strip()
    yield ""
    body = _body(operation)
    is_told = len(body.get("properties", ())) >= _MANY and bodies.setdefault(json.dumps(body), call) != call
    rows = [*_parameters(operation), *(() if is_told else _fields_of_body(body))]
    if rows:
        yield from ("| takes | in | type | |", "|---|---|---|---|", *rows, "")
    if is_told:
        yield from (f"Takes what {bodies[json.dumps(body)]} takes.", "")
    elif examples := [f"`{json.dumps(each, ensure_ascii=False)}`" for each in body.get("examples", ())]:
        yield from (f"For example {' or '.join(examples)}.", "")
    good = [f"{code}: {_answer(given)}" for code, given in operation["responses"].items() if code in _USUAL]
    bad = [code for code in operation["responses"] if code not in _USUAL]
    yield f"Answers {'; '.join(good)}. " + (f"Errors: {', '.join(bad)}." if bad else "")
    yield ""


def _answer(given: Json) -> str:
    """What comes, by the name of its type where it has one."""
    for kind, content in given.get("content", {}).items():
        name = _name(content.get("schema", {}))
        return f"`{name}`" if name[:1].isupper() else f"`{kind}`"
    return "nothing"


def _parameters(operation: Json) -> Iterator[str]:
    for each in operation.get("parameters", ()):
        told = each.get("description", "")
        yield _row(each["name"], each["in"], each["schema"], told, required=each.get("required", False))


def _body(operation: Json) -> Json:
    """The schema of the body, {} where there is none. Its parts are in it: `orchestrator.api.body.documented`."""
    schema: Json = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    return schema


def _fields_of_body(schema: Json, above: str = "") -> Iterator[str]:
    """A row for each field, and after it for each of those that it has within."""
    for name, field in schema.get("properties", {}).items():
        told = field.get("description", "")
        yield _row(f"{above}{name}", "body", field, told, required=name in schema.get("required", ()))
        for part in field.get("anyOf", field.get("oneOf", [field])):
            within = part.get("items", part)
            yield from _fields_of_body(within, f"{above}{name}{'[]' if within is not part else ''}.")


def _row(name: str, where: str, schema: Json, told: str, *, required: bool) -> str:
    default = schema.get("default")
    notes = ["Required."] if required and where != "path" else []
    notes += [_line(told)] if told else []
    notes += [f"By default `{_plain(default)}`."] if default is not None else []
    return f"| `{name}` | {where} | {_type(schema)} | {' '.join(notes)} |"


def _line(told: str) -> str:
    """A description in a cell of a table."""
    return " ".join(told.split()).replace("|", "\\|")


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _type(schema: Json) -> str:
    """A type in few words, with its bounds."""
    parts = [part for part in schema.get("anyOf", schema.get("oneOf", ())) if part.get("type") != "null"]
    if parts:
        return " or ".join(_type(part) for part in parts)
    if "$ref" in schema:
        return f"`{_name(schema)}`"
    if "enum" in schema:
        return ", ".join(f"`{word}`" for word in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if schema.get("type") == "object":
        return _object(schema)
    if isinstance(kinds := schema.get("type"), list):
        return _type({**schema, "type": next(kind for kind in kinds if kind != "null")})
    return " ".join([schema.get("format", schema.get("type", "any JSON")), *_bounds(schema)])


def _object(schema: Json) -> str:
    if isinstance(values := schema.get("additionalProperties"), dict) and values:
        return f"object of {_type(values)}"
    fields = ", ".join(f"`{name}`" for name in schema.get("properties", {}))
    return f"object with {fields}" if fields else "object"


def _bounds(schema: Json) -> Iterator[str]:
    low, high = schema.get("minimum"), schema.get("maximum", schema.get("exclusiveMaximum"))
    if low is not None and high is not None:
        yield f"{_number(low)} to {_number(high - ('exclusiveMaximum' in schema))}"
    if "maxLength" in schema:
        yield f"of {schema.get('minLength', 0)} to {schema['maxLength']:,} characters"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"


def _name(schema: Json) -> str:
    return str(schema.get("$ref", schema.get("type", "any"))).rpartition("/")[2]


def errors(api: Json) -> str:
    """What each status that is not 2xx says; one line for each that any call gives."""
    found: dict[str, list[str]] = {}
    for methods in api["paths"].values():
        for operation in methods.values():
            for code, given in operation["responses"].items():
                told = given.get("description", "").strip()
                if code not in _USUAL and told not in found.setdefault(code, []):
                    found[code].append(told)
    rows = [f"| {code} | {' '.join(found[code])} |" for code in sorted(found)]
    return "\n".join(["| status | when |", "|---|---|", *rows])


def answers(api: Json) -> str:
    """Every type that the calls name, with its fields; a field with `?` may be null or left out."""
    lines: list[str] = []
    for name, schema in sorted(api["components"]["schemas"].items()):
        lines += [f"### `{name}`", "", schema.get("description", "").strip(), ""]
        if "enum" in schema:
            lines += [", ".join(f"`{word}`" for word in schema["enum"]), ""]
        known, all_of = _within(api, name)
        lines += [f"All fields of `{all_of}`, and:", ""] if all_of else []
        rows = list(_fields(schema, known))
        lines += ["| field | type | |", "|---|---|---|", *rows, ""] if rows else []
    return "\n".join(lines).strip()


def _within(api: Json, name: str) -> tuple[Json, str]:
    """The fields that a type has of another one, which has many and all of them are also here; and that one's name."""
    schemas = api["components"]["schemas"]
    own = schemas[name].get("properties", {}).items()
    for other, schema in schemas.items():
        fields = schema.get("properties", {})
        if len(fields) >= _MANY and fields.items() < own:
            return fields, other
    return {}, ""


def _fields(schema: Json, known: Json) -> Iterator[str]:
    required: Sequence[str] = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        if name not in known:
            nullable = any(part.get("type") == "null" for part in field.get("anyOf", ()))
            told = field.get("description", "").strip()
            yield f"| `{name}`{'?' if nullable or name not in required else ''} | {_type(field)} | {_line(told)} |"
