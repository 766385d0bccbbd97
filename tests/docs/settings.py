"""Tables of settings, from the settings classes: names, defaults and bounds; the meanings are their docstrings."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Le
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from checkpointer.settings import CheckpointerSettings
from orchestrator.settings import OrchestratorSettings

__all__ = ["FIELDS", "meanings", "settings_table"]

FIELDS = OrchestratorSettings.model_fields


def settings_table(names: list[str]) -> str:
    """A row for each of the settings. Raises `KeyError` where one is not there, or has no meaning."""
    told = meanings()
    rows = ["| variable | default | takes | meaning |", "|---|---|---|---|"]
    for name in names:
        field = FIELDS[name]
        rows.append(f"| `{name.upper()}` | {_default(field)} | {_takes(field)} | {told[name]} |")
    return "\n".join(rows)


def meanings() -> dict[str, str]:
    """What stands below each field in the classes, on one line."""
    found: dict[str, str] = {}
    for owner in (CheckpointerSettings, OrchestratorSettings):
        [tree] = ast.parse(inspect.getsource(owner)).body
        assert isinstance(tree, ast.ClassDef)
        for field, below in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
                text = ast.literal_eval(below.value)
                found[field.target.id] = " ".join(text.split())
    return found


def _default(field: FieldInfo) -> str:
    if field.default in (None, ""):
        return "not set"
    if isinstance(field.default, bool):
        return f"`{str(field.default).lower()}`"
    return f"`{field.default:g}` s" if isinstance(field.default, float) else f"`{field.default}`"


def _takes(field: FieldInfo) -> str:
    kind = _without_none(field.annotation)
    if kind is bool:
        return "a flag"
    if get_origin(kind) is Literal:
        return ", ".join(f"`{word}`" for word in get_args(kind))
    if kind in (int, float):
        return _range(field, "seconds" if kind is float else "")
    return {Path: "a path", SecretStr: "a secret"}.get(kind, "text")


def _range(field: FieldInfo, unit: str) -> str:
    lowest = next((each.ge for each in _bounds(field) if isinstance(each, Ge)), None)
    highest = next((each.le for each in _bounds(field) if isinstance(each, Le)), None)
    if lowest is None:
        return f"{unit}, at most {highest:,}" if highest else unit
    return f"{lowest:,} to {highest:,}"


def _bounds(field: FieldInfo) -> list[Any]:
    """Of `X | None` they are inside of the annotation, for pydantic leaves them there."""
    return [*field.metadata, *(each for part in get_args(field.annotation) for each in get_args(part)[1:])]


def _without_none(kind: Any) -> Any:
    if get_origin(kind) in (Union, UnionType):
        [kind] = [part for part in get_args(kind) if part is not NoneType]
    return kind
