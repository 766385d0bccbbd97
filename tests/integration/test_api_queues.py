"""When, in which order and by whom a run is to be taken up, over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from checkpointer import CheckpointerSettings
from orchestrator import OrchestratorSettings, open_orchestrator
from orchestrator.api.app import create_app
from tests.graphs import chain
from tests.waiting import until

BODY: dict[str, Any] = {"workflow": "chain", "input": {}}


@pytest.fixture(params=["memory", "postgres"])
def settings(request: pytest.FixtureRequest) -> OrchestratorSettings:
    if request.param == "memory":
        return OrchestratorSettings()
    postgres: CheckpointerSettings = request.getfixturevalue("checkpointer_settings")
    return OrchestratorSettings(**postgres.model_dump(exclude_unset=True))


@pytest.fixture
async def client(settings: OrchestratorSettings) -> AsyncIterator[httpx.AsyncClient]:
    async with open_orchestrator({"chain": chain()}, settings=settings) as orchestrator:
        transport = httpx.ASGITransport(create_app(orchestrator), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client


async def test_a_run_shows_its_queue_priority_and_start(client: httpx.AsyncClient) -> None:
    values = {"startAt": "2999-01-31T06:00:00+01:00", "priority": -3, "queue": "gpu"}
    answer = await client.post("/api/invoke/async", json={**BODY, **values})
    assert (answer.status_code, answer.json()["status"]) == (202, "pending")
    shown = {**values, "startAt": "2999-01-31T05:00:00.000Z"}
    run_id = answer.json()["runId"]
    for run in (
        (await client.get(f"/api/runs/{run_id}")).json(),
        (await client.get("/api/runs")).json()["runs"][0],
        (await client.get(answer.json()["statusUrl"])).json(),
    ):
        assert {name: run[name] for name in values} == shown
        assert (run["status"], run["startedAt"]) == ("pending", None)
    cancelled = await client.post(f"/api/runs/{run_id}/cancel")
    assert cancelled.json()["status"] == "cancelled"


async def test_by_default_it_is_taken_up_now(client: httpx.AsyncClient) -> None:
    run = (await client.post("/api/invoke", json=BODY)).json()
    assert (run["status"], run["queue"], run["priority"], run["startAt"]) == ("completed", "flow", 0, None)
    past = (await client.post("/api/invoke", json={**BODY, "startAt": "2001-01-01T00:00:00Z"})).json()
    assert (past["status"], past["startAt"]) == ("completed", "2001-01-01T00:00:00.000Z")


async def test_a_run_starts_in_its_time(client: httpx.AsyncClient) -> None:
    at = datetime.now(UTC) + timedelta(seconds=0.7)
    answer = await client.post("/api/invoke/async", json={**BODY, "startAt": at.isoformat()})

    async def done() -> Any:
        run = (await client.get(answer.json()["statusUrl"])).json()
        return run if run["status"] == "completed" else None

    run = await until(done)
    assert datetime.fromisoformat(run["startedAt"]) >= at - timedelta(milliseconds=1)


NO_TIMES: list[Any] = [
    *("tomorrow", "", "2026-11-20T10:00:00", "2026-11-20", 5, True, []),
    # Times that one of Python, PostgreSQL and a zone between them can't show.
    *("9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", "2026-11-20T10:00:00+99:00"),
]
NO_PRIORITIES: list[Any] = ["high", 1.5, True, None, 2**31, -(2**31) - 1, 10**30]
NO_QUEUES: list[Any] = ["", "a" * 256, "a\u0000", 5, None]


@pytest.mark.parametrize(
    ("values", "why"),
    [
        *(({"startAt": each}, "startAt: takes a time with its zone") for each in NO_TIMES),
        *(({"priority": each}, "priority") for each in NO_PRIORITIES),
        *(({"queue": each}, "queue") for each in NO_QUEUES),
    ],
)
async def test_what_is_wrong_is_422_and_named(client: httpx.AsyncClient, values: dict[str, Any], why: str) -> None:
    answer = await client.post("/api/invoke", json={**BODY, **values})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_request")
    assert why in answer.json()["error"]["message"]
