"""Streams of events over HTTP, as EventSource and curl take them."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import uvicorn

from orchestrator import Orchestrator, OrchestratorSettings, Run
from orchestrator.api.app import create_app
from orchestrator.cli.following import server_events
from orchestrator.errors import RemoteError
from orchestrator.runs.model import new_run_id
from tests.graphs import Gates, asking, chain
from tests.postgres import free_port
from tests.proxy import Proxy
from tests.sse import Message, messages, parsed
from tests.waiting import until
from tests.worlds import World

TOKENS = "right-token-right-token:acme,other-token-other-token:others"


@dataclass(frozen=True)
class Site:
    """An orchestrator, and the server over it."""

    orchestrator: Orchestrator
    client: httpx.AsyncClient
    gates: Gates

    async def stream(self, path: str, **headers: str) -> list[Message]:
        """The whole of a stream that ends."""
        answer = await self.client.get(path, headers=headers)
        assert answer.status_code == 200, answer.text
        return parsed(answer.text)

    async def finished(self, thread_id: str | None = None) -> Run:
        return await self.orchestrator.start_and_wait("chain", {}, thread_id=thread_id, timeout=60)


@asynccontextmanager
async def _served(world: World, *, ping_every_s: float = 15.0) -> AsyncIterator[Site]:
    gates = Gates()
    async with world.open(chain=chain(), gated=chain(gates=gates), asking=asking()) as orchestrator:
        app = create_app(orchestrator, ping_every_s=ping_every_s)
        port = free_port()
        server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, lifespan="off"))
        # Without its signal handlers: they are the test run's.
        serving = asyncio.create_task(server._serve())
        await until(lambda: server.started)
        url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:
            yield Site(orchestrator, client, gates)
        orchestrator.request_close()
        server.should_exit = True
        await serving


@pytest.fixture
async def site(world: World) -> AsyncIterator[Site]:
    async with _served(world) as site:
        yield site


def _events(found: list[Message]) -> list[Message]:
    return [each for each in found if each.comment is None]


async def test_a_finished_run_from_its_beginning(site: Site) -> None:
    run = await site.finished()
    answer = await site.client.get(f"/api/runs/{run.run_id}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert (answer.headers["cache-control"], answer.headers["x-accel-buffering"]) == ("no-store", "no")
    found = parsed(answer.text)
    known = [event async for event in site.orchestrator.stream(run.run_id)]
    assert [(each.id, each.event) for each in found] == [(str(event.number), event.kind) for event in known]
    assert [each.retry for each in found] == ["1000"] + [None] * (len(found) - 1)
    first = found[0].data
    assert {name: first[name] for name in ("runId", "number", "kind", "status", "attempt")} == {
        "runId": run.run_id,
        "number": 1,
        "kind": "state",
        **known[0].data,
    }
    assert first["at"].endswith("Z")
    assert found[-1].data["status"] == "completed"


async def test_it_goes_on_where_it_was(site: Site) -> None:
    run = await site.finished()
    path = f"/api/runs/{run.run_id}/events"
    whole = await site.stream(path)
    for query, headers in (("", {"Last-Event-ID": "3"}), ("?after=3", {}), ("?after=1", {"Last-Event-ID": "3"})):
        assert [each.id for each in await site.stream(path + query, **headers)] == [each.id for each in whole[3:]]
    assert len(await site.stream(path, **{"Last-Event-ID": ""})) == len(whole)
    for query in (f"?after={len(whole)}", "?after=99", f"?after={2**62}"):
        answer = await site.client.get(path + query)
        assert (answer.status_code, answer.content) == (204, b"")


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "٣", "1 2", "9" * 30, "9" * 5000, str(2**62 + 1)])
async def test_a_malformed_last_event_id(site: Site, last: str) -> None:
    run = await site.finished()
    answer = await site.client.get(f"/api/runs/{run.run_id}/events", headers=[(b"Last-Event-ID", last.encode())])
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_request")


@pytest.mark.parametrize("after", ["x", "-1", "1.5", str(2**63)])
async def test_a_malformed_after(site: Site, after: str) -> None:
    run = await site.finished()
    answer = await site.client.get(f"/api/runs/{run.run_id}/events", params={"after": after})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_request")


async def test_events_come_as_they_happen(site: Site) -> None:
    run = await site.orchestrator.start("gated", {})
    seen: list[Message] = []
    async with site.client.stream("GET", f"/api/runs/{run.run_id}/events") as answer:
        async for message in messages(answer.aiter_lines()):
            seen.append(message)
            if message.event == "activity" and message.data["status"] == "running":
                site.gates.open(message.data["activity"])
    assert [each.id for each in seen] == [str(number) for number in range(1, len(seen) + 1)]
    assert seen[-1].data["status"] == "completed"


async def test_a_quiet_stream_is_kept_open(world: World) -> None:
    async with _served(world, ping_every_s=0.05) as site:
        run = await site.orchestrator.start("asking", {})
        comments = 0
        async with site.client.stream("GET", f"/api/runs/{run.run_id}/events") as answer:
            async for message in messages(answer.aiter_lines()):
                comments += message.comment is not None
                if comments == 3:
                    break
        await until(lambda: not site.orchestrator._hub._channels, what="the watcher's leaving is noticed")


async def test_a_threads_stream_is_its_newest_runs(site: Site) -> None:
    thread_id = "a thread/of mine"
    await site.finished(thread_id)
    run = await site.finished(thread_id)
    started = await site.client.post("/api/invoke/async", json={"workflow": "chain", "input": {}})
    for path, run_id in (
        ("/api/invoke-status/stream/a%20thread%2Fof%20mine", run.run_id),
        (started.json()["streamUrl"], started.json()["runId"]),
    ):
        found = await site.stream(path)
        assert {each.data["runId"] for each in found} == {run_id}
        last = {"Last-Event-ID": str(found[-1].id)}
        assert (await site.client.get(path, headers=last)).status_code == 204


async def test_what_is_not_there(site: Site) -> None:
    for path in (f"runs/{new_run_id()}/events", "runs/nonsense/events", "invoke-status/stream/none"):
        answer = await site.client.get(f"/api/{path}")
        assert (answer.status_code, answer.json()["error"]["code"].endswith("_not_found")) == (404, True)
    assert (await site.client.get(f"/api/invoke-status/stream/{'x' * 300}%00")).status_code == 404


async def test_it_is_its_organizations(world: World) -> None:
    world.settings = OrchestratorSettings(**world.settings.model_dump(exclude_unset=True) | {"api_tokens": TOKENS})
    async with _served(world) as site:
        run = await site.orchestrator.start_and_wait("chain", {}, thread_id="t", organization_id="acme", timeout=60)
        for path in (f"/api/runs/{run.run_id}/events", "/api/invoke-status/stream/t"):
            assert (await site.client.get(path)).status_code == 401
            for pair, code in zip(TOKENS.split(","), (200, 404), strict=True):
                bearer = {"Authorization": f"Bearer {pair.partition(':')[0]}"}
                assert (await site.client.get(path, headers=bearer)).status_code == code


async def test_closing_ends_the_stream(site: Site) -> None:
    run = await site.orchestrator.start("gated", {})
    async with site.client.stream("GET", f"/api/runs/{run.run_id}/events") as answer:
        lines = messages(answer.aiter_lines())
        assert (await anext(lines)).id == "1"
        site.orchestrator.request_close()
        rest = [each async for each in lines]
    assert "completed" not in [each.data.get("status") for each in _events(rest)]
    site.gates.open("one", "two", "three")


async def test_the_command_goes_on_after_it_was_cut_off(site: Site) -> None:
    run = await site.orchestrator.start("gated", {})
    async with Proxy.to("127.0.0.1", site.client.base_url.port or 0) as proxy:
        seen: list[dict[str, Any]] = []
        async for event in server_events(f"http://127.0.0.1:{proxy.port}", f"/api/runs/{run.run_id}/events", None):
            seen.append(event)
            if event["kind"] == "activity" and event["status"] == "running":
                proxy.cut()
                site.gates.open(event["activity"])
            if event["kind"] == "state" and event["status"] == "completed":
                break
    assert [event["number"] for event in seen] == list(range(1, len(seen) + 1))
    assert proxy.accepted >= 4
    with pytest.raises(RemoteError, match="there is no run"):
        await anext(server_events(str(site.client.base_url), f"/api/runs/{new_run_id()}/events", None))


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
async def test_curl_follows(site: Site) -> None:
    run = await site.orchestrator.start("gated", {})
    url: Any = site.client.base_url.join(f"/api/runs/{run.run_id}/events")
    curl = await asyncio.create_subprocess_exec(
        "curl", "-sN", "--noproxy", "*", str(url), stdout=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.DEVNULL
    )
    assert curl.stdout is not None
    async with asyncio.timeout(60):
        first = await curl.stdout.readuntil(b"\r\n\r\n")
        site.gates.open("one", "two", "three")
        found = parsed((first + await curl.stdout.read()).decode())
        assert await curl.wait() == 0
    assert [each.id for each in found] == [str(number) for number in range(1, len(found) + 1)]
    assert found[-1].data["status"] == "completed"
