"""The OpenAPI document: what FastAPI sees of the routes, and what it can't see.

FastAPI documents parameters. Bodies are documented where they are read (`body.documented`); answers and errors here, in
one table, since every error has the same shape and follows from what a route takes: a body may be malformed (400), too
large (413) or wrong (422), a parameter wrong (422), a token missing (401), PostgreSQL away (503). A test sends what the
document allows, and what it does not, and holds the answers against it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from orchestrator.api import shapes
from orchestrator.batches.formats import MEDIA_TYPES

__all__ = ["ANSWERS", "Answers", "describe_api"]

_REFS = "#/components/schemas/{model}"
_REASONS: Mapping[int, str] = {
    400: "The body is not JSON.",
    401: "The token is missing or wrong.",
    404: "There is none of this id or name, or it is another organization's.",
    409: "The state of what is asked for does not allow it.",
    413: "The body is over 1 MiB.",
    422: "A parameter or a field is out of its range or of the wrong type.",
    501: "What this needs is not installed on the server.",
    503: "PostgreSQL does not answer, or the server is being stopped; ask again shortly.",
}
_STREAM = "text/event-stream"
# What a stream consists of, and nothing of it is longer than an event: `data` is one event's JSON.
_EVENT: dict[str, Any] = {
    "type": "object",
    "required": ["id", "event", "data"],
    "properties": {
        "id": {
            "type": "string",
            "pattern": "^[0-9]+$",
            "description": "The event's number, from 1, for `Last-Event-ID`.",
        },
        "event": {
            "enum": ["state", "activity", "checkpoint", "custom", "message", "signal", "document"],
            "description": "Its kind; docs/runs.md tells what each has.",
        },
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "description": "`runId`, `number`, `kind`, `at`, and what its kind has.",
        },
        "retry": {
            "type": "integer",
            "description": "Milliseconds after which to come back once the stream broke off.",
        },
    },
}


@dataclass(frozen=True, slots=True)
class Answers:
    """What an operation answers: status → the shape of the answer, or its media types where it is no JSON of ours.

    `refusals` are errors of its own, on top of those that follow from what it takes. `token` is the security scheme.
    """

    shapes: Mapping[int, type[shapes.Shape] | tuple[str, ...]]
    refusals: Iterable[int] = ()
    token: str | None = "api"  # noqa: S105 - the name of a scheme
    reaches_database: bool = True
    texts: Mapping[int, str] = field(default_factory=dict)


def _health(shape: type[shapes.Shape]) -> Answers:
    return Answers({200: shape, 503: shape}, token=None, reaches_database=False, texts={503: "It is not well."})


_ASKED = {200: shapes.RunState, 202: shapes.RunState}
_TEXTS = {200: "It is done; the run as it stands.", 202: "It was asked for; the run as it stands."}
_EVENTS = Answers(
    {200: (_STREAM,), 204: ()},
    (404,),
    texts={200: "The events, as they come.", 204: "The run is over, and all was seen."},
)
_BATCH = {200: shapes.BatchState, 202: shapes.BatchState}
_FOUND = {200: "The idempotency key has made it before.", 202: "It was started."}
_WORK = Answers({200: shapes.Done}, token="worker")  # noqa: S106 - the name of a scheme

ANSWERS: Mapping[tuple[str, str], Answers] = {
    ("post", "/api/invoke/async"): Answers({200: shapes.FoundRun, 202: shapes.AcceptedRun}, (404, 409), texts=_FOUND),
    ("post", "/api/invoke"): Answers(
        {200: shapes.FoundRun, 202: shapes.AcceptedRun},
        (404, 409),
        texts={200: "The run, settled.", 202: "It was not settled in time, and goes on."},
    ),
    ("get", "/api/invoke-status/status/{thread_id}"): Answers({200: shapes.RunState}, (404,)),
    ("get", "/api/invoke-status/stream/{thread_id}"): _EVENTS,
    ("get", "/api/runs"): Answers({200: shapes.Runs}),
    ("get", "/api/runs/{run_id}"): Answers({200: shapes.RunDetail}, (404,)),
    ("get", "/api/runs/{run_id}/activities"): Answers({200: shapes.Activities}, (404,)),
    ("get", "/api/runs/{run_id}/history"): Answers({200: shapes.Checkpoints}, (404, 409)),
    ("get", "/api/runs/{run_id}/events"): _EVENTS,
    ("post", "/api/runs/{run_id}/interrupt"): Answers(_ASKED, (404, 409), texts=_TEXTS),
    ("post", "/api/runs/{run_id}/cancel"): Answers(_ASKED, (404, 409), texts=_TEXTS),
    ("post", "/api/runs/{run_id}/resume"): Answers({202: shapes.RunState}, (404, 409)),
    ("post", "/api/runs/{run_id}/signals/{name}"): Answers({202: shapes.RunState}, (404, 409)),
    ("post", "/api/runs/{run_id}/fork"): Answers({202: shapes.FoundRun}, (404, 409)),
    ("post", "/api/batches"): Answers(_BATCH, (404, 409, 501), texts=_FOUND),
    ("get", "/api/batches/{batch_id}"): Answers({200: shapes.BatchState}, (404,)),
    ("get", "/api/batches/{batch_id}/documents"): Answers({200: shapes.BatchDocuments}, (404,)),
    ("get", "/api/batches/{batch_id}/events"): _EVENTS,
    ("get", "/api/batches/{batch_id}/export"): Answers({200: tuple(MEDIA_TYPES.values())}, (404, 501)),
    ("get", "/api/batches/{batch_id}/merges"): Answers({200: shapes.Merges}, (404, 501)),
    ("get", "/api/entities/{entity_id}"): Answers({200: shapes.EntityState}, (404, 501)),
    ("post", "/api/merges/{merge_id}/undo"): Answers({200: shapes.MergeEntry}, (404, 501)),
    ("post", "/api/batches/{batch_id}/retry"): Answers(_BATCH, (404, 409), texts=_FOUND),
    ("post", "/.well-known/workflow/v1/webhook/{token}"): Answers({202: shapes.Hooked}, (404, 409), token=None),
    ("post", "/.well-known/workflow/v1/flow"): _WORK,
    ("post", "/.well-known/workflow/v1/step"): _WORK,
    ("get", "/api/health/live"): Answers({200: shapes.Live}, token=None, reaches_database=False),
    ("get", "/api/health/ready"): _health(shapes.Ready),
    ("get", "/api/health/checkpointer"): _health(shapes.Checkpointer),
    ("get", "/api/health"): _health(shapes.ServerHealth),
    ("get", "/api/health/deep"): Answers(
        {200: shapes.DeepHealthReport, 503: shapes.DeepHealthReport},
        reaches_database=False,
        texts={503: "A check fails."},
    ),
    ("get", "/metrics"): Answers({200: ("text/plain",)}, token=None, reaches_database=False),
}


def describe_api(app: FastAPI) -> dict[str, Any]:
    """The document of `app`'s routes; made once, since they do not change."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        _, schemas = models_json_schema([(shape, "serialization") for shape in shapes.SHAPES], ref_template=_REFS)
        components = document.setdefault("components", {})
        kept = {name: each for name, each in components.get("schemas", {}).items() if "ValidationError" not in name}
        components["schemas"] = kept | schemas["$defs"]
        components["securitySchemes"] = {
            "api": {"type": "http", "scheme": "bearer", "description": "A token from API_TOKENS, where they are set."},
            "worker": {"type": "http", "scheme": "bearer", "description": "WORKER_TOKEN"},
        }
        for (method, path), answers in ANSWERS.items():
            _describe(document["paths"][path][method], answers, asks=bool(app.state.tokens))
        app.openapi_schema = document
    return app.openapi_schema


