"""`holdfast runs verify FILE --url`: every run of the file beside the server's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from pydantic import SecretStr

from checkpointer import CheckpointerSettings
from checkpointer.thread_file import Record, ThreadFileWriter, read_thread_file
from orchestrator import Orchestrator
from orchestrator.api.app import create_app
from orchestrator.cli.moves import verify_file
from orchestrator.moves.exporting import export_active
from orchestrator.moves.records import RUN
from orchestrator.runs.model import new_run_id
from tests.moves import Cast, Places, opened
from tests.postgres import free_port
from tests.waiting import until

LATEST = "ffffffff-0000-6000-8000-000000000000"


@pytest.fixture
def places(checkpointer_settings: CheckpointerSettings, tmp_path: Path) -> Places:
    return Places(checkpointer_settings, tmp_path / "runs.jsonl")


@asynccontextmanager
async def _served(orchestrator: Orchestrator) -> AsyncIterator[str]:
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(create_app(orchestrator), port=port, log_config=None, lifespan="off"))
    serving = asyncio.create_task(server._serve())
    await until(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await serving


async def _exported(places: Places, cast: Cast) -> None:
    async with opened(places.postgres, cast) as o:
        await cast.appear(o)
    async with places.saver() as saver:
        await export_active(saver, places.file, leaves=True)


def _rewritten(path: Path, change: Callable[[Record], None]) -> Path:
    """A copy of the file whose runs are changed."""
    other = path.with_name("other.jsonl")
    with ThreadFileWriter(other) as file:
        for record in read_thread_file(path):
            if record["kind"] == RUN:
                change(record["run"])
            file.write(record)
    return other


@pytest.fixture
def capture(capsys: pytest.CaptureFixture[str]) -> Callable[[], Any]:
    return lambda: json.loads(capsys.readouterr().out)


async def test_each_run_is_compared_and_those_that_differ_are_named(
    places: Places, capture: Callable[[], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    cast = Cast()
    await _exported(places, cast)
    ids = {name: run.run_id for name, run in cast.runs.items()}
    cast.gates.open("two", "three")
    async with opened(places.memory, cast) as o, _served(o) as url:
        for name in ("running", "pending"):
            assert (await o.wait(ids[name], timeout=60)).status == "completed"
        assert await verify_file(places.file, url, as_json=True) == 0
        # Of acme's run there is only the number: without tokens, everyone is `default`.
        assert capture()["compared"] == {"same": 3, "wentOn": 2, "notVisible": 1, "differing": []}
        assert await verify_file(places.file, url, as_json=False) == 0
        assert (
            "3 as in the file, 2 further than that, 0 differ\n1 were counted only: they are" in capsys.readouterr().out
        )

        absent = new_run_id()

        def changed(run: Record) -> None:
            if run["runId"] == ids["waiting"]:
                run["runId"] = absent
            if run["runId"] == ids["paused"]:
                run["lastCheckpointId"] = LATEST
            if run["runId"] == ids["running"]:
                run["status"] = "cancelled"

        other = _rewritten(places.file, changed)
        assert await verify_file(other, url, as_json=True) == 1
        shown = capture()
        # The number alone would have been enough.
        assert sum(shown["server"].values()) == sum(shown["runs"].values()) == 6
        assert {name: shown["compared"][name] for name in ("same", "wentOn")} == {"same": 1, "wentOn": 1}
        differing = {each["runId"]: each for each in shown["compared"]["differing"]}
        assert differing.keys() == {absent, ids["paused"], ids["running"]}
        assert (differing[absent]["reason"], differing[absent]["server"]) == ("is not there", None)
        assert differing[ids["paused"]]["file"] == {"status": "paused", "lastCheckpointId": LATEST}
        assert differing[ids["paused"]]["reason"].startswith("is behind: its last checkpoint there is ")
        assert differing[ids["running"]]["reason"] == "is completed there, and cancelled in the file"
        assert await verify_file(other, url, as_json=False) == 1
        out = capsys.readouterr().out
        assert f"DIFFERS: run {absent} is not there\n" in out
        assert out.count("DIFFERS: ") == 3


async def test_with_a_token_it_is_that_organizations_runs(places: Places, capture: Callable[[], Any]) -> None:
    cast = Cast()
    await _exported(places, cast)
    guarded = places.memory.model_copy(update={"api_tokens": SecretStr("s3cret-token:acme,other-token:nobody")})
    async with opened(guarded, cast) as o, _served(o) as url:
        assert await verify_file(places.file, url, as_json=True) == 0
        assert capture()["compared"] == {"same": 0, "wentOn": 0, "notVisible": 6, "differing": []}
        assert await verify_file(places.file, url, token="s3cret-token", as_json=True) == 0
        assert capture()["compared"] == {"same": 1, "wentOn": 0, "notVisible": 5, "differing": []}
        # Whose a token is that shows nothing, is not known.
        nobodys = "other-token"
        assert await verify_file(places.file, url, token=nobodys, as_json=True) == 0
        assert capture()["compared"] == {"same": 0, "wentOn": 0, "notVisible": 6, "differing": []}
