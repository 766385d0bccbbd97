"""`holdfast worker` and `serve --no-worker` on the command line: what they refuse, and how they say so."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from tests.forking import run_holdfast
from tests.postgres import free_port
from tests.servers import ROOT, Worker, serving
from tests.waiting import until

TOKEN = "a-worker-token-0123456789"
# Refused before it is ever connected to.
DURABLE = {"USE_POSTGRES_SAVER": "true", "POSTGRES_CONNECTION_STRING": "postgresql://u:hunter2@127.0.0.1:9/d"}


def _holdfast(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    given = os.environ | {"PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "200"} | environment
    return run_holdfast(arguments, cwd=tmp_path, env=given)


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["worker"], {}, "set USE_POSTGRES_SAVER"),
        (["serve", "--no-worker"], {}, "set USE_POSTGRES_SAVER"),
        (["worker"], {"USE_POSTGRES_SAVER": "maybe"}, "USE_POSTGRES_SAVER='maybe'"),
        (["worker"], DURABLE | {"WORKER_CONCURRENCY": "0"}, "WORKER_CONCURRENCY='0'"),
        (["worker"], DURABLE | {"WORKER_TOKEN": "short-secret"}, "WORKER_TOKEN"),
        (["worker", "--app-url", "http://127.0.0.1:1"], DURABLE, "APP_URL needs WORKER_TOKEN"),
        (["worker"], DURABLE | {"APP_URL": "http://127.0.0.1:1"}, "APP_URL needs WORKER_TOKEN"),
        (["worker", "--app-url", "http://[bad"], DURABLE | {"WORKER_TOKEN": TOKEN}, "APP_URL takes an address"),
        (
            ["worker", "--app-url", "http://someone:hunter2@127.0.0.1:1"],
            DURABLE | {"WORKER_TOKEN": TOKEN},
            "APP_URL takes an address",
        ),
        (
            ["worker", "--app-url", "http://127.0.0.1:1"],
            DURABLE | {"WORKER_TOKEN": f"short-secret-{TOKEN}\n"},
            "WORKER_TOKEN=***",
        ),
    ],
)
def test_wrong_settings_are_one_line(
    tmp_path: Path, arguments: list[str], environment: dict[str, str], said: str
) -> None:
    ended = _holdfast(tmp_path, *arguments, PORT=str(free_port()), **environment)
    assert (ended.returncode, ended.stdout) == (2, ""), ended.stderr
    assert said in ended.stderr
    assert ended.stderr.startswith("holdfast: ")
    assert ended.stderr.count("\n") == 1
    for secret in ("short-secret", TOKEN, "hunter2"):
        assert secret not in ended.stderr


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        (None, 1, "langgraph.json"),
        ("{", 1, "langgraph.json"),
        ('{"graphs": {"mine": "./none.py:graph"}}', 1, "langgraph.json, graphs.mine: there is no file"),
    ],
)
def test_graphs_that_can_not_be_loaded_are_one_line(tmp_path: Path, content: str | None, code: int, said: str) -> None:
    if content is not None:
        (tmp_path / "langgraph.json").write_text(content)
    ended = _holdfast(tmp_path, "worker", "--graphs", "langgraph.json", **DURABLE)
    assert (ended.returncode, ended.stderr.count("\n"), said in ended.stderr) == (code, 1, True), ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_wrong_option_is_a_usage_error(tmp_path: Path) -> None:
    ended = _holdfast(tmp_path, "worker", "--concurrency", "0", **DURABLE)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "--concurrency" in ended.stderr


def test_a_server_that_can_not_be_reached_is_said(tmp_path: Path) -> None:
    ended = _holdfast(
        tmp_path, "worker", **DURABLE | {"POSTGRES_CONNECT_ATTEMPTS": "1", "POSTGRES_CONNECT_BACKOFF": "0.01"}
    )
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert "hunter2" not in ended.stderr


def test_help_says_what_the_options_do(tmp_path: Path) -> None:
    shown = _holdfast(tmp_path, "worker", "--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    for word in ("--graphs", "--concurrency", "--queues", "--app-url", "WORKER_CONCURRENCY", "WORKER_TOKEN", "SIGTERM"):
        assert word in shown.stdout
    serve = _holdfast(tmp_path, "serve", "--help").stdout
    assert "--no-worker" in serve
    assert "holdfast worker" in serve


async def test_a_server_without_a_worker_is_ready_and_leaves_runs(postgres_dsn: str, tmp_path: Path) -> None:
    environment = {"USE_POSTGRES_SAVER": "true", "POSTGRES_CONNECTION_STRING": postgres_dsn}
    async with serving(tmp_path, environment, "--no-worker") as server:
        await server.start()
        assert (await server.get("/api/health/ready"))["status"] == "ready"
        started = await server.invoke({"workflow": {"role": "dev", "task": "x"}})
        waited = await server.client.post(
            "/api/invoke", json={"workflow": {"role": "dev", "task": "x"}, "timeoutSeconds": 0.2}
        )
        assert (waited.status_code, waited.json()["status"]) == (202, "pending")
        run = await server.get(started["statusUrl"])
        assert (run["status"], run["attempt"]) == ("pending", 0)
        assert await server.stop() == 0


async def test_a_worker_can_be_stopped_while_it_waits_for_the_database(tmp_path: Path) -> None:
    worker = Worker(tmp_path, DURABLE | {"POSTGRES_CONNECT_BACKOFF": "60"})
    starting = asyncio.create_task(worker.start())
    try:
        await until(lambda: worker.log_file.exists() and "of 5 on" in worker.log, what="it tries to connect")
        starting.cancel()
        assert await worker.stop() == 0
    finally:
        starting.cancel()
        await worker.close()
    assert "stopped before it was working" in worker.log
    assert "Traceback" not in worker.log
