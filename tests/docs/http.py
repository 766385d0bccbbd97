"""The calls of the HTTP API and what they give, from the OpenAPI document that the server has at `/openapi.json`."""

from __future__ import annotations

import asyncio
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
    "batches": r".* /api/batches",
    "hooks": r".* /\.well-known/workflow/v1/webhook",
    "workers": r".* /\.well-known/workflow/v1/(flow|step)",
    "health": r".* (/api/health|/metrics)",
}
_USUAL = {"200", "201", "202", "204"}


def document() -> Json:
    """The OpenAPI document, as a server with no graphs of anybody's gives it."""

    async def make() -> Json:
        async with open_orchestrator({}, settings=OrchestratorSettings(use_postgres_saver=False)) as orchestrator:
            return create_app(orchestrator).openapi()

    return asyncio.run(make())


def calls(api: Json, section: str) -> str:
    """Each call of a section: what it is for, what it takes, what it answers."""
    lines = [line for call, operation in _calls_of(api, section) for line in _call(api, call, operation)]
    return "\n".join(lines).strip() + "\n"


def _calls_of(api: Json, section: str) -> Iterator[tuple[str, Json]]:
    for path, methods in api["paths"].items():
        for method, operation in methods.items():
            call = f"{method.upper()} {path}"
            if next((name for name, pattern in SECTIONS.items() if re.match(pattern, call)), None) == section:
                yield call, operation


def _call(api: Json, call: str, operation: Json) -> Iterator[str]:
    yield f"### {call}"
    yield ""
    yield operation.get("description", operation.get("summary", "")).strip()
    yield ""
    rows = [*_parameters(operation), *_body(api, operation)]
    if rows:
        yield from ("| takes | in | type | |", "|---|---|---|---|", *rows, "")
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


def _body(api: Json, operation: Json) -> Iterator[str]:
    for content in operation.get("requestBody", {}).get("content", {}).values():
        schema = content.get("schema", {})
        schema = api["components"]["schemas"][_name(schema)] if "$ref" in schema else schema
        required = schema.get("required", ())
        for name, field in schema.get("properties", {}).items():
            yield _row(name, "body", field, field.get("description", ""), required=name in required)


def _row(name: str, where: str, schema: Json, told: str, *, required: bool) -> str:
    default = schema.get("default")
    notes = [told.strip().rstrip(".")] if told else []
    notes += ["required"] if required and where != "path" else []
    notes += [f"by default `{_plain(default)}`"] if default is not None else []
    return f"| `{name}` | {where} | {_type(schema)} | {'; '.join(notes)} |"


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
    return " ".join([schema.get("format", schema.get("type", "any JSON")), *_bounds(schema)])


def _object(schema: Json) -> str:
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
        rows = list(_fields(schema))
        lines += ["| field | type |", "|---|---|", *rows, ""] if rows else []
    return "\n".join(lines).strip()


def _fields(schema: Json) -> Iterator[str]:
    required: Sequence[str] = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        nullable = any(part.get("type") == "null" for part in field.get("anyOf", ()))
        yield f"| `{name}`{'?' if nullable or name not in required else ''} | {_type(field)} |"
