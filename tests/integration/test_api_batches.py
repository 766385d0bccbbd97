"""/api/batches over ASGI."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from checkpointer import CheckpointerSettings
from orchestrator import Orchestrator, OrchestratorSettings, open_orchestrator
from orchestrator.api.app import create_app
from orchestrator.batches.flow import build_batch
from orchestrator.workflows import build_extraction
from tests.waiting import until

TEXT = "Acme Corporation acquired Globex in 2019. John Smith founded Acme Corporation in Berlin."
NO_BATCH = "0199c0de-0000-7000-8000-000000000000"


@pytest.fixture(params=["memory", "postgres"])
def settings(request: pytest.FixtureRequest) -> OrchestratorSettings:
    if request.param == "memory":
        return OrchestratorSettings()
    postgres: CheckpointerSettings = request.getfixturevalue("checkpointer_settings")
    return OrchestratorSettings(**postgres.model_dump(exclude_unset=True))


@asynccontextmanager
async def _serving(settings: OrchestratorSettings, root: Path) -> AsyncIterator[httpx.AsyncClient]:
    graphs: dict[str, Any] = {"batch": build_batch(documents=root), "extraction": build_extraction()}
    async with open_orchestrator(graphs, settings=settings) as orchestrator, _client(orchestrator) as client:
        yield client


@asynccontextmanager
async def _client(orchestrator: Orchestrator) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(orchestrator), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def _over(client: httpx.AsyncClient, started: dict[str, Any], **headers: Any) -> dict[str, Any]:
    async def look() -> Any:
        batch = (await client.get(started["statusUrl"], **headers)).json()
        return batch if batch["state"] in ("complete", "failed") else None

    found: dict[str, Any] = await until(look, what="the batch is over")
    return found


async def test_a_batch_from_start_to_end(settings: OrchestratorSettings, tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(TEXT)
    (tmp_path / "b.md").write_text("")
    async with _serving(settings, tmp_path) as client:
        body = {"paths": ["."], "title": "reports", "idempotencyKey": "k"}
        answer = await client.post("/api/batches", json=body)
        assert answer.status_code == 202, answer.text
        started = answer.json()
        assert (started["title"], started["policy"]) == ("reports", "some")
        batch = await _over(client, started)
        assert (batch["state"], batch["status"], batch["error"]) == ("complete", "completed", None)
        assert batch["counts"]["preprocessing"] == {"done": 1, "total": 2, "failed": 1}
        assert batch["counts"]["ingesting"] == {"done": 1, "total": 1, "failed": 0}
        assert batch["knowledge"]["documents"] == 1
        [failed] = batch["failedDocuments"]
        assert (failed["key"], failed["state"]) == ("b.md", "failed")
        assert failed["error"]["message"] == "'b.md' is empty"
        again = await client.post("/api/batches", json=body)
        assert (again.status_code, again.json()["batchId"]) == (200, started["batchId"])
        assert (await client.post("/api/batches", json=body | {"title": "other"})).status_code == 409

        first = (await client.get(started["documentsUrl"], params={"limit": 1})).json()
        rest = (await client.get(started["documentsUrl"], params={"after": first["nextAfter"]})).json()
        assert [row["key"] for row in first["documents"] + rest["documents"]] == ["a.md", "b.md"]
        assert rest["nextAfter"] is None

        (tmp_path / "b.md").write_text(TEXT)
        retried = await client.post(f"{started['statusUrl']}/retry")
        assert retried.status_code == 202, retried.text
        second = await _over(client, retried.json())
        assert (second["state"], second["retryOf"]) == ("complete", started["batchId"])
        assert second["counts"]["ingesting"] == {"done": 1, "total": 1, "failed": 0}
        refused = await client.post(f"{second['statusUrl']}/retry")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "nothing_to_retry")


async def test_what_was_found_can_be_taken_out(settings: OrchestratorSettings, tmp_path: Path) -> None:
    async with _serving(settings, tmp_path) as client:
        started = (await client.post("/api/batches", json={"documents": [{"text": TEXT, "id": "one"}]})).json()
        await _over(client, started)
        path = f"{started['statusUrl']}/export"
        answer = await client.get(path)
        assert answer.headers["content-type"] == "application/ld+json"
        assert f"batch-{started['batchId']}.jsonld" in answer.headers["content-disposition"]
        nodes = {node["@id"]: node for node in json.loads(answer.text)["@graph"]}
        assert {"Acme Corporation", "Globex"} <= {node.get("name") for node in nodes.values()}
        for format_ in ("graphml", "svg"):
            text = (await client.get(path, params={"format": format_})).text
            assert "Acme Corporation" in text
            assert ET.fromstring(text) is not None  # noqa: S314 - it is our own
        assert (await client.get(path, params={"format": "png"})).status_code == 422
        assert (await client.get(f"/api/batches/{NO_BATCH}/export")).status_code == 404


async def test_where_documents_lie_is_not_said(settings: OrchestratorSettings, tmp_path: Path) -> None:
    root = tmp_path / "documents"
    root.mkdir()
    (root / "link.md").symlink_to("/etc/hostname")
    async with _serving(settings, root) as client:
        body = {"paths": [".", "..", "../beside.md", "missing.md", "/etc/passwd"]}
        started = (await client.post("/api/batches", json=body)).json()
        batch = await _over(client, started)
        assert len(batch["failedDocuments"]) == 5
        documents = (await client.get(started["documentsUrl"])).text
        events = (await client.get(started["streamUrl"])).text
        assert str(tmp_path) not in json.dumps(batch) + documents + events


async def test_the_stream_shows_the_states(settings: OrchestratorSettings, tmp_path: Path) -> None:
    async with _serving(settings, tmp_path) as client:
        answer = await client.post("/api/batches", json={"documents": [{"text": TEXT, "id": "one"}]})
        started = answer.json()
        await _over(client, started)
        stream = await client.get(started["streamUrl"])
        events = [json.loads(line[6:]) for line in stream.text.splitlines() if line.startswith("data: ")]
        assert [event["number"] for event in events] == list(range(1, len(events) + 1))
        states = [event["payload"]["state"] for event in events if event["kind"] == "custom"]
        assert list(dict.fromkeys(states)) == ["preprocessing", "extracting", "resolving", "validating", "ingesting"]
        last = [event["payload"] for event in events if event["kind"] == "custom"][-1]
        assert last == {"state": "ingesting", "done": 1, "total": 1, "failed": 0}
        [document] = [event for event in events if event["kind"] == "document"]
        assert document["status"] == "completed"
        ended = await client.get(started["streamUrl"], params={"after": events[-1]["number"]})
        assert ended.status_code == 204


async def test_what_is_wrong_is_said(settings: OrchestratorSettings, tmp_path: Path) -> None:
    async with _serving(settings, tmp_path) as client:
        refused: list[dict[str, Any]] = [
            {},
            {"paths": []},
            {"paths": ["a"], "documents": [{"text": "a"}]},
            {"documents": [{"text": 1}]},
            {"paths": ["a"], "policy": "most"},
            {"paths": ["a"], "throttleSeconds": 1},
            {"paths": ["a\0"]},
            {"paths": ["\ud800"]},
            {"paths": ["a"], "title": ""},
        ]
        for body in refused:
            answer = await client.post("/api/batches", content=json.dumps(body))
            assert answer.status_code == 422, (body, answer.text)
        for path in ("", "/events", "/documents"):
            for batch_id in (NO_BATCH, "nonsense"):
                assert (await client.get(f"/api/batches/{batch_id}{path}")).status_code == 404
        run = (await client.post("/api/invoke", json={"workflow": "extraction", "input": {"text": TEXT}})).json()
        answer = await client.get(f"/api/batches/{run['runId']}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "batch_not_found")


async def test_paths_that_can_not_be_stored_fail_alone(settings: OrchestratorSettings, tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(TEXT)
    async with _serving(settings, tmp_path) as client:
        paths = ["a.md", "\x01", "n" * 5000, "/etc/passwd"]
        answer = await client.post("/api/batches", content=json.dumps({"paths": paths}))
        assert answer.status_code == 202, answer.text
        batch = await _over(client, answer.json())
        assert batch["state"] == "complete", batch
        assert len(batch["failedDocuments"]) == 3


SPELLINGS = ["Brightwater Logistics GmbH acquired Globex Inc.", "Brightwater Logistic GmbH employs John Smith."]


async def test_a_merge_is_explained_and_undone(settings: OrchestratorSettings, tmp_path: Path) -> None:
    async with _serving(settings, tmp_path) as client:
        body = {"documents": [{"text": text} for text in SPELLINGS]}
        started = (await client.post("/api/batches", json=body)).json()
        await _over(client, started)
        path = f"{started['statusUrl']}/merges"
        page = (await client.get(path)).json()
        [merge] = page["merges"]
        assert page["nextAfter"] is None
        assert {merge["left"], merge["right"]} == {"Brightwater Logistics GmbH", "Brightwater Logistic GmbH"}
        assert (merge["rule"], merge["batchId"], merge["undoneAt"]) == ("spelling", started["batchId"], None)
        first = (await client.get(path, params={"limit": 1})).json()
        assert first == {"merges": [merge], "nextAfter": merge["mergeId"]}
        assert (await client.get(path, params={"after": first["nextAfter"]})).json()["merges"] == []

        for each in (merge["survivorId"], merge["absorbedId"], f"urn:uuid:{merge['absorbedId']}"):
            entity = (await client.get(f"/api/entities/{each}")).json()
            assert (entity["entityId"], entity["merges"]) == (merge["survivorId"], [merge])
            assert {spelling["text"] for spelling in entity["spellings"]} == {merge["left"], merge["right"]}

        undone = await client.post(f"/api/merges/{merge['mergeId']}/undo")
        assert (undone.status_code, undone.json()["undoneWhy"]) == (200, "asked"), undone.text
        assert (await client.post(f"/api/merges/{merge['mergeId']}/undo", json={})).json() == undone.json()
        parted = (await client.get(f"/api/entities/{merge['absorbedId']}")).json()
        assert (parted["entityId"], parted["documents"]) == (merge["absorbedId"], 1)
        assert (await client.get(path)).json()["merges"] == parted["merges"] == [undone.json()]


async def test_merges_that_are_not_there(settings: OrchestratorSettings, tmp_path: Path) -> None:
    async with _serving(settings, tmp_path) as client:
        for each in (NO_BATCH, "nonsense", "urn:uuid:x", "%00"):
            for call, path, code in (
                (client.get, f"/api/batches/{each}/merges", "batch_not_found"),
                (client.get, f"/api/entities/{each}", "entity_not_found"),
                (client.post, f"/api/merges/{each}/undo", "merge_not_found"),
            ):
                answer = await call(path)
                assert (answer.status_code, answer.json()["error"]["code"]) == (404, code), answer.text


async def test_organizations_are_kept_apart(settings: OrchestratorSettings, tmp_path: Path) -> None:
    settings = settings.model_copy(update={"api_tokens": SecretStr("one:a,two:b")})
    mine, theirs = ({"headers": {"Authorization": f"Bearer {token}"}} for token in ("one", "two"))
    async with _serving(settings, tmp_path) as client:
        body = {"documents": [{"text": text} for text in SPELLINGS]}
        assert (await client.post("/api/batches", json=body)).status_code == 401
        started = (await client.post("/api/batches", json=body, **mine)).json()  # type: ignore[arg-type]
        batch = await _over(client, started, **mine)
        assert (batch["state"], batch["organizationId"]) == ("complete", "a")
        [merge] = (await client.get(f"{started['statusUrl']}/merges", **mine)).json()["merges"]  # type: ignore[arg-type]
        undo, entity = f"/api/merges/{merge['mergeId']}/undo", f"/api/entities/{merge['survivorId']}"
        below = [f"{started['statusUrl']}{path}" for path in ("", "/events", "/documents", "/export", "/merges")]
        for path in (*below, entity):
            assert (await client.get(path)).status_code == 401
            assert (await client.get(path, **theirs)).status_code == 404  # type: ignore[arg-type]
        assert (await client.post(undo)).status_code == 401
        assert (await client.post(undo, **theirs)).status_code == 404  # type: ignore[arg-type]
        assert (await client.get(entity, **mine)).json()["merges"] == [merge]  # type: ignore[arg-type]
        assert (await client.post(undo, **mine)).json()["undoneWhy"] == "asked"  # type: ignore[arg-type]
        assert (await client.post(f"{started['statusUrl']}/retry", **theirs)).status_code == 404  # type: ignore[arg-type]
