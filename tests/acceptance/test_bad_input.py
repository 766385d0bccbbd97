"""Every bad input of `tests/bad_input.py` gets what the list says, in one line, and leaves everything as it was."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

import orchestrator
from orchestrator import Orchestrator, OrchestratorSettings, RunStatus, open_orchestrator
from orchestrator.api.app import create_app
from orchestrator.cli.app import run
from orchestrator.errors import OrchestratorError
from tests.bad_input import (
    COMMANDS,
    FILES,
    OTHERS_TOKEN,
    PART,
    REQUESTS,
    SETTINGS,
    TOKEN,
    WORKER_TOKEN,
    Request,
    tables,
)
from tests.graphs import asking, chain

DOCS = Path(orchestrator.__file__).parents[1] / "docs" / "errors.md"
# Codes that are made outside of the tree of errors.
_OF_HTTP = {"not_found", "method_not_allowed", "http_error", "internal_error"}


@asynccontextmanager
async def _serving(settings: OrchestratorSettings) -> AsyncIterator[tuple[Orchestrator, httpx.AsyncClient]]:
    async with open_orchestrator({"chain": chain(), "asking": asking()}, settings=settings) as opened:
        transport = httpx.ASGITransport(create_app(opened), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=30) as client:
            yield opened, client


@pytest.fixture(params=["memory", "postgres"])
def settings(request: pytest.FixtureRequest) -> OrchestratorSettings:
    given: dict[str, Any] = {"drain_timeout": 1.0}
    if request.param == "postgres":
        given |= request.getfixturevalue("checkpointer_settings").model_dump(exclude_unset=True)
    return OrchestratorSettings(**given)


async def test_requests(settings: OrchestratorSettings) -> None:
    async with _serving(settings) as (opened, client):
        ids = await _prepare(opened)
        before = {run.run_id: run for run in [await opened.poll(run_id) for run_id in ids.values()]}
        wrong = [await _problem(client, each, ids) for part in ("bodies", "addresses") for each in REQUESTS[part]]
        assert [each for each in wrong if each] == []
        assert {run_id: await opened.poll(run_id) for run_id in before} == before
        assert (await opened.start_and_wait("chain", {"text": "x"})).status is RunStatus.COMPLETED


async def test_requests_where_tokens_are_asked_for() -> None:
    tokens = f"{TOKEN}:acme,{OTHERS_TOKEN}:others"
    async with _serving(OrchestratorSettings(api_tokens=tokens, worker_token=WORKER_TOKEN)) as (opened, client):
        ids = await _prepare(opened, "acme")
        wrong = [await _problem(client, each, ids) for each in REQUESTS["tokens"]]
        assert [each for each in wrong if each] == []
        right = await client.get(f"/api/runs/{ids['DONE']}", headers={"Authorization": f"Bearer {TOKEN}"})
        assert right.status_code == 200


async def _prepare(opened: Orchestrator, of: str = "default") -> dict[str, str]:
    """A run that is over, one that waits, and an idempotency key that is used."""
    done = await opened.start_and_wait("chain", {"text": "x"}, timeout=30, organization_id=of)
    busy = await opened.start_and_wait("asking", {"text": "x"}, thread_id="busy", timeout=30, organization_id=of)
    await opened.start("chain", {"text": "x"}, idempotency_key="once", organization_id=of)
    assert (done.status, busy.status) == (RunStatus.COMPLETED, RunStatus.WAITING)
    return {"DONE": done.run_id, "BUSY": busy.run_id}


async def _problem(client: httpx.AsyncClient, given: Request, ids: dict[str, str]) -> str | None:
    """What is wrong with the answer."""
    path = given.path
    for word, run_id in ids.items():
        path = path.replace(word, run_id)
    headers = [(name.encode(), value.encode()) for name, value in given.headers.items()]
    answer = await client.request(given.method, path, content=given.content, headers=headers)
    error = answer.json().get("error", {})
    if (answer.status_code, error.get("code")) != (given.status, given.code):
        return f"{given.name}: {answer.status_code} {answer.text[:200]}"
    if given.code is not None and (not error["message"] or "\n" in error["message"] or len(error["message"]) > 1000):
        return f"{given.name}: its message is {error['message'][:200]!r}"
    return None


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A directory with files that are not what they should be."""
    for name in ("garbage", "garbage.jsonl"):
        (tmp_path / name).write_bytes(b"\x00\x01\xff{not what it says}\n")
    (tmp_path / "empty").touch()
    (tmp_path / "no-graphs.json").write_text('{"dependencies": ["."]}')
    (tmp_path / "lost-graph.json").write_text('{"dependencies": ["."], "graphs": {"a": "./lost.py:graph"}}')
    return tmp_path


def test_commands_and_files(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = []
    before = {path: path.read_bytes() for path in files.iterdir()}
    for each in (*COMMANDS, *FILES):
        code, said = _run([part.replace("{dir}", str(files)) for part in each.arguments], capsys)
        shown = " ".join(re.sub(r"[│╭╮╰╯─]", " ", said).split())
        if (code, "Traceback" in said) != (each.code, False) or each.says.replace("{dir}", str(files)) not in shown:
            wrong.append(f"{each.name}: {code} {shown[:300]}")
        if {path: path.read_bytes() for path in before} != before:
            wrong.append(f"{each.name}: it changed a file")
    assert wrong == []


def test_settings(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = []
    for each in SETTINGS:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in each.variables.items():
                patch.setenv(name, value)
            code, said = _run(["serve"], capsys)
        if code != 2 or each.says not in said or said.count("\n") != 1:
            wrong.append(f"{each.name}: {code} {said[:300]}")
    assert wrong == []


def _run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    with pytest.raises(SystemExit) as stopped:
        run(arguments)
    said = capsys.readouterr()
    return stopped.value.code, said.out + said.err


def test_the_page_of_errors_has_the_list_and_every_code() -> None:
    text = DOCS.read_text(encoding="utf-8")
    parts = {name: (table, tables(name)) for _, name, table, _ in PART.findall(text)}
    assert set(parts) == {*REQUESTS, "settings", "commands", "files"}
    for name, (shown, made) in parts.items():
        assert shown == made, f"docs/errors.md, {name}: run python -m tests.bad_input"
    for code in _codes():
        assert f"| `{code}` |" in text


def _codes() -> set[str]:
    """Every code that an answer may have."""
    left, codes = [OrchestratorError], set(_OF_HTTP)
    while left:
        kind = left.pop()
        codes.add(kind.code)
        left += kind.__subclasses__()
    return codes - {"graph_error"}  # raised before anything is served
