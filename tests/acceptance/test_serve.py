"""`holdfast serve` as its users meet it: a real process, a real PostgreSQL, HTTP."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.forking import run_holdfast
from tests.postgres import Cluster
from tests.servers import ROOT, serving
from tests.waiting import until

SLOW_GRAPH = """
import operator, os, time
from pathlib import Path
from typing import Annotated, TypedDict
from langgraph.graph import START, StateGraph

class State(TypedDict, total=False):
    gate: str
    trace: Annotated[list[str], operator.add]

def step(name):
    def run(state: State) -> State:
        while name != "one" and not Path(state["gate"]).exists():
            time.sleep(0.01)
        return {"trace": [f"{name} {os.getpid()}"]}
    return run

builder = StateGraph(State)
for name in ("one", "two", "three"):
    builder.add_node(name, step(name))
graph = builder.add_edge(START, "one").add_edge("one", "two").add_edge("two", "three").compile()
"""
LEAVING_GRAPH = """
import sys
from typing import TypedDict
from langgraph.graph import START, StateGraph

class State(TypedDict, total=False):
    text: str

def leave(state: State) -> State:
    sys.exit(3)

async def leave_async(state: State) -> State:
    sys.exit("nothing to do")

def interrupt(state: State) -> State:
    raise KeyboardInterrupt

def only(node):
    return StateGraph(State).add_node("node", node).add_edge(START, "node")

