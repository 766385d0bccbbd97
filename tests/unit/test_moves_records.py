"""Runs as records of a file: nothing is lost on the way."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from datetime import UTC, datetime

import pytest

from checkpointer.postgres.queries import load_queries
from orchestrator.moves.leaving import QUERIES
from orchestrator.moves.records import record_of, run_in
from orchestrator.runs.activity import Activity, ActivityStatus
from orchestrator.runs.carried import CarriedHook, CarriedRun
from orchestrator.runs.events import Event
from orchestrator.runs.model import Request, Run, RunStatus
from orchestrator.runs.signals import Hook, Signal
from orchestrator.runs.steps import Step, StepStatus

NOW = datetime(2026, 11, 20, 14, 0, 0, 123456, tzinfo=UTC)
# What is another's, or made anew, where a run arrives.
NOT_PUT = {"lease_owner", "lease_until", "saver", "updated_at", "left_at"}


def carried() -> CarriedRun:
    """A run with something of everything, NUL and null among it."""
    run = Run(
        run_id="r",
        thread_id="t",
        organization_id="acme",
        workflow_type="w",
        status=RunStatus.SUSPENDED,
        input=None,
        max_attempts=3,
        saver="MemorySaver",
        created_at=NOW,
        updated_at=NOW,
        requested=Request.PAUSE,
        retry_at=NOW,
        output={"text": "a\x00b", "deep": [1, 2.5, None]},
    )
    return CarriedRun(
        run=run,
        moves=2,
        awaits_children=True,
        signals=[Signal(7, "r", "s", None, NOW, key="k")],
        hooks=[CarriedHook(Hook("token", "r", "s", multiple=True, expires_at=NOW), "key", 3)],
        steps=[Step("id", "r", "k", "n", "step", 0, {"args": []}, StepStatus.FAILED, 1, 0, error={"type": "E"})],
        activities=[Activity("r", 1, "task", "one", ActivityStatus.LOST, NOW)],
        events=[Event("r", 1, "state", {"status": "pending"}, NOW)],
    )


def test_a_run_comes_back_as_it_was() -> None:
    assert run_in(json.loads(json.dumps(record_of(carried())))) == carried()


def test_what_is_no_run_is_refused() -> None:
    with pytest.raises(KeyError):
        run_in({"kind": "run", "moves": 1})


def test_every_column_of_a_run_is_put() -> None:
    put = set(re.findall(r"%\((\w+)\)s", load_queries(QUERIES, "s")["put_run"]))
    assert {field.name for field in fields(Run)} - NOT_PUT <= put
