"""The shapes in the OpenAPI document are those that the views make, key by key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from checkpointer.health import HealthReport
from orchestrator import Orchestrator, OrchestratorSettings
from orchestrator.api import shapes, views
from orchestrator.api.app import create_app
from orchestrator.api.body import JsonBody
from orchestrator.api.openapi import ANSWERS
from orchestrator.batches.knowledge import Alias, Explanation, KnownEntity, Merge
from orchestrator.batches.model import Batch, BatchState, DocumentRow
from orchestrator.engine.history import CheckpointSummary
from orchestrator.health.finding import Finding, Report
from orchestrator.runs.activity import Activity, ActivityStatus
from orchestrator.runs.model import Run, RunStatus
from orchestrator.runs.signals import Signal

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RUN = Run(
    run_id="r", thread_id="t", organization_id="default", workflow_type="w", status=RunStatus.PENDING, input={},
    max_attempts=3, saver="PostgresSaver", created_at=NOW, updated_at=NOW, left_at=NOW,
)  # fmt: skip


class Idle:
    """What `create_app` looks at before anything is asked."""

    def __init__(self, **given: Any) -> None:
        self.settings = OrchestratorSettings(**given)


def keys_of(shape: type[shapes.Shape]) -> set[str]:
    return {field.alias or name for name, field in shape.model_fields.items()}


def test_answers_have_the_keys_that_are_documented() -> None:
    signal = Signal(1, "r", "s", None, NOW)
    activity = Activity("r", 1, "t", "a", ActivityStatus.RUNNING, NOW)
    checkpoint = CheckpointSummary("c", None, NOW, 1, "loop", ("n",), {}, None)
    document = DocumentRow("k", "n", 0)
    batch = Batch("b", "default", BatchState.PENDING, "some", None, {}, NOW, NOW)
    merge = Merge("m", "default", "e", "f", "A", "B", 100.0, "spelling", "they are alike", "b", NOW)
    explained = Explanation(KnownEntity("e", "default", "A", "place", 1, 1), [Alias("A", "a", 1, False)], [merge])
    report = Report([Finding("n", "ok", "m")], "PostgresSaver", 0.1)
    signals = views.signals_view([signal])
    made: list[tuple[dict[str, Any], type[shapes.Shape]]] = [
        (views.run_status(RUN) | signals, shapes.RunState),
        (views.run_detail(RUN) | signals, shapes.RunDetail),
        (views.run_detail(RUN) | signals | views.accepted(RUN), shapes.FoundRun),
        (views.accepted(RUN), shapes.AcceptedRun),
        (signals["signals"][0], shapes.SentSignal),
        (views.activity_view(activity), shapes.ActivityEntry),
        (views.checkpoint_view(checkpoint), shapes.CheckpointEntry),
        (views.document_view(document), shapes.DocumentEntry),
        (views.batch_view(batch, RUN, [document]), shapes.BatchState),
        (views.merge_view(merge), shapes.MergeEntry),
        (views.entity_view(explained), shapes.EntityState),
        (report.as_json(), shapes.DeepHealthReport),
        (report.as_json()["checks"][0], shapes.HealthCheck),
    ]
    for answer, shape in made:
        assert set(answer) == keys_of(shape), shape.__name__
        shape.model_validate(answer)


def test_health_has_no_keys_that_are_not_documented() -> None:
    for error in (None, "no answer"):
        report = HealthReport("healthy", "PostgresSaver", True, True, True, "postgresql://h/d", "s", "18", error)
        assert set(report.as_json()) <= keys_of(shapes.Checkpointer)


@pytest.mark.parametrize("tokens", [None, "planted:acme"])
def test_every_operation_is_described(tokens: str | None) -> None:
    document = create_app(cast("Orchestrator", Idle(api_tokens=tokens))).openapi()
    operations = {(method, path): each for path, item in document["paths"].items() for method, each in item.items()}
    assert set(operations) == set(ANSWERS)
    assert "planted" not in str(document)
    for (method, path), operation in operations.items():
        asks = ANSWERS[method, path].token == "worker" or (ANSWERS[method, path].token == "api" and tokens is not None)
        assert ("401" in operation["responses"]) == asks, path
        assert all(each["description"] for each in operation["responses"].values())
        if "requestBody" in operation:
            assert {"400", "413", "422"} <= set(operation["responses"])


def fields_of(schema: Mapping[str, Any], name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every field that a schema declares, as deep as they go, with its name."""
    for field, each in schema.get("properties", {}).items():
        yield f"{name}.{field}", each
        yield from fields_of(each, f"{name}.{field}")
    parts = [schema.get("items"), schema.get("additionalProperties")]
    if "properties" not in schema:  # beside fields these say which of them go together
        parts += [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    for part in parts:
        if isinstance(part, dict):
            yield from fields_of(part, name)


def test_every_field_is_described() -> None:
    """Of every body, parameter and answer."""
    document = create_app(cast("Orchestrator", Idle())).openapi()
    fields = [field for name, each in document["components"]["schemas"].items() for field in fields_of(each, name)]
    for path, item in document["paths"].items():
        for operation in item.values():
            fields += [(f"{path} {each['name']}", each) for each in operation.get("parameters", ())]
            for said in [operation.get("requestBody", {}), *operation["responses"].values()]:
                for content in said.get("content", {}).values():
                    fields += fields_of(content["schema"], path)
    names = {name for name, _ in fields}
    assert names >= {
        "RunState.waitingFor",
        "/api/batches.documents.text",
        "/api/invoke.retry.maxAttempts",
        "/api/invoke.workflow.role",
        "/api/runs/{run_id}/events run_id",
        "/api/runs/{run_id}/events.id",
        "/.well-known/workflow/v1/flow.run_at",
    }
    assert sorted({name for name, each in fields if not each.get("description", "").strip()}) == []


def test_bodies_that_are_shown_are_taken() -> None:
    shown = 0
    for model in JsonBody.__subclasses__():
        for example in model.model_json_schema().get("examples", ()):
            model.model_validate(example)
            shown += 1
    assert shown >= 5
