"""Every time that the API shows is ISO 8601 in UTC, to the millisecond, whatever time zone the server is in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import psycopg
import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

from checkpointer import CheckpointerSettings
from orchestrator import OrchestratorSettings, open_orchestrator
from orchestrator.api.app import create_app
from orchestrator.batches.flow import build_batch
from orchestrator.workflows import build_extraction
from tests.graphs import State, chain, failing
from tests.waiting import until

LOOKS_LIKE_A_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d.*")
UTC_MS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
HOUR = {"initialInterval": 3600, "maxInterval": 3600, "jitter": False}


@pytest.fixture(params=["memory", "Asia/Kolkata"])
def settings(request: pytest.FixtureRequest) -> OrchestratorSettings:
    if request.param == "memory":
        return OrchestratorSettings(drain_timeout=0.5)
    postgres: CheckpointerSettings = request.getfixturevalue("checkpointer_settings")
    with psycopg.connect(request.getfixturevalue("postgres_dsn"), autocommit=True) as conn:
        conn.execute(f"ALTER DATABASE \"{conn.info.dbname}\" SET timezone = '{request.param}'")
    return OrchestratorSettings(**postgres.model_dump(exclude_unset=True), drain_timeout=0.5)


def _times(answer: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """What looks like a time in an answer: where, and what."""
    if isinstance(answer, dict):
        for name, value in answer.items():
            yield from _times(value, f"{path}.{name}")
    elif isinstance(answer, list):
        for value in answer:
            yield from _times(value, path)
    elif isinstance(answer, str) and LOOKS_LIKE_A_TIME.fullmatch(answer):
        yield path.rpartition(".")[2], answer


async def test_every_time_is_in_utc_to_the_millisecond(settings: OrchestratorSettings) -> None:
    """Of runs in every state, of what became of them, of their events, and of a batch."""

    def ask(state: State) -> dict[str, Any]:
        return {"text": interrupt({"signal": "approval"})}

    graphs: dict[str, Any] = {
        "flaky": failing(ConnectionError("away")),
        "chain": chain(),
        "ask": StateGraph(State).add_node("ask", ask).add_edge(START, "ask"),
        "batch": build_batch(),
        "extraction": build_extraction(),
    }
    async with open_orchestrator(graphs, settings=settings) as orchestrator:
        transport = httpx.ASGITransport(create_app(orchestrator), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answers = await _answers(client)
    found = [time for answer in answers for time in _times(answer)]
    assert {name for name, _ in found} == {
        *("createdAt", "startedAt", "updatedAt", "completedAt", "endedAt", "retryAt", "startAt", "at"),
    }
    wrong = [(name, value) for name, value in found if not UTC_MS.fullmatch(value)]
    assert not wrong
    # Not another zone's, with a Z behind it.
    retried = {value for name, value in found if name == "retryAt"}
    assert len(retried) == 1
    before = datetime.now(UTC) + timedelta(minutes=45)
    assert before < datetime.fromisoformat(retried.pop()) < before + timedelta(minutes=30)


async def _answers(client: httpx.AsyncClient) -> list[Any]:
    """What the API says of runs and a batch."""
    flaky = await _start(client, {"workflow": "flaky", "input": {}, "retry": HOUR})
    done = await _start(client, {"workflow": "chain", "input": {"text": "x"}})
    later = {"workflow": "chain", "input": {"text": "x"}, "startAt": "2100-01-31T06:00:00+01:00"}
    asking = await _start(client, {"workflow": "ask", "input": {}})
    await client.post(f"{asking}/signals/approval", json={"payload": "yes"})
    document = {"id": "a", "text": "Acme Corporation acquired Globex in 2019."}
    batch = (await client.post("/api/batches", json={"documents": [document]})).json()["statusUrl"]
    shown = [await _reached(client, flaky, "suspended"), (await client.get(await _start(client, later))).json()]
    shown += [await _reached(client, each, "completed") for each in (done, asking, batch)]
    await client.post(f"{flaky}/cancel")
    for path in ("/api/runs", f"{done}/activities", f"{done}/history"):
        shown.append((await client.get(path)).json())
    # A stream of what is over ends.
    for path in (flaky, done, asking, batch):
        answer = await client.get(f"{path}/events")
        lines = answer.text.splitlines()
        shown += [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    return shown


async def _start(client: httpx.AsyncClient, body: dict[str, Any]) -> str:
    answer = await client.post("/api/invoke/async", json=body)
    assert answer.status_code == 202, answer.text
    return f"/api/runs/{answer.json()['runId']}"


async def _reached(client: httpx.AsyncClient, path: str, status: str) -> Any:
    async def look() -> Any:
        run = (await client.get(path)).json()
        return run if run["status"] == status else None

    return await until(look, what=f"{path} is {status}")
