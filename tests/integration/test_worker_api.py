"""`/.well-known/workflow/v1/flow` and `/step` over ASGI: who may, what may be sent, and what it does."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from checkpointer import CheckpointerSettings
from orchestrator import Orchestrator, OrchestratorSettings, open_orchestrator
from orchestrator.api.app import create_app
from orchestrator.api.body import MAX_BODY_BYTES
from orchestrator.opening import Role
from orchestrator.queues.driver import MessageData
from orchestrator.runs.model import RunStatus, new_run_id
from tests.graphs import Gates, chain
from tests.waiting import until

TOKEN = "a-worker-s-token-of-this-test"
FLOW, STEP = "/.well-known/workflow/v1/flow", "/.well-known/workflow/v1/step"
RIGHT = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(params=["memory", "postgres"])
def settings(request: pytest.FixtureRequest) -> OrchestratorSettings:
    given: dict[str, Any] = {"worker_token": SecretStr(TOKEN), "drain_timeout": 0.5}
    if request.param == "memory":
        return OrchestratorSettings(**given)
    postgres: CheckpointerSettings = request.getfixturevalue("checkpointer_settings")
    return OrchestratorSettings(**postgres.model_dump(exclude_unset=True) | given)


@pytest.fixture
async def gates() -> Gates:
    return Gates()


@pytest.fixture
async def orchestrator(settings: OrchestratorSettings, gates: Gates) -> AsyncIterator[Orchestrator]:
    """One that drives what it is handed and nothing else."""
    graphs = {"chain": chain(), "gated": chain(gates=gates)}
    async with open_orchestrator(graphs, settings=settings, role=Role("server", works=False)) as orchestrator:
        yield orchestrator


@asynccontextmanager
async def _over_asgi(orchestrator: Orchestrator) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(orchestrator), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest.fixture
async def client(orchestrator: Orchestrator) -> AsyncIterator[httpx.AsyncClient]:
    async with _over_asgi(orchestrator) as client:
        yield client


def _message(run_id: str, kind: str = "flow", name: str = "chain") -> dict[str, object]:
    return {"kind": kind, "id": run_id, "name": name}


def _refused(answer: httpx.Response) -> tuple[int, str]:
    assert set(answer.json()) == {"error"}
    assert TOKEN not in answer.text + str(answer.headers)
    return answer.status_code, answer.json()["error"]["code"]


@pytest.mark.parametrize("settings", ["memory"], indirect=True)
@pytest.mark.parametrize("path", [FLOW, STEP])
@pytest.mark.parametrize(
    "shown",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        TOKEN,
        f"Basic {TOKEN}",
        f"Token {TOKEN}",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN.upper()}",
        f"Bearer Bearer {TOKEN}",
        f"Bearer {TOKEN}\u00e9".encode(),
        f"Bearer {TOKEN}\u00e9".encode("latin-1"),
        b"Bearer \xff\xfe",
    ],
)
async def test_another_token_is_refused(client: httpx.AsyncClient, path: str, shown: str | bytes | None) -> None:
    headers = [] if shown is None else [(b"authorization", shown if isinstance(shown, bytes) else shown.encode())]
    answer = await client.post(path, json=_message(new_run_id()), headers=headers)
    assert _refused(answer) == (401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "WORKER_TOKEN" in answer.json()["error"]["message"]
    # Before the body is looked at.
    assert (await client.post(path, content=b"{", headers=headers)).status_code == 401


@pytest.mark.parametrize("shown", ["", "Bearer", "Bearer ", "Bearer None", f"Bearer {TOKEN}"])
async def test_it_is_closed_where_no_token_is_set(shown: str) -> None:
    async with open_orchestrator({}, settings=OrchestratorSettings()) as closed, _over_asgi(closed) as client:
        answer = await client.post(FLOW, json=_message(new_run_id()), headers={"Authorization": shown})
        assert _refused(answer) == (401, "unauthorized")


async def test_an_api_token_is_no_worker_token_nor_the_other_way_round() -> None:
    settings = OrchestratorSettings(worker_token=SecretStr(TOKEN), api_tokens=SecretStr("someone-s-token:acme"))
    async with open_orchestrator({}, settings=settings) as both, _over_asgi(both) as client:
        theirs = {"Authorization": "Bearer someone-s-token"}
        assert (await client.post(FLOW, json=_message(new_run_id()), headers=theirs)).status_code == 401
        assert (await client.get("/api/runs", headers=theirs)).status_code == 200
        assert (await client.get("/api/runs", headers=RIGHT)).status_code == 401
        assert (await client.post(FLOW, json=_message(new_run_id()), headers=RIGHT)).status_code == 200


@pytest.mark.parametrize("settings", ["memory"], indirect=True)
async def test_tokens_are_compared_in_constant_time(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(expected: bytes, shown: bytes) -> bool:
        compared.append((expected, shown))
        return real(expected, shown)

    real = hmac.compare_digest
    monkeypatch.setattr("orchestrator.api.worker.hmac.compare_digest", compare)
    for shown in ("x", TOKEN):
        await client.post(FLOW, json=_message(new_run_id()), headers={"Authorization": f"Bearer {shown}"})
    assert compared == [(TOKEN.encode(), b"x"), (TOKEN.encode(), TOKEN.encode())]


RUN = new_run_id()
WRONG = {
    "nothing": (b"", 422),
    "no json": (b"{", 400),
    "not utf-8": (b'{"kind": "\xff"}', 400),
    "null": (b"null", 422),
    "a list": (b"[]", 422),
    "an empty object": (b"{}", 422),
    "no id": (b'{"kind": "flow", "name": "chain"}', 422),
    "no name": (json.dumps({"kind": "flow", "id": RUN}).encode(), 422),
    "an unknown kind": (json.dumps(_message(RUN, "flows")).encode(), 422),
    "the kind of the other address": (json.dumps(_message(RUN, "step")).encode(), 422),
    "an id of a wrong type": (json.dumps(_message(RUN) | {"id": 1}).encode(), 422),
    "an id that is none": (json.dumps(_message("nonsense")).encode(), 422),
    "an empty id": (json.dumps(_message("")).encode(), 422),
    "an id with nul": (json.dumps(_message(f"{RUN}\x00")).encode(), 422),
    "a long id": (json.dumps(_message("x" * 10_000)).encode(), 422),
    "a queue of a wrong type": (json.dumps(_message(RUN) | {"queue": None}).encode(), 422),
    "a priority of a wrong type": (json.dumps(_message(RUN) | {"priority": "1"}).encode(), 422),
    "a time of a wrong type": (json.dumps(_message(RUN) | {"run_at": 1}).encode(), 422),
    "a time that is none": (json.dumps(_message(RUN) | {"run_at": "tomorrow"}).encode(), 422),
    "too much": (json.dumps(_message(RUN) | {"name": "x" * MAX_BODY_BYTES}).encode(), 413),
}


@pytest.mark.parametrize("settings", ["memory"], indirect=True)
@pytest.mark.parametrize("wrong", WRONG)
async def test_a_wrong_message_is_refused(client: httpx.AsyncClient, wrong: str) -> None:
    body, status = WRONG[wrong]
    answer = await client.post(FLOW, content=body, headers=RIGHT)
    assert _refused(answer)[0] == status
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize(("path", "kind"), [(FLOW, "flow"), (STEP, "step")])
async def test_what_is_not_there_is_dropped(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, path: str, kind: str
) -> None:
    """An error would have the message delivered again, for nothing."""
    with caplog.at_level(logging.WARNING, "orchestrator"):
        answer = await client.post(path, json=_message(new_run_id(), kind), headers=RIGHT)
    assert (answer.status_code, answer.json()) == (200, {"status": "done"})
    assert "a message was dropped" in caplog.text


async def test_a_message_drives_its_run(client: httpx.AsyncClient, orchestrator: Orchestrator) -> None:
    run = await orchestrator.start("chain", {"text": "x"})
    # Keys that this version does not know are passed over; what is said of the run is looked up.
    message = _message(run.run_id, name="another") | {"queue": "any", "priority": 7, "run_at": None, "more": 1}
    answer = await client.post(FLOW, json=message, headers=RIGHT)
    assert (answer.status_code, answer.json()) == (200, {"status": "done"})
    done = await orchestrator.poll(run.run_id)
    assert (done.status, done.attempt) == (RunStatus.COMPLETED, 1)
    again = await client.post(FLOW, json=MessageData("flow", run.run_id, "chain").as_json(), headers=RIGHT)
    assert (again.status_code, again.json()) == (200, {"status": "done"})
    assert await orchestrator.poll(run.run_id) == done


async def test_a_message_that_comes_twice_is_one_attempt(
    client: httpx.AsyncClient, orchestrator: Orchestrator, gates: Gates
) -> None:
    run = await orchestrator.start("gated", {"text": "x"})
    calls = [asyncio.create_task(client.post(FLOW, json=_message(run.run_id), headers=RIGHT)) for _ in range(5)]

    async def under_way() -> bool:
        return (await orchestrator.poll(run.run_id)).status is RunStatus.RUNNING

    await until(under_way)
    gates.open("one", "two", "three")
    assert {call.status_code for call in await asyncio.gather(*calls)} == {200}
    done = await orchestrator.poll(run.run_id)
    assert (done.status, done.attempt) == (RunStatus.COMPLETED, 1)


@pytest.mark.parametrize("settings", ["memory"], indirect=True)
async def test_a_cancelled_run_is_left_alone(client: httpx.AsyncClient, orchestrator: Orchestrator) -> None:
    run = await orchestrator.start("chain", {"text": "x"})
    await orchestrator.cancel(run.run_id)
    assert (await client.post(FLOW, json=_message(run.run_id), headers=RIGHT)).status_code == 200
    left = await orchestrator.poll(run.run_id)
    assert (left.status, left.attempt) == (RunStatus.CANCELLED, 0)


@pytest.mark.parametrize("settings", ["memory"], indirect=True)
async def test_openapi_has_both(client: httpx.AsyncClient) -> None:
    schema = (await client.get("/openapi.json")).json()
    for path, kind in ((FLOW, "flow"), (STEP, "step")):
        call = schema["paths"][path]["post"]
        body = call["requestBody"]["content"]["application/json"]["schema"]
        assert set(body["properties"]) == set(MessageData("flow", "i", "n").as_json())
        assert body["required"] == ["kind", "id", "name"]
        assert kind in call["description"] or "run" in call["description"]
        # What a call asks for is described somewhere.
        [[name]] = [list(each) for each in call["security"]]
        assert schema["components"]["securitySchemes"][name] == {
            "type": "http",
            "scheme": "bearer",
            "description": "WORKER_TOKEN",
        }
