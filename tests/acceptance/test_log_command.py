"""What a server logs, with secrets planted in its settings and let out by a node."""

from __future__ import annotations

import json
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from tests.servers import serving

LEAKY_GRAPH = """
import logging, os
from typing import TypedDict
from langgraph.graph import START, StateGraph

class State(TypedDict, total=False):
    text: str

def leak(state: State) -> State:
    address = os.environ["POSTGRES_CONNECTION_STRING"]
    logging.getLogger("leaky").warning("this is %s with %s", address, os.environ["WORKER_TOKEN"])
    raise ValueError(f"{os.environ['API_TOKENS']} does not open {address}")

graph = StateGraph(State).add_node("leak", leak).add_edge(START, "leak")
"""
PASSWORD, TOKEN, WORKER_TOKEN = "hunter2-password", "api-token-of-acme", "token-of-workers-0123456789"


async def test_a_server_logs_no_secret_and_its_lines_name_their_run(tmp_path: Path, postgres_dsn: str) -> None:
    (tmp_path / "leaky.py").write_text(LEAKY_GRAPH)
    file = {"dependencies": ["."], "graphs": {"leaky": "./leaky.py:graph"}}
    (tmp_path / "langgraph.json").write_text(json.dumps(file))
    to = conninfo_to_dict(postgres_dsn)
    environment = {
        "USE_POSTGRES_SAVER": "true",
        "POSTGRES_CONNECTION_STRING": f"postgresql://{to['user']}:{PASSWORD}@{to['host']}:{to['port']}/{to['dbname']}",
        "API_TOKENS": f"{TOKEN}:acme",
        "WORKER_TOKEN": WORKER_TOKEN,
        "LOG_FORMAT": "json",
        "LOG_LEVEL": "DEBUG",
        "LOG_ACCESS": "true",
    }
    async with serving(tmp_path, environment, "--graphs", "langgraph.json") as server:
        await server.start()
        server.client.headers["Authorization"] = f"Bearer {TOKEN}"
        body = {"workflow": "leaky", "input": {}, "retry": {"maxAttempts": 1}, "threadId": "t"}
        run = await server.finished(await server.invoke(body))
        assert run["status"] == "failed"
        await server.client.get(f"/api/runs?token={TOKEN}")
        assert await server.stop() == 0
        log = server.log
    for secret in (PASSWORD, TOKEN, WORKER_TOKEN):
        assert secret not in log
        assert secret not in json.dumps(run)
    lines = [json.loads(line) for line in log.splitlines()]
    [leaked] = [line for line in lines if line["logger"] == "leaky"]
    about = {"run": run["runId"], "thread": "t", "organization": "acme", "workflow": "leaky", "attempt": 1}
    assert leaked.items() >= about.items()
    asked = {"method": "POST", "path": "/api/invoke/async", "status": 202}
    assert any(line.items() >= asked.items() for line in lines if line["logger"] == "uvicorn.access")
