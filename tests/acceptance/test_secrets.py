"""No secret is told: a whole system is run with distinctive ones, and all that it says is searched for them.

Passwords hold characters that URLs, JSON and `repr` spell otherwise, and each spelling is looked for. A node that
raises with a secret in its message, one that logs it, and one that connects with a wrong password are among them.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote, quote_plus

import httpx
import psycopg
import pytest

from orchestrator.cli.app import run
from tests.postgres import Cluster
from tests.servers import Server, Worker
from tests.waiting import until

ROLE, DATABASE = "locked_planted", "planted"
PASSWORD = "pw-Planted'1/\\@Zq9#%x"
API_TOKEN, OTHER_TOKEN = "api-token-planted-Qx81", "other-token-planted-Vk33"
WRONG_TOKEN = "wrong-token-planted-Wm57"
WORKER_TOKEN = "worker-token-planted-Jd20"
KEY = base64.b64encode(b"planted encryption key, 32 bytes").decode()
OLD_KEY = base64.b64encode(b"an older encryption key,32 bytes").decode()
NODE_SECRET = "sk-planted-abcdef0123456789"
GRAPHS = """
import logging
import os

import psycopg
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from orchestrator import create_hook_sync


def raises(state):
    try:
        raise KeyError(os.environ["POSTGRES_PASSWORD"])
    except KeyError as cause:
        logging.getLogger("mine").warning("connecting to %s", os.environ["PLANTED_URL"])
        logging.getLogger("mine").error("with %r", os.environ["API_TOKENS"], exc_info=True)
        said = [os.environ[name] for name in ("PLANTED_URL", "WORKER_TOKEN", "CHECKPOINT_ENCRYPTION_KEYS")]
        raise ValueError(f"could not use {said} with api_key=SECRET".replace("SECRET", "NODE_SECRET")) from cause


def connects(state):
    psycopg.connect(os.environ["PLANTED_URL"].replace("@127", "wrong@127"), connect_timeout=3)


def hooked(state):
    hook = create_hook_sync("paid", expires_in=3600)
    interrupt({"signal": "paid"})


def _one(node):
    return StateGraph(dict).add_node(node.__name__, node).add_edge(START, node.__name__)


def leaking():
    return _one(raises)


def connecting():
    return _one(connects)


def hooking():
    return _one(hooked)