leaving, leaving_async, interrupting = only(leave), only(leave_async), only(interrupt)
nested = only(only(leave).compile())
"""
AGENT = {"workflow": {"role": "dev", "task": "test persistence"}}


@pytest.fixture
def graphs(tmp_path: Path) -> str:
    (tmp_path / "slow.py").write_text(SLOW_GRAPH)
    (tmp_path / "langgraph.json").write_text(json.dumps({"dependencies": ["."], "graphs": {"slow": "./slow.py:graph"}}))
    return "langgraph.json"


def _durable(dsn: str) -> dict[str, str]:
    return {"USE_POSTGRES_SAVER": "true", "POSTGRES_CONNECTION_STRING": dsn}


def _holdfast(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    given = os.environ | {"PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "200"} | environment
    return run_holdfast(arguments, cwd=tmp_path, env=given)


async def test_a_run_survives_a_kill(postgres_dsn: str, tmp_path: Path, graphs: str) -> None:
    gate = tmp_path / "gate"
    async with serving(tmp_path, _durable(postgres_dsn), "--graphs", graphs) as server:
        await server.start()
        first_pid = server.pid
        started = await server.invoke({"workflow": "slow", "input": {"gate": str(gate)}, "threadId": "t"})

        async def in_two() -> bool:
            run = await server.get(started["statusUrl"])
            return bool(run["currentActivity"] == "two")

        await until(in_two)
        await server.kill()
        await server.start()
        assert (await server.get(started["statusUrl"]))["runId"] == started["runId"]
        gate.touch()
        run = await server.finished(started)
        assert (run["status"], run["attempt"]) == ("completed", 2)
        assert run["output"]["trace"] == [f"one {first_pid}", f"two {server.pid}", f"three {server.pid}"]
        assert "of a lost server was taken over" in server.log
        assert await server.stop() == 0


async def test_the_agent_of_the_readme_survives_a_kill(postgres_dsn: str, tmp_path: Path) -> None:
    async with serving(tmp_path, _durable(postgres_dsn)) as server:
        await server.start()
        started = await server.invoke(AGENT)
        await server.kill()
        await server.start()
        run = await server.finished(started)
        assert (run["status"], run["workflow"]) == ("completed", "agent")


async def test_the_engine_line_and_the_three_health_answers(cluster: Cluster, tmp_path: Path) -> None:
    async with serving(tmp_path, {}) as server:

        async def health(status: int) -> Any:
            answer = await server.client.get("/api/health/checkpointer")
            return answer.json() if answer.status_code == status else None

        await server.start()
        assert "[Checkpointer] MemorySaver enabled: runs do not survive a restart" in server.log
        assert await server.get("/api/health/checkpointer") == {
            "status": "healthy",
            "checkpointer": "MemorySaver",
            "durable": False,
            "postgres": {"connected": False, "configured": False},
        }
        await server.stop()

        await server.start(**_durable(cluster.dsn()))
        assert "[Checkpointer] PostgresSaver enabled (schema workflow_checkpoints, server 18" in server.log
        # A busy machine may take longer than the two seconds within which health answers.
        up = await until(lambda: health(200), timeout_s=60, what="it is healthy")
        assert (up["status"], up["checkpointer"], up["postgres"]["connected"]) == ("healthy", "PostgresSaver", True)

        cluster.stop()
        before = time.monotonic()
        down = await health(503)
        # Two seconds are promised, and the client's own; without a limit it would be POSTGRES_RETRY_FOR.
        assert time.monotonic() - before < 15
        assert (down["status"], down["postgres"]["connected"]) == ("unhealthy", False)
        assert down["error"]

        cluster.start()
        await until(lambda: health(200), timeout_s=60, what="it is healthy again")
        assert (await server.finished(await server.invoke(AGENT)))["status"] == "completed"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_hands_runs_over_and_ends_with_0(
    postgres_dsn: str, tmp_path: Path, graphs: str, number: signal.Signals
) -> None:
    gate = tmp_path / "gate"
    quick = _durable(postgres_dsn) | {"DRAIN_TIMEOUT": "0.5"}
    async with serving(tmp_path, quick, "--graphs", graphs) as server:
        await server.start()
        started = await server.invoke({"workflow": "slow", "input": {"gate": str(gate)}})
        await until(lambda: "activity two started" in server.log)
        # Which waits for no node: `two` is still at the gate.
        assert await server.stop(number) == 0
        gate.touch()
        await server.start()
        run = await server.finished(started)
        assert (run["status"], run["attempt"], run["losses"], run["failures"]) == ("completed", 2, 0, 0)
        assert "Traceback" not in server.log


async def test_a_node_that_exits_ends_its_run_and_not_the_server(postgres_dsn: str, tmp_path: Path) -> None:
    names = ["leaving", "leaving_async", "interrupting", "nested"]
    (tmp_path / "leaving.py").write_text(LEAVING_GRAPH)
    (tmp_path / "langgraph.json").write_text(json.dumps({"graphs": {name: f"./leaving.py:{name}" for name in names}}))
    async with serving(tmp_path, _durable(postgres_dsn), "--graphs", "langgraph.json") as server:
        await server.start()
        for name in names:
            run = await server.finished(await server.invoke({"workflow": name, "input": {"text": ""}}))
            assert (run["status"], run["attempt"]) == ("failed", 1)
            assert run["error"]["type"] == "orchestrator.errors.ExitError"
        assert (await server.finished(await server.invoke(AGENT)))["status"] == "completed"
        assert await server.stop() == 0


async def test_a_large_body_gets_its_answer(tmp_path: Path) -> None:
    async with serving(tmp_path, {}) as server:
        await server.start()
        body = {"workflow": "agent", "input": {"task": "x" * (2 << 20), "role": "dev"}}
        answer = await server.client.post("/api/invoke/async", json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
        assert (await server.client.post("/api/invoke/async", content=b"{")).status_code == 400


async def test_json_lines(tmp_path: Path) -> None:
    async with serving(tmp_path, {"LOG_FORMAT": "json"}) as server:
        await server.start()
        await server.client.post("/api/invoke", json=AGENT)
        await server.stop()
        lines = [json.loads(line) for line in server.log.splitlines()]
    assert {line["tag"] for line in lines} == {"Checkpointer", "WorkflowOrchestrator"}


async def test_a_token_is_asked_for_and_never_logged(tmp_path: Path) -> None:
    settings = {"API_TOKENS": "s3cret-token:acme", "LOG_LEVEL": "DEBUG", "HOST": "0.0.0.0"}  # noqa: S104
    async with serving(tmp_path, settings) as server:
        await server.start()
        assert (await server.client.post("/api/invoke", json=AGENT)).status_code == 401
        headers = {"Authorization": "Bearer s3cret-token"}
        assert (await server.client.post("/api/invoke", json=AGENT, headers=headers)).status_code == 200
        url = f"http://127.0.0.1:{server.port}"
        shown = _holdfast(tmp_path, "runs", "ls", "--json", "--url", url, "--token", "s3cret-token")
        assert json.loads(shown.stdout)["runs"][0]["organizationId"] == "acme"
        refused = _holdfast(tmp_path, "runs", "ls", "--url", url)
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
        assert "Bearer" in refused.stderr
        assert "s3cret" not in server.log


async def test_the_address_in_use_is_said(tmp_path: Path) -> None:
    async with serving(tmp_path, {}) as server:
        await server.start()
        second = _holdfast(tmp_path, "serve", "--port", str(server.port))
    assert second.returncode == 1
    assert f"PORT={server.port} can't be served" in second.stderr
    assert "Traceback" not in second.stderr


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"USE_POSTGRES_SAVER": "maybe"}, "USE_POSTGRES_SAVER='maybe'"),
        ({"USE_POSTGRES_SAVER": "1", "POSTGRES_CONNECTION_STRING": "nonsense"}, "POSTGRES_CONNECTION_STRING"),
        ({"POSTGRES_SCHEMA": 'a";drop'}, "POSTGRES_SCHEMA"),
        ({"HOST": "0.0.0.0"}, "API_TOKENS"),  # noqa: S104 - refused
        ({"PORT": "http"}, "PORT='http'"),
    ],
)
def test_wrong_settings_are_one_line_and_exit_code_2(tmp_path: Path, environment: dict[str, str], said: str) -> None:
    ended = _holdfast(tmp_path, "serve", **environment)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert ended.stdout == ""


@pytest.mark.parametrize("command", [["health"], ["setup"], ["runs", "ls"]])
def test_every_command_refuses_wrong_settings(tmp_path: Path, command: list[str]) -> None:
    ended = _holdfast(tmp_path, *command, USE_POSTGRES_SAVER="maybe")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("holdfast: USE_POSTGRES_SAVER='maybe'")


def test_a_graph_file_that_is_wrong_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "langgraph.json").write_text('{"graphs": {"mine": "./none.py:graph"}}')
    ended = _holdfast(tmp_path, "serve", "--graphs", "langgraph.json")
    assert ended.returncode == 1
    assert "langgraph.json, graphs.mine: there is no file" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_setup_health_and_runs_from_the_command_line(empty_dsn: str, tmp_path: Path) -> None:
    durable = _durable(empty_dsn)
    lacking = _holdfast(tmp_path, "setup", "--check", **durable)
    assert lacking.returncode == 1
    assert "holdfast setup" in lacking.stderr
    assert _holdfast(tmp_path, "health", **durable).returncode == 1
    script = _holdfast(tmp_path, "setup", "--sql", **durable)
    assert 'CREATE TABLE IF NOT EXISTS "workflow_checkpoints".workflow_metadata' in script.stdout
    assert _holdfast(tmp_path, "setup", "--check", **durable).returncode == 1

    done = _holdfast(tmp_path, "setup", **durable)
    assert done.returncode == 0
    assert re.search(r"orchestrator +0001 +runs", done.stdout)
    assert _holdfast(tmp_path, "setup", "--check", **durable).returncode == 0
    health = _holdfast(tmp_path, "health", "--json", **durable)
    assert (health.returncode, json.loads(health.stdout)["status"]) == (0, "healthy")
    listed = _holdfast(tmp_path, "runs", "ls", "--json", **durable)
    assert json.loads(listed.stdout) == {"runs": [], "nextCursor": None}
    missing = _holdfast(tmp_path, "runs", "show", "nonsense", **durable)
    assert (missing.returncode, missing.stderr) == (1, "holdfast: there is no run 'nonsense'\n")
    assert _holdfast(tmp_path, "runs", "ls", "--status", "maybe", **durable).returncode == 2


@pytest.mark.parametrize("arguments", [["setup"], ["setup", "--check"]])
def test_setup_says_what_to_do_where_it_can_not_connect(cluster: Cluster, tmp_path: Path, arguments: list[str]) -> None:
    missing = _durable(cluster.dsn("not_there", password="hunter2")) | {
        "POSTGRES_CONNECT_ATTEMPTS": "2",
        "POSTGRES_CONNECT_BACKOFF": "0.01",
    }
    failed = _holdfast(tmp_path, *arguments, **missing)
    assert failed.returncode == 1
    [message] = failed.stderr.splitlines()
    assert f"host 127.0.0.1, port {cluster.port}, user postgres" in message
    assert "after 2 attempts" in message
    assert "Remedy: create it" in message
    assert "hunter2" not in failed.stderr


def test_the_printed_sql_makes_what_setup_checks(empty_dsn: str, tmp_path: Path) -> None:
    durable = _durable(empty_dsn)
    script = _holdfast(tmp_path, "setup", "--sql", **durable).stdout
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute(script.encode())
    assert _holdfast(tmp_path, "setup", "--check", **durable).returncode == 0


def test_without_the_flag_runs_are_in_the_server(tmp_path: Path) -> None:
    ended = _holdfast(tmp_path, "runs", "ls")
    assert ended.returncode == 2
    assert "--url" in ended.stderr
    assert _holdfast(tmp_path, "health").stdout == "healthy: MemorySaver\n"
    assert _holdfast(tmp_path, "setup").returncode == 2


def test_usage(tmp_path: Path) -> None:
    assert _holdfast(tmp_path, "--version").stdout.startswith("holdfast ")
    assert _holdfast(tmp_path, "--help").returncode == 0
    assert _holdfast(tmp_path, "nonsense").returncode == 2
    assert _holdfast(tmp_path, "setup", "--sql", "--check").returncode == 2
    assert _holdfast(tmp_path, "runs", "ls", "--limit", "0").returncode == 2
    named = _holdfast(tmp_path, "health", "--url", "http://someone:hunter2@127.0.0.1:9")
    assert (named.returncode, "--token" in named.stderr, "hunter2" in named.stderr) == (2, True, False)
    gone = _holdfast(tmp_path, "health", "--url", "http://127.0.0.1:9")
    assert (gone.returncode, gone.stderr.count("\n")) == (1, 1)