def _describe(operation: dict[str, Any], answers: Answers, *, asks: bool) -> None:
    refusals = set(answers.refusals)
    if "requestBody" in operation:
        refusals |= {400, 413, 422}
    if operation.get("parameters"):
        refusals.add(422)
    if answers.reaches_database:
        refusals.add(503)
    if is_closed := answers.token == "worker" or (answers.token == "api" and asks):  # noqa: S105
        refusals.add(401)
    operation["security"] = [{answers.token: []}] if is_closed else []
    told = {status: _answer(status, shape, answers.texts) for status, shape in answers.shapes.items()}
    for status in refusals:
        refused = {"description": _REASONS[status], "content": _json(shapes.ErrorAnswer)}
        told[status] = _either(told[status], refused) if status in told else refused
    operation["responses"] = {str(status): told[status] for status in sorted(told)}


def _answer(status: int, shape: type[shapes.Shape] | tuple[str, ...], texts: Mapping[int, str]) -> dict[str, Any]:
    described: dict[str, Any] = {"description": texts.get(status, "It is so.")}
    if isinstance(shape, tuple):
        content: dict[str, Any] = {media: {"schema": _schema_of(media)} for media in shape}
    else:
        content = _json(shape)
    return described | ({"content": content} if content else {})


def _schema_of(media: str) -> dict[str, Any]:
    """What is in an answer of this media type, as far as a schema can say."""
    if media == _STREAM:
        return _EVENT
    return {"type": "object" if media.endswith("json") else "string"}


def _json(shape: type[shapes.Shape]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _REFS.format(model=shape.__name__)}}}


def _either(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    both = [each["content"]["application/json"]["schema"] for each in (one, other)]
    return one | {"content": {"application/json": {"schema": {"anyOf": both}}}}
