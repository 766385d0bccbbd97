"""The parameters that several routes take, with what the OpenAPI document says of them."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from fastapi import Header, Path, Query
from pydantic import WithJsonSchema

__all__ = ["After", "BatchId", "LastEventId", "RunId", "ThreadId"]

RunId: TypeAlias = Annotated[str, Path(description="A run's id; one that is not there gets 404 `run_not_found`.")]
ThreadId: TypeAlias = Annotated[
    str, Path(description="A thread's id, percent-encoded; one without a run gets 404 `thread_not_found`.")
]
BatchId: TypeAlias = Annotated[str, Path(description="A batch's id; one that is not there gets 404 `batch_not_found`.")]
After: TypeAlias = Annotated[
    int | None,
    Query(ge=0, le=2**62, description="The number of the last event that was seen. Absent: all are sent."),
]
LastEventId: TypeAlias = Annotated[
    str | None,
    Header(alias="Last-Event-ID", max_length=50, description="The same; where both are given, this one counts."),
    WithJsonSchema({"type": "string", "pattern": "^[0-9]{0,18}$"}),
]
