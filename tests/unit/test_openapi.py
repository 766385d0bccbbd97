"""The shapes in the OpenAPI document are those that the views make, key by key."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

import pytest

from checkpointer.health import HealthReport
from orchestrator import Orchestrator, OrchestratorSettings
from orchestrator.api import shapes, views
from orchestrator.api.app import create_app
from orchestrator.api.openapi import ANSWERS
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


@pytest.mark.parametrize("tokens", [None, "secret:acme"])
def test_every_operation_is_described(tokens: str | None) -> None:
    document = create_app(cast("Orchestrator", Idle(api_tokens=tokens))).openapi()
    operations = {(method, path): each for path, item in document["paths"].items() for method, each in item.items()}
    assert set(operations) == set(ANSWERS)
    assert "secret" not in str(document).replace("SecretStr", "")
    for (method, path), operation in operations.items():
        asks = ANSWERS[method, path].token == "worker" or (ANSWERS[method, path].token == "api" and tokens is not None)
        assert ("401" in operation["responses"]) == asks, path
        assert all(each["description"] for each in operation["responses"].values())
        if "requestBody" in operation:
            assert {"400", "413", "422"} <= set(operation["responses"])
