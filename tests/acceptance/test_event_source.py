"""Streams as people take them: `curl -N`, and a browser's EventSource, across a server that is killed."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.origin import origin
from tests.servers import Server, serving
from tests.sse import parsed
from tests.waiting import until

TOKEN = "page-token"
GRAPHS = """
import asyncio
from pathlib import Path
from typing import TypedDict
from langgraph.graph import START, StateGraph

class State(TypedDict, total=False):
    gates: str

def step(name):
    async def run(state: State) -> State:
        while not (Path(state["gates"]) / name).exists():
            await asyncio.sleep(0.01)
        return {}
    return run

gated = StateGraph(State).add_node("one", step("one")).add_node("two", step("two"))
gated = gated.add_edge(START, "one").add_edge("one", "two")
"""
# The page of docs/runs.md, which also tells what it sees.
PAGE = """<!doctype html><title>a run</title><script>
const tell = (what) => fetch("/told", {method: "POST", body: JSON.stringify(what)});
const source = new EventSource("STREAM");
let last = Promise.resolve();
for (const kind of ["state", "activity", "checkpoint", "custom", "message", "signal", "document"]) {
  source.addEventListener(kind, (event) => {
    const data = JSON.parse(event.data);
    // One after the other, so that they are told in the order in which they came.
    last = last.then(() => tell({id: Number(event.lastEventId), kind, data}));
    if (kind === "state" && ["completed", "failed", "cancelled"].includes(data.status)) source.close();
  });
}
</script>"""


@pytest.fixture
async def server(tmp_path: Path, postgres_dsn: str) -> AsyncIterator[Server]:
    (tmp_path / "mine.py").write_text(GRAPHS)
    (tmp_path / "langgraph.json").write_text(json.dumps({"graphs": {"gated": "./mine.py:gated"}}))
    environment = {
        "USE_POSTGRES_SAVER": "true",
        "POSTGRES_CONNECTION_STRING": postgres_dsn,
        "API_TOKENS": f"{TOKEN}:default",
    }
    async with serving(tmp_path, environment, "--graphs", "langgraph.json") as server:
        server.client.headers["Authorization"] = f"Bearer {TOKEN}"
        await server.start()
        yield server


@contextmanager
def _started(*command: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, which is ended with it: a browser is many."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, **options)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


async def test_curl_shows_a_stream_as_it_comes(server: Server, tmp_path: Path) -> None:
    if not (curl := shutil.which("curl")):
        pytest.skip("curl is not installed")
    started = await server.invoke({"workflow": "gated", "input": {"gates": str(tmp_path)}})
    shown = tmp_path / "shown"
    command = (curl, "-sN", "-H", f"Authorization: Bearer {TOKEN}", f"{server.client.base_url}{started['streamUrl']}")
    with shown.open("wb") as output, _started(*command, stdout=output) as process:
        await until(
            lambda: b'"one"' in shown.read_bytes(),
            timeout_s=60,
            what="curl has shown the first activity, which goes on",
        )
        assert process.poll() is None
        for gate in ("one", "two"):
            (tmp_path / gate).touch()
        assert await asyncio.to_thread(process.wait, 60) == 0
    messages = [each for each in parsed(shown.read_text()) if each.comment is None]
    assert [each.id for each in messages] == [str(number) for number in range(1, len(messages) + 1)]
    assert (messages[-1].event, messages[-1].data["status"]) == ("state", "completed")


async def test_a_browser_sees_every_event_once_across_a_kill(server: Server, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not browser:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    started = await server.invoke({"workflow": "gated", "input": {"gates": str(tmp_path)}})
    async with origin(server.port, TOKEN) as site:
        site.page = PAGE.replace("STREAM", started["streamUrl"])
        command = (
            browser,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--no-proxy-server",
            f"--user-data-dir={tmp_path / 'browser'}",
            f"http://127.0.0.1:{site.port}/",
        )
        with (tmp_path / "browser.log").open("wb") as log, _started(*command, stdout=log, stderr=log):

            def seen(kind: str, **wanted: str) -> bool:
                told = [each["data"] for each in site.told if each["kind"] == kind]
                return any(all(data.get(name) == value for name, value in wanted.items()) for data in told)

            await until(lambda: seen("activity", activity="one"), timeout_s=60, what="the page has seen an activity")
            await server.kill()
            (tmp_path / "one").touch()
            await server.start()
            await until(
                lambda: seen("activity", activity="two"), timeout_s=60, what="the page has seen what came after"
            )
            (tmp_path / "two").touch()
            await until(lambda: seen("state", status="completed"), timeout_s=60, what="the page has seen the end")
    numbers = [each["id"] for each in site.told]
    assert numbers == list(range(1, len(numbers) + 1))
    assert [each["data"]["number"] for each in site.told] == numbers
    # The browser said by itself where it was.
    assert site.last_ids[0] is None
    assert len(site.last_ids) >= 2
    assert all(last is not None and int(last) > 0 for last in site.last_ids[1:])
