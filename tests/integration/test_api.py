"""The HTTP API over ASGI: shapes, tokens, and everything that can be wrong with a request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from checkpointer import CheckpointerSettings
from orchestrator import Orchestrator, OrchestratorSettings, open_orchestrator
from orchestrator.api.app import create_app
from orchestrator.api.body import MAX_BODY_BYTES
from orchestrator.runs.model import new_run_id
from tests.graphs import Gates, asking, chain, failing
from tests.postgres import Cluster
from tests.waiting import until

TRACE = ["one", "two", "three"]
STATUS_KEYS = {
    "threadId", "runId", "workflow", "status", "currentActivity", "attempt", "output", "error", "checkpointer",
    "createdAt", "startedAt", "updatedAt", "completedAt",
}  # fmt: skip


@pytest.fixture(params=["memory", "postgres"])
def settings(request: pytest.FixtureRequest) -> OrchestratorSettings:
    if request.param == "memory":
        return OrchestratorSettings()
    postgres: CheckpointerSettings = request.getfixturevalue("checkpointer_settings")
    return OrchestratorSettings(**postgres.model_dump(exclude_unset=True))


@asynccontextmanager
async def _client(orchestrator: Orchestrator) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(orchestrator), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest.fixture
async def gates() -> Gates:
    return Gates()


@pytest.fixture
async def client(settings: OrchestratorSettings, gates: Gates) -> AsyncIterator[httpx.AsyncClient]:
    graphs = {
        "agent": chain(),
        "chain": chain(),
        "gated": chain(gates=gates),
        "asking": asking(),
        "failing": failing(ValueError("no")),
    }
    quick = settings.model_copy(update={"drain_timeout": 0.5})
    async with open_orchestrator(graphs, settings=quick) as orchestrator, _client(orchestrator) as client:
        yield client


def _error(answer: httpx.Response) -> tuple[int, str]:
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message"}
    assert body["error"]["message"]
    return answer.status_code, body["error"]["code"]


async def test_invoke_async_then_status(client: httpx.AsyncClient) -> None:
    answer = await client.post(
        "/api/invoke/async", json={"workflow": {"role": "dev", "task": "x"}, "threadId": "a/b é"}
    )
    assert answer.status_code == 202
    body = answer.json()
    assert set(body) == {"threadId", "runId", "status", "statusUrl", "streamUrl"}
    assert (body["threadId"], body["status"]) == ("a/b é", "pending")

    async def done() -> Any:
        status = (await client.get(body["statusUrl"])).json()
        return status if status["status"] == "completed" else None

    status = await until(done)
    assert set(status) >= STATUS_KEYS
    assert (status["runId"], status["workflow"], status["attempt"]) == (body["runId"], "agent", 1)
    assert status["output"]["trace"] == TRACE
    assert status["error"] is None
    assert status["checkpointer"] in {"MemorySaver", "PostgresSaver"}
    assert status["completedAt"].endswith("Z")
    one = (await client.get(f"/api/runs/{body['runId']}")).json()
    assert one == status | {"input": {"role": "dev", "task": "x"}}


async def test_invoke_waits(client: httpx.AsyncClient, gates: Gates) -> None:
    answer = await client.post("/api/invoke", json={"workflow": "chain", "input": {"text": "x"}})
    assert answer.status_code == 200
    assert (answer.json()["status"], answer.json()["output"]["trace"]) == ("completed", TRACE)
    late = await client.post("/api/invoke", json={"workflow": "gated", "input": {"text": "x"}, "timeoutSeconds": 0.05})
    assert late.status_code == 202
    assert set(late.json()) == {"threadId", "runId", "status", "statusUrl", "streamUrl"}
    gates.open(*TRACE)


async def test_failed_and_waiting_runs_show_why(client: httpx.AsyncClient) -> None:
    failed = (await client.post("/api/invoke", json={"workflow": "failing", "input": {"text": "x"}})).json()
    assert failed["status"] == "failed"
    assert failed["error"]["type"] == "ValueError"
    waiting = (await client.post("/api/invoke", json={"workflow": "asking", "input": {"text": "x"}})).json()
    assert waiting["status"] == "waiting"
    assert waiting["output"]["__interrupt__"][0]["value"] == {"question": "go on?"}


async def test_idempotency(client: httpx.AsyncClient) -> None:
    body = {"workflow": "chain", "input": {"text": "x"}, "idempotencyKey": "k"}
    first = await client.post("/api/invoke/async", json=body)
    again = await client.post("/api/invoke/async", json=body)
    waited = await client.post("/api/invoke", json=body)
    assert [answer.status_code for answer in (first, again, waited)] == [202, 200, 200]
    assert len({answer.json()["runId"] for answer in (first, again, waited)}) == 1
    other = await client.post("/api/invoke/async", json=body | {"input": {"text": "y"}})
    assert _error(other) == (409, "idempotency_conflict")


async def test_reject(client: httpx.AsyncClient, gates: Gates) -> None:
    body = {"workflow": "gated", "input": {"text": "x"}, "threadId": "t"}
    assert (await client.post("/api/invoke/async", json=body)).status_code == 202
    assert _error(await client.post("/api/invoke/async", json=body | {"ifBusy": "reject"})) == (409, "thread_busy")
    assert (await client.post("/api/invoke/async", json=body | {"ifBusy": "enqueue"})).status_code == 202
    gates.open(*TRACE)


async def test_lists(client: httpx.AsyncClient) -> None:
    ids = [
        (await client.post("/api/invoke", json={"workflow": "chain", "input": {"n": n, "text": "x"}})).json()["runId"]
        for n in range(3)
    ]
    page = (await client.get("/api/runs", params={"limit": 2})).json()
    assert [run["runId"] for run in page["runs"]] == [ids[2], ids[1]]
    rest = (await client.get("/api/runs", params={"limit": 2, "cursor": page["nextCursor"]})).json()
    assert ([run["runId"] for run in rest["runs"]], rest["nextCursor"]) == ([ids[0]], None)
    found = (await client.get("/api/runs?status=completed&status=failed&workflow=chain")).json()
    assert len(found["runs"]) == 3
    assert (await client.get("/api/runs?workflow=other")).json() == {"runs": [], "nextCursor": None}


async def test_what_is_not_there(client: httpx.AsyncClient) -> None:
    assert _error(await client.get("/api/invoke-status/status/none")) == (404, "thread_not_found")
    assert _error(await client.get(f"/api/runs/{new_run_id()}")) == (404, "run_not_found")
    assert _error(await client.get("/api/runs/nonsense")) == (404, "run_not_found")
    assert _error(await client.get("/api/nothing")) == (404, "not_found")
    assert _error(await client.delete("/api/invoke")) == (405, "method_not_allowed")
    unknown = await client.post("/api/invoke/async", json={"workflow": "none", "input": {}})
    assert _error(unknown) == (404, "unknown_workflow")


DEEP = "[" * 500_000 + "]" * 500_000
BAD_BODIES = {
    "nothing": (b"", 400),
    "no json": (b"{", 400),
    "not utf-8": (b'{"workflow": "\xff"}', 400),
    "nan": (b'{"workflow": "chain", "input": NaN}', 400),
    "infinity": (b'{"workflow": "chain", "input": {"a": -Infinity}}', 400),
    "too deep to parse": (DEEP.encode(), 400),
    "an int of 5000 digits": (b'{"workflow": "chain", "input": ' + b"1" * 5000 + b"}", 400),
    "too deep to keep": (f'{{"workflow": "chain", "input": {"[" * 150}{"]" * 150}}}'.encode(), 422),
    "a huge float": (b'{"workflow": "chain", "input": 1e400}', 422),
    "a huge int": (b'{"workflow": "chain", "input": {"a": 123456789012345678901234567890}}', 422),
    "half a surrogate": (b'{"workflow": "chain", "input": {"a": "\\ud800"}}', 422),
    "half a surrogate as key": (b'{"workflow": "chain", "input": {"\\ud800": 1}}', 422),
    "half a surrogate as thread": (b'{"workflow": "chain", "input": {}, "threadId": "\\ud800"}', 422),
    "half a surrogate as field": (b'{"workflow": "chain", "input": {}, "\\ud800": 1}', 422),
    "nul in the thread": (b'{"workflow": "chain", "input": {}, "threadId": "a\\u0000b"}', 422),
    "nul in the key": (b'{"workflow": "chain", "input": {}, "idempotencyKey": "a\\u0000b"}', 422),
    "null": (b"null", 422),
    "a list": (b"[]", 422),
    "a string": (b'"x"', 422),
    "an empty object": (b"{}", 422),
    "no input": (b'{"workflow": "chain"}', 422),
    "null input": (b'{"workflow": "chain", "input": null}', 422),
    "workflow of a wrong type": (b'{"workflow": 1, "input": {}}', 422),
    "half an agent": (b'{"workflow": {"role": "dev"}}', 422),
    "an agent and input": (b'{"workflow": {"role": "dev", "task": "x"}, "input": {}}', 422),
    "task of a wrong type": (b'{"workflow": {"role": "dev", "task": 1}}', 422),
    "an unknown field": (b'{"workflow": "chain", "input": {}, "thread": "t"}', 422),
    "an empty thread": (b'{"workflow": "chain", "input": {}, "threadId": ""}', 422),
    "a long thread": (json.dumps({"workflow": "chain", "input": {}, "threadId": "x" * 256}).encode(), 422),
    "a thread of a wrong type": (b'{"workflow": "chain", "input": {}, "threadId": 1}', 422),
    "unknown ifBusy": (b'{"workflow": "chain", "input": {}, "ifBusy": "maybe"}', 422),
    "a negative time": (b'{"workflow": "chain", "input": {}, "timeoutSeconds": -1}', 422),
    "an endless time": (b'{"workflow": "chain", "input": {}, "timeoutSeconds": 1e400}', 422),
    "a time of many digits": (b'{"workflow": "chain", "input": {}, "timeoutSeconds": ' + b"9" * 400 + b"}", 422),
    "an unknown workflow with nul": (b'{"workflow": "a\\u0000", "input": {}}', 404),
    "an unknown workflow with half a surrogate": (b'{"workflow": "\\ud800", "input": {}}', 422),
}


@pytest.mark.parametrize("settings", ["memory"], indirect=True)
@pytest.mark.parametrize("path", ["/api/invoke", "/api/invoke/async"])
@pytest.mark.parametrize("case", BAD_BODIES)
async def test_a_bad_body_is_the_clients_error(client: httpx.AsyncClient, path: str, case: str) -> None:
    content, expected = BAD_BODIES[case]
    answer = await client.post(path, content=content, headers={"Content-Type": "application/json"})
    assert _error(answer)[0] == expected, answer.text


@pytest.mark.parametrize("settings", ["memory"], indirect=True)
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"[]", "takes a JSON object"),
        (b"{}", "workflow: Field required"),
        (b'{"workflow": 1}', 'workflow: takes the name of a workflow, or {"role": "…", "task": "…"} for the agent'),
        (b'{"workflow": ""}', "workflow.name: String should have at least 1 character"),
        (b'{"workflow": {"role": "dev"}}', "workflow.agent.task: Field required"),
        (b'{"workflow": "\\ud800", "input": {}}', "workflow.name: Input should be a valid string, unable to parse "),
    ],
)
async def test_what_is_wrong_with_a_body_is_said_in_terms_of_json(
    client: httpx.AsyncClient, body: bytes, message: str
) -> None:
    answer = await client.post("/api/invoke", content=body)
    assert answer.json()["error"]["message"].startswith(message)


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("status=maybe", 422),
        ("status=%00", 422),
        ("workflow=%00", 422),
        ("workflow=%ff", 200),
        ("workflow=" + "x" * 300, 422),
        ("limit=0", 422),
        ("limit=201", 422),
        ("limit=x", 422),
        ("limit=" + "9" * 30, 422),
        ("cursor=%00", 422),
        ("cursor=abc", 422),
        ("cursor=" + "W" * 600, 422),
    ],
)
async def test_bad_queries(client: httpx.AsyncClient, query: str, status: int) -> None:
    answer = await client.get(f"/api/runs?{query}")
    assert answer.status_code == status
    if status != 200:
        _error(answer)


@pytest.mark.parametrize("path", ["%00", "a%00b", "%ff", "%ed%a0%80", "x" * 300, "%2e%2e", "a%0ab"])
async def test_bad_paths_are_not_found(client: httpx.AsyncClient, path: str) -> None:
    assert _error(await client.get(f"/api/invoke-status/status/{path}"))[0] == 404
    assert _error(await client.get(f"/api/runs/{path}"))[0] == 404


async def test_nul_in_the_input_is_no_error_of_the_request(client: httpx.AsyncClient) -> None:
    answer = await client.post("/api/invoke", content=b'{"workflow": "chain", "input": {"text": "a\\u0000b"}}')
    assert answer.status_code == 200
    assert (await client.get(f"/api/runs/{answer.json()['runId']}")).json()["input"] == {"text": "a\x00b"}


@pytest.mark.parametrize("settings", ["memory"], indirect=True)
async def test_a_body_over_the_limit(client: httpx.AsyncClient) -> None:
    large = json.dumps({"workflow": "chain", "input": {"text": "x" * (2 * MAX_BODY_BYTES)}}).encode()

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(large), 65536):
            yield large[start : start + 65536]

    assert _error(await client.post("/api/invoke", content=large)) == (413, "body_too_large")
    assert _error(await client.post("/api/invoke", content=chunks())) == (413, "body_too_large")
    fits = json.dumps({"workflow": "chain", "input": {"text": "x" * (MAX_BODY_BYTES - 100)}}).encode()
    assert (await client.post("/api/invoke/async", content=fits)).status_code == 202


async def test_health_and_metrics(client: httpx.AsyncClient, settings: OrchestratorSettings) -> None:
    assert (await client.get("/api/health/live")).json() == {"status": "alive"}
    assert (await client.get("/api/health/ready")).json() == {"status": "ready"}
    short = (await client.get("/api/health")).json()
    assert (short["status"], short["durable"]) == ("healthy", settings.use_postgres_saver)
    assert "chain" in short["workflows"]
    saver = (await client.get("/api/health/checkpointer")).json()
    assert saver["checkpointer"] == ("PostgresSaver" if settings.use_postgres_saver else "MemorySaver")
    await client.post("/api/invoke", json={"workflow": "chain", "input": {"text": "x"}})
    metrics = await client.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    assert 'orchestrator_runs_total{status="completed",workflow="chain"}' in metrics.text


async def test_tokens_decide_the_organization(settings: OrchestratorSettings) -> None:
    secured = OrchestratorSettings(
        **settings.model_dump(exclude_unset=True), api_tokens="t-acme:acme,t-acme-2:acme,t-other:other"
    )
    body = {"workflow": "chain", "input": {"text": "x"}, "threadId": "t"}

    def bearer(token: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {token}"}

    async with open_orchestrator({"chain": chain()}, settings=secured) as orchestrator, _client(orchestrator) as client:
        for headers in ({}, bearer("wrong"), bearer(""), {"Authorization": "Basic t-acme"}, bearer("t-acmeé")):
            encoded = {name.encode(): value.encode("latin-1") for name, value in headers.items()}
            refused = await client.post("/api/invoke", json=body, headers=encoded)
            assert _error(refused) == (401, "unauthorized")
            assert refused.headers["www-authenticate"] == "Bearer"
            assert _error(await client.get("/api/runs", headers=encoded)) == (401, "unauthorized")
        acme = (await client.post("/api/invoke", json=body, headers=bearer("t-acme"))).json()
        assert acme["output"]["trace"] == TRACE
        assert acme["organizationId"] == "acme"

        path = f"/api/runs/{acme['runId']}"
        assert (await client.get(path, headers=bearer("t-acme-2"))).status_code == 200
        assert _error(await client.get(path, headers=bearer("t-other"))) == (404, "run_not_found")
        status = "/api/invoke-status/status/t"
        assert _error(await client.get(status, headers=bearer("t-other"))) == (404, "thread_not_found")
        assert (await client.get("/api/runs", headers=bearer("t-other"))).json()["runs"] == []

        other = (await client.post("/api/invoke", json=body, headers=bearer("t-other"))).json()
        assert other["output"]["trace"] == TRACE
        assert (await client.get("/api/health/live")).status_code == 200


async def test_closing_refuses_new_runs_and_is_not_ready(settings: OrchestratorSettings) -> None:
    async with (
        open_orchestrator({"chain": chain()}, settings=settings) as orchestrator,
        _client(orchestrator) as client,
    ):
        orchestrator.request_close()
        body = {"workflow": "chain", "input": {"text": "x"}}
        assert _error(await client.post("/api/invoke", json=body)) == (503, "closing")
        assert (await client.get("/api/health/ready")).status_code == 503
        assert (await client.get("/api/health/live")).status_code == 200


async def test_with_postgres_away_calls_answer_503_in_time_and_recover(cluster: Cluster) -> None:
    settings = OrchestratorSettings(
        use_postgres_saver=True, postgres_connection_string=cluster.dsn(), drain_timeout=0.5
    )
    body = {"workflow": "chain", "input": {"text": "x"}}
    async with (
        open_orchestrator({"chain": chain()}, settings=settings) as orchestrator,
        _client(orchestrator) as client,
    ):
        await asyncio.to_thread(cluster.stop)
        # Promised are two seconds, and five for the calls; saves ride such a time out for thirty.
        async with asyncio.timeout(8):
            health = await client.get("/api/health/checkpointer")
        assert health.status_code == 503
        assert (health.json()["status"], health.json()["postgres"]["connected"]) == ("unhealthy", False)
        async with asyncio.timeout(20):
            answers = await asyncio.gather(
                client.post("/api/invoke", json=body),
                client.post("/api/invoke/async", json=body | {"threadId": "t", "ifBusy": "reject"}),
                client.get("/api/runs"),
                client.get(f"/api/runs/{new_run_id()}"),
                client.get("/api/invoke-status/status/t"),
            )
        assert {_error(answer) for answer in answers} == {(503, "database_unavailable")}
        assert (await client.get("/api/health/live")).status_code == 200

        await asyncio.to_thread(cluster.start)

        async def healthy() -> bool:
            return (await client.get("/api/health/checkpointer")).status_code == 200

        await until(healthy, timeout_s=60)

        async def completes() -> bool:
            answer = await client.post("/api/invoke", json=body)
            return answer.status_code == 200 and answer.json()["status"] == "completed"

        await until(completes, timeout_s=60)
