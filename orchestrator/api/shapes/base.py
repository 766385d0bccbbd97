"""What every answer is made of."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, TypeAlias

from pydantic import BaseModel, ConfigDict, WithJsonSchema
from pydantic.alias_generators import to_camel

from orchestrator.runs.model import RunStatus

__all__ = ["ErrorAnswer", "ErrorBody", "Shape", "Time", "one_of"]

# What `views.time_of` writes: UTC, to the millisecond.
Time: TypeAlias = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]


def one_of(words: type[StrEnum]) -> WithJsonSchema:
    """The words in their place, for an enum whose name says nothing to a client."""
    return WithJsonSchema({"type": "string", "enum": [str(word) for word in words]})


class Shape(BaseModel):
    """A JSON object in camelCase. The text below a field describes it, in the OpenAPI document too."""

    model_config = ConfigDict(alias_generator=to_camel, use_attribute_docstrings=True)


class ErrorBody(Shape):
    """What was wrong."""

    code: str
    """For machines; it stays. docs/errors.md lists all."""
    message: str
    """For people: what was wrong, with which value, and what to do. It holds no secret."""
    status: RunStatus | None = None
    """Where the run stands that does not allow what was asked; missing in every other error."""


class ErrorAnswer(Shape):
    """Every answer that is not what was asked for."""

    error: ErrorBody
    """Which error it is."""