""".replace("NODE_SECRET", NODE_SECRET)
Haul: TypeAlias = dict[str, str]


@pytest.fixture
def locked(cluster: Cluster) -> Cluster:
    """A server that asks for the planted password."""
    with psycopg.connect(cluster.dsn(), autocommit=True) as conn:
        conn.execute(psycopg.sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(psycopg.sql.Identifier(ROLE), PASSWORD))
        conn.execute(f"CREATE DATABASE {DATABASE} OWNER {ROLE}".encode())
    return cluster


def environment_of(cluster: Cluster) -> dict[str, str]:
    quoted = psycopg.conninfo.make_conninfo("", password=PASSWORD)
    assert "planted" in quoted.lower()
    spelled = "".join(f"%{byte:02X}" if not chr(byte).isalnum() else chr(byte) for byte in PASSWORD.encode())
    address = f"postgresql://{ROLE}:{spelled}@127.0.0.1:{cluster.port}/{DATABASE}"
    return {
        "USE_POSTGRES_SAVER": "true",
        "POSTGRES_CONNECTION_STRING": address,
        "POSTGRES_MIGRATION_CONNECTION_STRING": address,
        "POSTGRES_PASSWORD": PASSWORD,
        "POSTGRES_CONNECT_ATTEMPTS": "2",
        "POSTGRES_CONNECT_BACKOFF": "0.05",
        "PLANTED_URL": address,
        "API_TOKENS": f"{API_TOKEN}:acme,{OTHER_TOKEN}:other",
        "WORKER_TOKEN": WORKER_TOKEN,
        "CHECKPOINT_ENCRYPTION_KEYS": f"new:{KEY},old:{OLD_KEY}",
        "LOG_LEVEL": "DEBUG",
        "LOG_ACCESS": "true",
        "NO_COLOR": "1",
    }


def planted(hook_token: str) -> dict[str, list[str]]:
    """Each secret, in each of the ways in which a text may spell it."""
    secrets = {
        "the password": PASSWORD,
        "an API token": API_TOKEN,
        "another's API token": OTHER_TOKEN,
        "a token that was tried": WRONG_TOKEN,
        "WORKER_TOKEN": WORKER_TOKEN,
        "the encryption key": KEY,
        "the older encryption key": OLD_KEY,
        "what a node calls its key": NODE_SECRET,
        "a hook's token": hook_token,
    }
    return {name: sorted(_spelled(secret)) for name, secret in secrets.items()}


def _spelled(secret: str) -> set[str]:
    """As it is, as URLs have it, as `repr` has it in a traceback, and as JSON has it, also of those."""
    inner = repr(secret)[1:-1], json.dumps(secret)[1:-1]
    again = (json.dumps(each)[1:-1] for each in inner)
    return {secret, quote(secret), quote(secret, safe=""), quote_plus(secret), *inner, *again}


def test_no_secret_is_told(locked: Cluster, tmp_path: Path) -> None:
    environment = environment_of(locked)
    (tmp_path / "graphs.py").write_text(GRAPHS)
    names = ("leaking", "connecting", "hooking")
    (tmp_path / "langgraph.json").write_text(
        json.dumps({"dependencies": ["."], "graphs": {name: f"./graphs.py:{name}" for name in names}})
    )
    haul: Haul = {}
    graphs = ("--graphs", "langgraph.json")
    # Commands run loops of their own, so this test is none itself.
    with asyncio.Runner() as loop:
        server = Server(tmp_path, environment | {"LOG_FORMAT": "json"}, "--no-worker", *graphs)
        worker = Worker(tmp_path, environment, *graphs)
        worker.log_file = tmp_path / "worker.log"
        try:
            loop.run(_run_system(server, worker, haul))
            hook_token = _hook_token(locked)
            loop.run(_try_wrong_things(server, hook_token, haul))
            _commands(environment, server, haul)
            locked.stop("immediate")
            loop.run(_look_without_database(server, haul))
            _command(environment, haul, "health")
            locked.start()
            assert loop.run(worker.stop()) == loop.run(server.stop()) == 0
        finally:
            loop.run(worker.close())
            loop.run(server.close())
    haul |= {"the server's log": server.log, "the worker's log": worker.log}
    _wrong_settings(environment, haul)
    haul |= _rows(locked)
    assert "***" in haul["the run leaking"]
    assert "***" in haul["the server's log"]
    assert "***" in haul["the worker's log"]
    found = [
        f"{name} is in {place}: {text[max(0, text.index(spelled) - 120) : text.index(spelled) + 60]!r}"
        for place, text in haul.items()
        for name, all_spelled in planted(hook_token).items()
        for spelled in all_spelled
        if spelled in text
    ]
    assert found == [], "\n".join(found)


async def _run_system(server: Server, worker: Worker, haul: Haul) -> None:
    await server.start()
    await worker.start()
    haul |= {f"ps of {each.command}": _arguments(each.pid) for each in (server, worker)}
    await _use(server, haul)


async def _look_without_database(server: Server, haul: Haul) -> None:
    for path in ("/api/health", "/api/health/checkpointer", "/api/health/ready", "/api/health/deep", "/api/runs"):
        haul[f"{path} without a database"] = _text(await _get(server, path))


async def _use(server: Server, haul: Haul) -> None:
    """Runs that fail in telling ways, and one that gives out an address; and all that is shown of them."""
    states = {"leaking": {"failed"}, "connecting": {"suspended", "failed"}, "hooking": {"waiting"}}
    for workflow, wanted in states.items():
        body = {"workflow": workflow, "input": {"text": "x"}, "threadId": workflow}
        answer = await server.client.post("/api/invoke/async", json=body, headers=_authorized())
        started = answer.json()

        async def there(url: str = started["statusUrl"], wanted: set[str] = wanted) -> Any:
            run = (await _get(server, url)).json()
            return run if run["status"] in wanted else None

        await until(there, timeout_s=60, what=workflow)
        haul[f"the run {workflow}"] = _text(await _get(server, f"/api/runs/{started['runId']}"))
        for part in ("activities", "history"):
            haul[f"{part} of {workflow}"] = _text(await _get(server, f"/api/runs/{started['runId']}/{part}"))
        if workflow == "leaking":
            haul["its events"] = _text(await _get(server, f"/api/runs/{started['runId']}/events"))


async def _try_wrong_things(server: Server, hook_token: str, haul: Haul) -> None:
    """What is refused, and what tells of the whole."""
    for header in (f"Bearer {WRONG_TOKEN}", f"Basic {WRONG_TOKEN}", WRONG_TOKEN):
        haul[f"refused {header[:6]}"] = _text(await server.client.get("/api/runs", headers={"Authorization": header}))
    well_known = "/.well-known/workflow/v1"
    message = {"kind": "flow", "id": "x", "name": "leaking"}
    wrong = {"Authorization": f"Bearer {WRONG_TOKEN}"}
    haul["flow"] = _text(await server.client.post(f"{well_known}/flow", json=message, headers=wrong))
    right = {"Authorization": f"Bearer {WORKER_TOKEN}"}
    haul["flow, allowed"] = _text(await server.client.post(f"{well_known}/flow", json=message, headers=right))
    hook = f"{well_known}/webhook/{hook_token}"
    haul["a hook, wrong body"] = _text(await server.client.post(hook, content=b"{"))
    haul["a hook, wrong method"] = _text(await server.client.get(hook))
    haul["a hook"] = _text(await server.client.post(hook, json={}))
    haul["a hook, used"] = _text(await server.client.post(hook, json={}))
    for path in ("/api/health", "/api/health/checkpointer", "/api/health/deep", "/metrics", "/openapi.json"):
        haul[path] = _text(await _get(server, path))


def _commands(environment: dict[str, str], server: Server, haul: Haul) -> None:
    _command(environment, haul, "doctor", "--graphs", "langgraph.json")
    url = ("--url", f"http://127.0.0.1:{server.port}")
    _command(environment | {"HOLDFAST_TOKEN": WRONG_TOKEN}, haul, "runs", "ls", *url)
    _command(environment | {"HOLDFAST_TOKEN": API_TOKEN}, haul, "doctor", "--json", *url)
    _command(environment, haul, "setup", "--json")
    _command(environment, haul, "runs", "export", "active.jsonl", "--active")
    _command(environment, haul, "backup", "all.backup", "--json")
    _command(environment, haul, "backup", "verify", "all.backup", "--json")
    _command(environment, haul, "transfer", "--from", "postgres", "--to", "file:threads.jsonl")


def _wrong_settings(environment: dict[str, str], haul: Haul) -> None:
    """Settings that are refused, each with a planted secret in it, and a password that the server refuses."""
    address = environment["POSTGRES_CONNECTION_STRING"]
    wrong = {
        "a bare password in a URI": {"POSTGRES_CONNECTION_STRING": f"postgresql://{ROLE}:{PASSWORD}@127.0.0.1/x"},
        "a wrong password": {"POSTGRES_CONNECTION_STRING": address.replace("@", f"{WRONG_TOKEN}@")},
        "tokens without organizations": {"API_TOKENS": API_TOKEN},
        "a token with two organizations": {"API_TOKENS": f"{API_TOKEN}:a,{API_TOKEN}:b"},
        "a WORKER_TOKEN with a space": {"WORKER_TOKEN": f"{WORKER_TOKEN} x"},
        "a key that is too short": {"CHECKPOINT_ENCRYPTION_KEYS": f"new:{KEY[:20]},old:{OLD_KEY}"},
        "a host that is a URI": {"POSTGRES_CONNECTION_STRING": "", "POSTGRES_HOST": address},
    }
    for name, changes in wrong.items():
        text = _command({**environment, **changes, "PORT": "0"}, haul, "serve", called=f"serve, {name}")
        assert text.count("\n") == 1 or name == "a wrong password", text
        assert "Traceback" not in text


def _command(environment: dict[str, str], haul: Haul, *arguments: str, called: str | None = None) -> str:
    """A command as its own process would run it, without what it takes to start one."""
    told = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(told), redirect_stderr(told):
        for name, value in environment.items():
            patch.setenv(name, value)
        with pytest.raises(SystemExit):
            run(arguments)
    haul[called or " ".join(arguments)] = told.getvalue()
    return told.getvalue()


def _arguments(pid: int) -> str:
    """What every user of the machine sees of a process."""
    return Path(f"/proc/{pid}/cmdline").read_text()


def _authorized() -> dict[str, str]:
    return {"Authorization": f"Bearer {API_TOKEN}"}


async def _get(server: Server, path: str) -> httpx.Response:
    return await server.client.get(path, headers=_authorized())


def _text(answer: httpx.Response) -> str:
    return f"{answer.status_code} {dict(answer.headers)} {answer.text}"


def _hook_token(cluster: Cluster) -> str:
    with psycopg.connect(cluster.dsn(DATABASE), autocommit=True) as conn:
        row = conn.execute("SELECT token FROM workflow_checkpoints.workflow_hook").fetchone()
    assert row is not None
    return str(row[0])


def _rows(cluster: Cluster) -> Haul:
    """All rows as texts, but for the addresses that were given out, which have to be kept."""
    haul = {}
    with psycopg.connect(cluster.dsn(DATABASE), autocommit=True) as conn:
        tables = conn.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'workflow_checkpoints'::regnamespace AND relkind = 'r'"
        ).fetchall()
        for (table,) in tables:
            if table != "workflow_hook":
                query = f"SELECT string_agg(t::text, chr(10)) FROM workflow_checkpoints.{table} AS t"
                haul[f"rows of {table}"] = str(conn.execute(query.encode()).fetchall())
    return haul
