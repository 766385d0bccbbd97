"""The HTTP API against its own OpenAPI document: what that allows is taken, what it does not is refused, never a 5xx.

Requests are made by schemathesis from the document of a server that runs: without tokens over memory, and with tokens
over PostgreSQL. Half of those that can name a run name one that is there.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import hypothesis
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok

from orchestrator.api.openapi import ANSWERS
from tests.servers import Server, serving

GRAPHS = """
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt


def echo():
    return StateGraph(dict).add_node("echo", lambda state: {"seen": True}).add_edge(START, "echo")


def asking():
    return StateGraph(dict).add_node("ask", lambda state: {"answer": interrupt("approval")}).add_edge(START, "ask")
"""
TOKEN, WORKER_TOKEN = "a-token-of-this-test", "a-worker-token-of-this-test"
MODES = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
EXAMPLES = int(os.environ.get("HOLDFAST_FUZZ_EXAMPLES", "5"))
Operation: TypeAlias = schemathesis.APIOperation[Any, Any, Any, Any]
Case: TypeAlias = schemathesis.Case[Any]


@pytest.fixture(params=["open", "tokens"])
def environment(request: pytest.FixtureRequest) -> dict[str, str]:
    """Of a server in memory that asks for no token, and of one over PostgreSQL that does."""
    if request.param == "open":
        return {"LOG_LEVEL": "WARNING"}
    return {
        "LOG_LEVEL": "WARNING",
        "USE_POSTGRES_SAVER": "true",
        "POSTGRES_CONNECTION_STRING": request.getfixturevalue("postgres_dsn"),
        "API_TOKENS": f"{TOKEN}:acme",
        "WORKER_TOKEN": WORKER_TOKEN,
    }


async def test_every_operation_keeps_to_the_document(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "graphs.py").write_text(GRAPHS)
    (tmp_path / "langgraph.json").write_text(
        json.dumps({"dependencies": ["."], "graphs": {name: f"./graphs.py:{name}" for name in ("echo", "asking")}})
    )
    async with serving(tmp_path, environment, "--graphs", "langgraph.json") as server:
        await server.start()
        token = TOKEN if "API_TOKENS" in environment else None
        problems = await asyncio.to_thread(lambda: list(_Tried(server, token).problems()))
        assert problems == [], "\n\n".join(problems)
        assert "Traceback" not in server.log
        assert (await server.client.get("/api/health")).status_code == 200


class _Tried:
    """A server to which what its document allows, and does not allow, is sent."""

    def __init__(self, server: Server, token: str | None) -> None:
        self._session = requests.Session()
        self._session.trust_env = False
        self._url = f"http://127.0.0.1:{server.port}"
        self._token = token
        self._schema = schemathesis.openapi.from_dict(self._session.get(f"{self._url}/openapi.json", timeout=60).json())
        self._schema.config.base_url = self._url
        # Tokens are given below; what is said without one, the check `ignored_auth` asks by itself.
        self._schema.config.generation.with_security_parameters = False
        self._over = [self._start("echo", "done"), self._batch()]
        self._open = [self._start("asking", "open")]

    def _start(self, workflow: str, thread: str) -> Mapping[str, str]:
        body = {"workflow": workflow, "input": {"text": "x"}, "threadId": thread}
        answer = self._session.post(f"{self._url}/api/invoke", json=body, headers=self._headers("api"), timeout=90)
        assert answer.status_code == 200, answer.text
        run: dict[str, str] = answer.json()
        return {"run_id": run["runId"], "thread_id": run["threadId"]}

    def _batch(self) -> Mapping[str, str]:
        body = {"documents": [{"text": "Ada Lovelace wrote to Charles Babbage in London."}, {"text": ""}]}
        headers = self._headers("api")
        batch = self._session.post(f"{self._url}/api/batches", json=body, headers=headers, timeout=60).json()
        events = self._session.get(f"{self._url}{batch['streamUrl']}", headers=headers, timeout=120)
        assert '"status":"completed"' in events.text, events.text  # read to its end, which is the batch's
        return {"batch_id": batch["batchId"]}

    def _headers(self, scheme: str) -> dict[str, str]:
        if self._token is None:
            return {}
        return {"Authorization": f"Bearer {WORKER_TOKEN if scheme == 'worker' else self._token}"}

    def problems(self) -> Iterator[str]:
        """What was wrong with the answers, one text per operation and mode at most."""
        found = list(self._schema.get_all_operations())
        operations = [each.ok() for each in found if isinstance(each, Ok)]
        assert len(operations) == len(found)
        assert {(each.method.lower(), each.path) for each in operations} == set(ANSWERS)
        for operation in operations:
            for mode in MODES:
                try:
                    self._try(operation, mode)
                except hypothesis.errors.Unsatisfiable:
                    continue  # nothing that would be wrong can be said to an operation that takes nothing
                except (Exception, FailureGroup) as exc:
                    told = exc.exceptions if isinstance(exc, FailureGroup) else [exc]
                    yield from (f"{operation.label}, {mode.value}: {each}" for each in (exc, *told))

    def _try(self, operation: Operation, mode: schemathesis.GenerationMode) -> None:
        # The stream of a run that is open does not end.
        is_stream = "event" in operation.path or "stream" in operation.path
        fixed = st.sampled_from([None, *self._over, *(() if is_stream else self._open)])

        @hypothesis.settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @hypothesis.given(case=operation.as_strategy(generation_mode=mode), known=fixed)
        def check(case: Case, known: Mapping[str, str] | None) -> None:
            self._check(_tamed(case, mode, known))

        check()

    def _check(self, case: Case) -> None:
        scheme = next(iter(case.operation.definition.raw.get("security") or [{}])) or {}
        headers = self._headers("worker" if "worker" in scheme else "api")
        response = case.call(session=self._session, headers=headers, timeout=60)
        # Health says so where PostgreSQL does not answer in time, as on a busy machine; the document has that, too.
        is_slow = response.status_code == 503 and case.path.startswith("/api/health")
        case.validate_response(response, headers=headers, excluded_checks=[not_a_server_error] if is_slow else [])


def _tamed(case: Case, mode: schemathesis.GenerationMode, known: Mapping[str, str] | None) -> Case:
    """The case about a run that is there, so that more is tried than what is said to a wrong id; none that waits."""
    for name in set(case.path_parameters or {}) & set(known or {}):
        case.path_parameters[name] = (known or {})[name]
    if mode is schemathesis.GenerationMode.POSITIVE:
        (case.query or {}).pop("cursor", None)  # takes what an earlier answer gave, and nothing else
    if isinstance(case.body, dict) and case.path == "/api/invoke":
        wait = case.body.get("timeoutSeconds", 30)
        if isinstance(wait, int | float) and not isinstance(wait, bool) and 0 <= wait <= 3600:
            case.body["timeoutSeconds"] = 0
    if isinstance(case.body, dict) and case.path == "/api/batches" and mode is schemathesis.GenerationMode.POSITIVE:
        case.body = _printable(case.body)
    return case


def _printable(batch: dict[str, Any]) -> dict[str, Any]:
    """A batch of one document, since no two may have one id, with titles that can be printed."""
    first = (batch.get("documents") or [])[:1]
    labelled = [each for each in (batch, *first) if isinstance(each, dict)]
    for each in labelled:
        for name in each.keys() & {"title", "id"}:
            each[name] = "a title"
    return batch | ({"documents": first} if first else {})
