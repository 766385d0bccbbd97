from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from langgraph.graph import START, StateGraph

from orchestrator import RunStatus
from orchestrator.logs import setup_logging
from orchestrator.settings import OrchestratorSettings
from tests.graphs import State
from tests.worlds import MemoryWorld

SECRET = 'p@ss"w\\rd é/1'  # every way to quote it is another text


@pytest.fixture(autouse=True)
def _logging_is_put_back() -> Iterator[None]:
    root = logging.getLogger()
    names = ("uvicorn", "uvicorn.access", "psycopg", "psycopg.pool", "httpx", "asyncio")
    level, handlers = root.level, list(root.handlers)
    levels = {name: logging.getLogger(name).level for name in names}
    for handler in handlers:
        # basicConfig(force=True) closes what it removes.
        root.removeHandler(handler)
    yield
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)
    for handler in list(root.handlers):
        root.removeHandler(handler)
    for handler in handlers:
        root.addHandler(handler)


def _lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_json_lines_have_the_tag_apart(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("json")
    logging.getLogger("checkpointer.factory").info("[Checkpointer] PostgresSaver enabled (pool %d)", 3)
    logging.getLogger("other").error("plain\nand two lines")
    tagged, plain = map(json.loads, capsys.readouterr().err.splitlines())
    assert (tagged["tag"], tagged["message"]) == ("Checkpointer", "PostgresSaver enabled (pool 3)")
    assert tagged["level"] == "INFO"
    assert plain["message"] == "plain\nand two lines"
    assert "tag" not in plain


def test_text_lines_keep_it(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("text", "WARNING")
    logging.getLogger("orchestrator").warning("[WorkflowOrchestrator] run x failed")
    logging.getLogger("orchestrator").info("[WorkflowOrchestrator] not shown")
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("WARNING [WorkflowOrchestrator] run x failed")


def test_a_text_line_stays_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("text")
    logging.getLogger("orchestrator").error("run x failed: %s", "a\nb\r\x1b[31mc\x00\u2028d\té")
    assert capsys.readouterr().err.endswith("failed: a\\nb\\r\\x1b[31mc\\x00\\u2028d\té\n")


def test_a_traceback_keeps_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("text")
    logging.getLogger("orchestrator").error("failed", exc_info=ValueError("why"))
    assert capsys.readouterr().err.splitlines()[-1] == "ValueError: why"


def test_an_exception_is_one_field(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("json")
    logging.getLogger("orchestrator").error("failed", exc_info=ValueError("why"))
    [line] = _lines(capsys)
    assert line["message"] == "failed"
    assert line["exception"].endswith("ValueError: why")


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_secret_is_shown(log_format: Any, capsys: pytest.CaptureFixture[str]) -> None:
    settings = OrchestratorSettings(
        postgres_connection_string="postgresql://u:p%40ss%22w%5Crd%20%C3%A9%2F1@db/x",
        api_tokens="first-token:acme,second-token:other",
        worker_token="worker-token-0123456789",
    )
    setup_logging(log_format, secrets=settings.secrets())
    log = logging.getLogger("a.library")
    log.info("%s, %r, %s", SECRET, {"password_of_db": SECRET}, json.dumps([SECRET]))
    log.info("it connects to %s", settings.conninfo())
    log.info("it asks with first-token, second-token and worker-token-0123456789")
    log.error("it failed", exc_info=RuntimeError("no connection as", SECRET, "second-token"))
    shown = capsys.readouterr().err
    spelled = (SECRET, repr(SECRET)[1:-1], json.dumps(SECRET)[1:-1], "p%40ss", "p@ss", "w\\rd")
    for secret in (*spelled, "first-token", "second-token", "worker-token"):
        assert secret not in shown
    assert shown.count("***") >= 8


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("no postgresql://u:hunter2@db/x", "no postgresql://u:***@db/x"),
        ("Authorization: Bearer abcdefgh", "Authorization: Bearer ***"),
        ("DB_PASSWORD=hunter2", "DB_PASSWORD=***"),
        ("api_key: hunter2", "api_key: ***"),
        ("with sk-abcdefghijklmnop", "with ***"),
        ("with ghp_abcdefghijklmnop", "with ***"),
        ("with xoxb-abcdefghijklmnop", "with ***"),
        ("nothing of the kind", "nothing of the kind"),
    ],
)
def test_what_looks_like_a_secret_is_not_shown(said: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("json")
    logging.getLogger("a.library").info(said)
    [line] = _lines(capsys)
    assert line["message"] == shown


def test_an_address_that_a_run_answers_at_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("json", access=True)
    path = "/.well-known/workflow/v1/webhook/whoknowsit?x=1"
    logging.getLogger("uvicorn.access").info('%s - "%s %s HTTP/%s" %d', "10.0.0.1:5", "POST", path, "1.1", 202)
    [line] = _lines(capsys)
    assert "whoknowsit" not in json.dumps(line)
    shown = line["client"], line["method"], line["path"], line["status"]
    assert shown == ("10.0.0.1:5", "POST", "/.well-known/workflow/v1/webhook/***?x=1", 202)


def test_requests_are_shown_only_where_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    for access in (True, False):
        setup_logging("text", "WARNING", access=access)
        assert logging.getLogger("uvicorn.access").isEnabledFor(logging.INFO) is access


def _talking() -> StateGraph[State, None, State, State]:
    """A node that is a coroutine and one that is a plain function, each with something to say."""
    log = logging.getLogger("mine")

    async def loud(state: State) -> dict[str, Any]:
        log.info("loud")
        return {"trace": ["loud"]}

    def quiet(state: State) -> dict[str, Any]:
        log.warning("quiet")
        return {"trace": ["quiet"]}

    builder = StateGraph(State)
    builder.add_node("loud", loud)
    builder.add_node("quiet", quiet)
    return builder.add_edge(START, "loud").add_edge("loud", "quiet")


async def test_what_nodes_log_belongs_to_their_run(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("json")
    async with MemoryWorld().open(talk=_talking()) as orchestrator:
        runs = [
            await orchestrator.start("talk", {"text": "hi"}, thread_id=f"t{number}", organization_id="acme")
            for number in range(3)
        ]
        for run in runs:
            assert (await orchestrator.wait(run.run_id, timeout=60)).status is RunStatus.COMPLETED
    lines = _lines(capsys)
    for run in runs:
        mine = [line for line in lines if line.get("run") == run.run_id]
        about = {"thread": run.thread_id, "organization": "acme", "workflow": "talk", "attempt": 1}
        said = [line for line in mine if line["logger"] == "mine"]
        assert [line["message"] for line in said] == ["loud", "quiet"]
        assert all(line.items() >= about.items() for line in said)
        ours = [line for line in mine if line["logger"].startswith("orchestrator.engine")]
        assert any(line.items() >= about.items() and "completed after" in line["message"] for line in ours)
    assert not any("run" in line for line in lines if line["message"].startswith("stopped:"))
    # Of a line that names a run, no other one's thread is told.
    for line in lines:
        if line["logger"].startswith("orchestrator") and (run_id := line.get("run")):
            assert line.get("thread") in {None, next(run.thread_id for run in runs if run.run_id == run_id)}
