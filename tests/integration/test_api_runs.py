"""What people ask of runs over HTTP: signals, pauses, cancelling, forks, hooks, and looking at what happened."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import interrupt

from checkpointer import CheckpointerSettings
from orchestrator import Graph, Orchestrator, OrchestratorSettings, create_hook, open_orchestrator
from orchestrator.api.app import create_app
from orchestrator.api.body import MAX_BODY_BYTES
from tests.graphs import Gates, State, chain, failing
from tests.waiting import until

TRACE = ["one", "two", "three"]
WEBHOOK = "/.well-known/workflow/v1/webhook/"
NO_RUN = "0199c0de-0000-7000-8000-000000000000"
ACTIONS = ["interrupt", "resume", "cancel", "signals/approval", "fork"]
Client = httpx.AsyncClient


def approval(gates: Gates | None = None, *signals: str) -> StateGraph[State, None, State, State]:
    """`before`, which waits at its gate; then a node per signal that waits for it and keeps the answer."""

    async def before(state: State) -> dict[str, Any]:
        if gates is not None:
            await gates.wait("before")
        return {}

    def ask(signal: str) -> Any:
        def node(state: State) -> dict[str, Any]:
            return {"trace": [json.dumps(interrupt({"signal": signal, "question": f"{signal}?"}))]}

        return node

    names = signals or ("approval",)
    builder = StateGraph(State).add_node("before", before).add_edge(START, "before")
    previous = "before"
    for name in names:
        builder.add_node(f"ask_{name}", ask(name)).add_edge(previous, f"ask_{name}")
        previous = f"ask_{name}"
    return builder


def stopping(gates: Gates) -> StateGraph[State, None, State, State]:
    """Two nodes; the first waits until its attempt has heard that it is to stop, and then at its gate."""

    async def first(state: State, runtime: Runtime[None]) -> dict[str, Any]:
        gates.reached.append("begun")
        await until(lambda: runtime.drain_requested)
        await gates.wait("heard")
        return {"trace": ["first"]}

    async def second(state: State) -> dict[str, Any]:
        return {"trace": ["second"]}

    builder = StateGraph(State).add_node("first", first).add_edge(START, "first")
    return builder.add_node("second", second).add_edge("first", "second")


def both() -> StateGraph[State, None, State, State]:
    """Two nodes that wait side by side."""

    def ask(name: str) -> Any:
        return lambda state: {"trace": [f"{name} {interrupt({'signal': name})}"]}

    builder = StateGraph(State)
    for name in ("left", "right"):
        builder.add_node(name, ask(name)).add_edge(START, name)
    return builder


def hooked(*, times: int = 1, expires_in: float = 60.0) -> StateGraph[State, None, State, State]:
    """A node that gives an address out and waits for as many answers."""

    async def node(state: State) -> dict[str, Any]:
        hook = await create_hook("paid", expires_in=expires_in, multiple=times > 1)
        answers = [interrupt({"signal": "paid", "path": hook.path}) for _ in range(times)]
        return {"trace": [json.dumps(answer) for answer in answers]}

    return StateGraph(State).add_node("node", node).add_edge(START, "node")


def graphs(gates: Gates) -> dict[str, Graph]:
    return {
        "chain": chain(),
        "gated": chain(gates=gates),
        "stopping": stopping(gates),
        "approval": approval(),
        "late": approval(gates),
        "twice": approval(None, "first", "second"),
        "both": both(),
        "failing": failing(ValueError("no")),
        "flaky": failing(ConnectionError("away")),
        "hooked": hooked(),
        "hooked twice": hooked(times=2),
        "hooked shortly": hooked(expires_in=0.001),
    }


@pytest.fixture(params=["memory", "postgres"])
def settings(request: pytest.FixtureRequest) -> OrchestratorSettings:
    if request.param == "memory":
        return OrchestratorSettings(drain_timeout=0.5)
    postgres: CheckpointerSettings = request.getfixturevalue("checkpointer_settings")
    return OrchestratorSettings(**postgres.model_dump(exclude_unset=True), drain_timeout=0.5)


@asynccontextmanager
async def _client(orchestrator: Orchestrator) -> AsyncIterator[Client]:
    transport = httpx.ASGITransport(create_app(orchestrator), raise_app_exceptions=False)
    async with Client(transport=transport, base_url="http://test") as client:
        yield client


@pytest.fixture
async def gates() -> Gates:
    return Gates()


@pytest.fixture
async def client(settings: OrchestratorSettings, gates: Gates) -> AsyncIterator[Client]:
    async with open_orchestrator(graphs(gates), settings=settings) as orchestrator, _client(orchestrator) as client:
        yield client


memory_only = pytest.mark.parametrize("settings", ["memory"], indirect=True)


def _error(answer: httpx.Response) -> tuple[int, str]:
    error = answer.json()["error"]
    assert error["message"]
    return answer.status_code, error["code"]


async def _start(client: Client, workflow: str, **more: Any) -> str:
    body = {"workflow": workflow, "input": {"text": "x"}, **more}
    answer = await client.post("/api/invoke/async", json=body)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["runId"])


async def _get(client: Client, path: str) -> Any:
    answer = await client.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def _reaches(client: Client, run_id: str, *statuses: str) -> Any:
    """The run once it is in one of these states."""

    async def there() -> Any:
        run = await _get(client, f"/api/runs/{run_id}")
        return run if run["status"] in statuses else None

    return await until(there, what=f"run {run_id} is {' or '.join(statuses)}")


async def _tell(client: Client, run_id: str, action: str, expected: int = 202, **body: Any) -> Any:
    answer = await client.post(f"/api/runs/{run_id}/{action}", json=body)
    assert answer.status_code == expected, answer.text
    return answer.json()


async def _refused(client: Client, run_id: str, action: str, status: str, **body: Any) -> None:
    """The action is refused for the state that the run is in."""
    answer = await client.post(f"/api/runs/{run_id}/{action}", json=body)
    assert _error(answer) == (409, "illegal_transition")
    assert answer.json()["error"]["status"] == status


# Signals.


async def test_a_human_approves(client: Client) -> None:
    run_id = await _start(client, "approval", threadId="t")
    waiting = await _reaches(client, run_id, "waiting")
    [wait] = waiting["waitingFor"]
    assert (wait["signal"], wait["value"]["question"]) == ("approval", "approval?")
    assert "signals" not in waiting

    run = await _tell(client, run_id, "signals/approval", payload={"ok": True})
    assert (run["runId"], run["waitingFor"]) == (run_id, None)
    run = await _reaches(client, run_id, "completed")
    assert run["output"]["trace"] == ['{"ok": true}']
    [signal] = run["signals"]
    assert signal["createdAt"].endswith("Z")
    assert {key: signal[key] for key in ("name", "status", "interruptId", "key", "payload")} == {
        "name": "approval",
        "status": "delivered",
        "interruptId": wait["interruptId"],
        "key": None,
        "payload": {"ok": True},
    }
    assert (await _get(client, "/api/invoke-status/status/t"))["signals"] == [signal]
    [listed] = (await _get(client, "/api/runs"))["runs"]
    assert "signals" not in listed


@pytest.mark.parametrize("action", ["resume", "signals/approval"])
@pytest.mark.parametrize("content", [b"", b"  \n", b"{}", b'{"payload": null}'])
async def test_an_answer_may_be_nothing(client: Client, action: str, content: bytes) -> None:
    run_id = await _start(client, "approval")
    await _reaches(client, run_id, "waiting")
    answer = await client.post(f"/api/runs/{run_id}/{action}", content=content)
    assert answer.status_code == 202, answer.text
    assert (await _reaches(client, run_id, "completed"))["output"]["trace"] == ["null"]


async def test_an_early_signal_is_kept_until_it_is_waited_for(client: Client, gates: Gates) -> None:
    run_id = await _start(client, "late")
    await until(lambda: "before" in gates.reached)
    await _tell(client, run_id, "signals/approval", payload="early")
    [kept] = (await _get(client, f"/api/runs/{run_id}"))["signals"]
    assert (kept["status"], kept["interruptId"], kept["payload"]) == ("kept", None, "early")
    gates.open("before")
    run = await _reaches(client, run_id, "completed", "waiting", "failed")
    assert (run["status"], run["output"]["trace"]) == ("completed", ['"early"'])
    assert [signal["status"] for signal in run["signals"]] == ["delivered"]


async def test_a_signal_that_nobody_waits_for_shows_in_the_run(client: Client) -> None:
    run_id = await _start(client, "approval", threadId="t")
    await _reaches(client, run_id, "waiting")
    run = await _tell(client, run_id, "signals/aproval", payload=1)
    assert (run["status"], [wait["signal"] for wait in run["waitingFor"]]) == ("waiting", ["approval"])
    for path in (f"/api/runs/{run_id}", "/api/invoke-status/status/t"):
        [signal] = (await _get(client, path))["signals"]
        assert (signal["name"], signal["status"]) == ("aproval", "kept")


@pytest.mark.parametrize("key", ["k", None])
async def test_a_repeated_signal_is_one(client: Client, key: str | None) -> None:
    run_id = await _start(client, "twice")
    await _reaches(client, run_id, "waiting")
    body: dict[str, Any] = {"payload": "yes", "key": key}
    await _tell(client, run_id, "signals/second", **body)
    await _tell(client, run_id, "signals/second", **body)
    assert len((await _get(client, f"/api/runs/{run_id}"))["signals"]) == 1
    await _tell(client, run_id, "signals/first", payload="go")
    run = await _reaches(client, run_id, "completed")
    assert run["output"]["trace"] == ['"go"', '"yes"']
    # Its answer got lost, say: the sender learns that the run is over, and no more.
    again = await _tell(client, run_id, "signals/second", **body)
    assert again["status"] == "completed"
    await _refused(client, run_id, "signals/second", "completed", payload="something else")


async def test_a_name_of_many_characters(client: Client) -> None:
    run_id = await _start(client, "approval")
    await _reaches(client, run_id, "waiting")
    await _tell(client, run_id, "signals/a%2Fb%20%C3%A9%3F")
    assert [signal["name"] for signal in (await _get(client, f"/api/runs/{run_id}"))["signals"]] == ["a/b é?"]


async def test_several_answers_are_given_by_interrupt(client: Client) -> None:
    run_id = await _start(client, "both")
    waits = {wait["signal"]: wait["interruptId"] for wait in (await _reaches(client, run_id, "waiting"))["waitingFor"]}
    refused = await client.post(f"/api/runs/{run_id}/resume", json={"payload": "x"})
    assert _error(refused) == (422, "invalid_request")
    assert all(interrupt_id in refused.json()["error"]["message"] for interrupt_id in waits.values())
    await _tell(client, run_id, "resume", payload={waits["left"]: 1, waits["right"]: 2})
    run = await _reaches(client, run_id, "completed")
    assert sorted(run["output"]["trace"]) == ["left 1", "right 2"]
    assert {signal["name"] for signal in run["signals"]} == {"resume"}


# Pausing and cancelling.


async def test_interrupt_and_resume(client: Client, gates: Gates) -> None:
    run_id = await _start(client, "stopping")
    await until(lambda: "begun" in gates.reached)
    asked = await _tell(client, run_id, "interrupt")
    assert (asked["status"], asked["requested"]) == ("running", "pause")
    gates.open("heard")
    paused = await _reaches(client, run_id, "paused")
    assert (paused["requested"], paused["completedAt"]) == (None, None)
    assert (await _tell(client, run_id, "interrupt", 200))["status"] == "paused"
    await _tell(client, run_id, "resume")
    run = await _reaches(client, run_id, "completed")
    assert (run["output"]["trace"], gates.reached) == (["first", "second"], ["begun", "heard"])
    await _refused(client, run_id, "interrupt", "completed")
    await _refused(client, run_id, "resume", "completed")


async def test_a_pause_that_was_asked_for_is_taken_back(client: Client, gates: Gates) -> None:
    run_id = await _start(client, "stopping")
    await until(lambda: "begun" in gates.reached)
    await _refused(client, run_id, "resume", "running")
    await _tell(client, run_id, "interrupt")
    await until(lambda: "heard" in gates.reached)
    assert (await _tell(client, run_id, "resume"))["requested"] is None
    gates.open("heard")
    run = await _reaches(client, run_id, "completed", "paused")
    assert (run["status"], run["output"] and run["output"]["trace"]) == ("completed", ["first", "second"])


async def test_a_waiting_run_is_not_paused(client: Client) -> None:
    run_id = await _start(client, "approval")
    await _reaches(client, run_id, "waiting")
    await _refused(client, run_id, "interrupt", "waiting")


async def test_a_run_that_is_to_be_retried(client: Client) -> None:
    run_id = await _start(client, "flaky", retry={"initialInterval": 3600, "maxInterval": 3600, "jitter": False})
    run = await _reaches(client, run_id, "suspended")
    assert (run["failures"], run["losses"], run["error"]["type"]) == (1, 0, "ConnectionError")
    assert run["retryAt"] > run["updatedAt"]
    paused = await _tell(client, run_id, "interrupt", 200)
    assert (paused["status"], paused["retryAt"]) == ("paused", None)
    await _tell(client, run_id, "resume")
    assert (await _reaches(client, run_id, "suspended"))["failures"] == 2


async def test_cancel(client: Client, gates: Gates) -> None:
    run_id = await _start(client, "gated")
    await until(lambda: "one" in gates.reached)
    assert (await _tell(client, run_id, "cancel", 200))["status"] == "cancelled"
    assert (await _tell(client, run_id, "cancel", 200))["status"] == "cancelled"
    gates.open(*TRACE)
    for action in ("interrupt", "resume", "signals/approval"):
        await _refused(client, run_id, action, "cancelled", **({} if action == "interrupt" else {"payload": 1}))
    waiting = await _start(client, "approval")
    await _reaches(client, waiting, "waiting")
    assert (await _tell(client, waiting, "cancel", 200))["status"] == "cancelled"
    done = await _start(client, "chain")
    await _reaches(client, done, "completed")
    await _refused(client, done, "cancel", "completed")
    assert gates.reached == ["one"]


async def test_a_failed_run_goes_on(client: Client) -> None:
    run_id = await _start(client, "failing")
    failed = await _reaches(client, run_id, "failed")
    await _refused(client, run_id, "cancel", "failed")
    await _tell(client, run_id, "resume")

    async def failed_again() -> bool:
        run = await _get(client, f"/api/runs/{run_id}")
        return bool(run["status"] == "failed" and run["attempt"] > failed["attempt"])

    await until(failed_again)


async def test_a_new_run_takes_the_thread_over(client: Client, gates: Gates) -> None:
    waiting = await _start(client, "approval", threadId="t")
    await _reaches(client, waiting, "waiting")
    newer = await _start(client, "chain", threadId="t", ifBusy="interrupt")
    superseded = await _reaches(client, waiting, "cancelled")
    assert newer in superseded["error"]["message"]
    await _reaches(client, newer, "completed")


@memory_only
@pytest.mark.parametrize(
    "retry",
    [
        {"maxAttempts": 0},
        {"maxAttempts": 1.5},
        {"maxAttempts": 10**400},
        {"maxAttempts": True},
        {"initialInterval": -1},
        {"backoffFactor": 0.5},
        {"maxInterval": "1"},
        {"jitter": 1},
        {"retryOn": "everything"},
        [],
        1,
    ],
)
async def test_a_bad_retry(client: Client, retry: Any) -> None:
    content = json.dumps({"workflow": "chain", "input": {}, "retry": retry}, allow_nan=False)
    assert _error(await client.post("/api/invoke", content=content)) == (422, "invalid_request")


async def test_no_retry(client: Client) -> None:
    run_id = await _start(client, "flaky", retry={"maxAttempts": 1})
    assert (await _reaches(client, run_id, "failed", "suspended"))["status"] == "failed"
    unknown = {"workflow": "none", "input": {}, "retry": {"maxAttempts": 1}}
    assert _error(await client.post("/api/invoke", json=unknown)) == (404, "unknown_workflow")


# History, forks, activities.


async def test_history_and_fork(client: Client) -> None:
    run_id = await _start(client, "chain")
    parent = await _reaches(client, run_id, "completed")
    checkpoints = (await _get(client, f"/api/runs/{run_id}/history"))["checkpoints"]
    assert [checkpoint["step"] for checkpoint in checkpoints] == [3, 2, 1, 0, -1]
    assert checkpoints[0]["checkpointId"] == parent["lastCheckpointId"]
    assert checkpoints[0]["createdAt"].endswith("Z")
    before_two = checkpoints[2]
    assert (before_two["next"], before_two["values"]["trace"], before_two["source"]) == (["two"], ["one"], "loop")
    assert before_two["parentCheckpointId"] == checkpoints[3]["checkpointId"]
    newest = (await _get(client, f"/api/runs/{run_id}/history?limit=2"))["checkpoints"]
    assert newest == checkpoints[:2]

    started = await _tell(client, run_id, "fork", checkpointId=before_two["checkpointId"])
    assert (started["parentRunId"], started["forkCheckpointId"]) == (run_id, before_two["checkpointId"])
    assert started["runId"] not in (run_id, None)
    assert started["statusUrl"].endswith(started["threadId"])
    fork = await _reaches(client, started["runId"], "completed")
    assert (fork["output"]["trace"], fork["threadId"] != parent["threadId"]) == (TRACE, True)
    assert await _get(client, f"/api/runs/{run_id}") == parent


async def test_a_fork_begins_with_an_update(client: Client) -> None:
    run_id = await _start(client, "chain")
    await _reaches(client, run_id, "completed")
    checkpoints = (await _get(client, f"/api/runs/{run_id}/history"))["checkpoints"]
    fork = await _tell(client, run_id, "fork", checkpointId=checkpoints[1]["checkpointId"], payload={"text": "changed"})
    run = await _reaches(client, fork["runId"], "completed", "failed")
    assert (run["output"]["text"], run["output"]["trace"]) == ("changed", TRACE)


async def test_forks_of_what_is_not_there(client: Client) -> None:
    one, other = await _start(client, "chain"), await _start(client, "chain")
    for run_id in (one, other):
        await _reaches(client, run_id, "completed")
    theirs = (await _get(client, f"/api/runs/{other}/history"))["checkpoints"][0]["checkpointId"]
    for checkpoint_id in (theirs, NO_RUN, "nonsense", "../x", "é"):
        answer = await client.post(f"/api/runs/{one}/fork", json={"checkpointId": checkpoint_id})
        assert _error(answer) == (404, "checkpoint_not_found"), checkpoint_id


@pytest.mark.parametrize("limit", ["0", "1001", "x", "9" * 30, "%00"])
async def test_bad_limits(client: Client, limit: str) -> None:
    run_id = await _start(client, "chain")
    assert _error(await client.get(f"/api/runs/{run_id}/history?limit={limit}")) == (422, "invalid_request")


async def _shows(client: Client, run_id: str, activity: str) -> bool:
    shown = (await _get(client, f"/api/runs/{run_id}/activities"))["activities"]
    return activity in [each["activity"] for each in shown]


async def test_activities(client: Client, gates: Gates) -> None:
    run_id = await _start(client, "gated")

    async def activities() -> Any:
        return (await _get(client, f"/api/runs/{run_id}/activities"))["activities"]

    [running] = await until(activities)
    assert (running["activity"], running["attempt"], running["status"]) == ("one", 1, "running")
    assert (running["error"], running["endedAt"]) == (None, None)
    for step in TRACE:
        # Times are those of the statements that tell of them: one that is late must not overtake another.
        await until(lambda step=step: _shows(client, run_id, step), what=f"{step} is shown")  # type: ignore[misc]
        gates.open(step)
    await _reaches(client, run_id, "completed")
    done = await activities()
    assert [each["activity"] for each in done] == TRACE
    assert {each["status"] for each in done} == {"completed"}
    assert set(done[0]) == {"activity", "attempt", "status", "taskId", "error", "startedAt", "endedAt"}
    assert all(each["startedAt"] <= each["endedAt"] for each in done)

    failing_id = await _start(client, "failing")
    await _reaches(client, failing_id, "failed")
    [broken] = (await _get(client, f"/api/runs/{failing_id}/activities"))["activities"]
    assert (broken["activity"], broken["status"], "no" in broken["error"]) == ("broken", "failed", True)
    waiting_id = await _start(client, "approval")
    await _reaches(client, waiting_id, "waiting")
    asked = (await _get(client, f"/api/runs/{waiting_id}/activities"))["activities"]
    assert [(each["activity"], each["status"]) for each in asked][1:] == [("ask_approval", "interrupted")]


# What is not there, and what is not understood.


@pytest.mark.parametrize("run_id", [NO_RUN, "nonsense", "%00", "%ff", "x" * 300, "%ed%a0%80"])
async def test_a_run_that_is_not_there(client: Client, run_id: str) -> None:
    for action in ACTIONS:
        body = {"checkpointId": "x"} if action == "fork" else {}
        assert _error(await client.post(f"/api/runs/{run_id}/{action}", json=body)) == (404, "run_not_found"), action
    for part in ("activities", "history"):
        assert _error(await client.get(f"/api/runs/{run_id}/{part}")) == (404, "run_not_found")


@memory_only
async def test_methods_and_paths_that_are_not_there(client: Client) -> None:
    path = f"/api/runs/{NO_RUN}"
    for action in ACTIONS:
        assert _error(await client.get(f"{path}/{action}")) == (405, "method_not_allowed")
    assert _error(await client.post(f"{path}/history")) == (405, "method_not_allowed")
    assert _error(await client.post(f"{path}/explode")) == (404, "not_found")


DEEP = b"[" * 500_000 + b"]" * 500_000
TOO_DEEP = b'{"payload": ' + b"[" * 150 + b"]" * 150 + b"}"
MALFORMED: Mapping[str, tuple[bytes, int]] = {
    "no json": (b"{", 400),
    "not utf-8": (b'{"payload": "\xff"}', 400),
    "nan": (b'{"payload": NaN}', 400),
    "too deep to parse": (DEEP, 400),
    "an int of 5000 digits": (b'{"payload": ' + b"1" * 5000 + b"}", 400),
    "null": (b"null", 422),
    "a list": (b"[]", 422),
    "a string": (b'"x"', 422),
    "an unknown field": (b'{"paylod": 1}', 422),
    "an unknown field of half a surrogate": (b'{"\\ud800": 1}', 422),
    "over the limit": (b'{"payload": "' + b"x" * (2 * MAX_BODY_BYTES) + b'"}', 413),
}
UNSTORABLE: Mapping[str, bytes] = {
    "too deep to keep": TOO_DEEP,
    "a huge float": b'{"payload": 1e400}',
    "a huge int": b'{"payload": {"a": 123456789012345678901234567890}}',
    "half a surrogate": b'{"payload": {"a": "\\ud800"}}',
    "half a surrogate as key": b'{"payload": {"\\ud800": 1}}',
}


@pytest.mark.parametrize("case", MALFORMED)
async def test_a_malformed_body_is_the_clients_error(client: Client, case: str) -> None:
    content, expected = MALFORMED[case]
    run_id = await _start(client, "approval")
    await _reaches(client, run_id, "waiting")
    for action in ACTIONS:
        answer = await client.post(f"/api/runs/{run_id}/{action}", content=content)
        assert _error(answer)[0] == expected, (action, answer.text)
    assert (await _get(client, f"/api/runs/{run_id}"))["status"] == "waiting"


@pytest.mark.parametrize("case", UNSTORABLE)
async def test_a_payload_that_can_not_be_kept_is_refused(client: Client, case: str) -> None:
    run_id = await _start(client, "approval")
    waiting = await _reaches(client, run_id, "waiting")
    checkpoint_id = (await _get(client, f"/api/runs/{run_id}/history"))["checkpoints"][0]["checkpointId"]
    for action in ("resume", "signals/approval", "fork"):
        content = UNSTORABLE[case]
        if action == "fork":
            content = content[:-1] + f', "checkpointId": "{checkpoint_id}"}}'.encode()
        answer = await client.post(f"/api/runs/{run_id}/{action}", content=content)
        assert answer.status_code == 422, (action, answer.text)
    assert await _get(client, f"/api/runs/{run_id}") == waiting


@pytest.mark.parametrize(
    ("action", "body"),
    [
        ("interrupt", b'{"payload": 1}'),
        ("cancel", b'{"payload": 1}'),
        ("resume", b'{"key": "k"}'),
        ("signals/", b"{}"),
        ("signals/%00", b"{}"),
        ("signals/a%09b", b"{}"),
        ("signals/" + "x" * 256, b"{}"),
        ("signals/a", b'{"key": ""}'),
        ("signals/a", b'{"key": 1}'),
        ("signals/a", b'{"key": "a\\u0000"}'),
        ("signals/a", b'{"key": "\\ud800"}'),
        ("fork", b""),
        ("fork", b"{}"),
        ("fork", b'{"checkpointId": ""}'),
        ("fork", b'{"checkpointId": 1}'),
        ("fork", b'{"checkpointId": null}'),
        ("fork", b'{"checkpointId": "a\\u0000b"}'),
        ("fork", b'{"checkpointId": "\\ud800"}'),
        ("fork", b'{"checkpoint_id": "x"}'),
    ],
)
async def test_a_body_of_the_wrong_shape(client: Client, action: str, body: bytes) -> None:
    run_id = await _start(client, "approval")
    waiting = await _reaches(client, run_id, "waiting")
    answer = await client.post(f"/api/runs/{run_id}/{action}", content=body)
    assert answer.status_code == (400 if body == b"" else 422), answer.text
    assert _error(answer)[1] in {"invalid_request", "malformed_body"}
    assert await _get(client, f"/api/runs/{run_id}") == waiting


async def test_nul_in_a_payload_arrives(client: Client) -> None:
    run_id = await _start(client, "approval")
    await _reaches(client, run_id, "waiting")
    await _tell(client, run_id, "signals/approval", payload="a\x00b")
    run = await _reaches(client, run_id, "completed")
    assert (run["output"]["trace"], run["signals"][0]["payload"]) == (['"a\\u0000b"'], "a\x00b")


# Organizations.


async def test_an_organization_has_its_own_runs_only(settings: OrchestratorSettings, gates: Gates) -> None:
    secured = OrchestratorSettings(**settings.model_dump(exclude_unset=True), api_tokens="t-acme:acme,t-other:other")
    async with open_orchestrator(graphs(gates), settings=secured) as orchestrator, _client(orchestrator) as client:
        client.headers["Authorization"] = "Bearer t-acme"
        ours = await _start(client, "approval", threadId="t")
        waiting = await _reaches(client, ours, "waiting")
        checkpoints = (await _get(client, f"/api/runs/{ours}/history"))["checkpoints"]

        client.headers["Authorization"] = "Bearer t-other"
        for path in (f"/api/runs/{ours}", f"/api/runs/{ours}/activities", f"/api/runs/{ours}/history"):
            assert _error(await client.get(path)) == (404, "run_not_found")
        for action in ACTIONS:
            body = {"payload": 1} if action in ("resume", "signals/approval") else {}
            if action == "fork":
                body = {"checkpointId": checkpoints[0]["checkpointId"]}
            answer = await client.post(f"/api/runs/{ours}/{action}", json=body)
            assert _error(answer) == (404, "run_not_found"), action
        # The same thread id is another thread.
        theirs = await _start(client, "approval", threadId="t")
        await _reaches(client, theirs, "waiting")
        await _tell(client, theirs, "signals/approval", payload="theirs")
        assert (await _reaches(client, theirs, "completed"))["output"]["trace"] == ['"theirs"']
        assert (await _get(client, "/api/invoke-status/status/t"))["runId"] == theirs
        history = (await _get(client, f"/api/runs/{theirs}/history"))["checkpoints"]
        assert [run["runId"] for run in (await _get(client, "/api/runs"))["runs"]] == [theirs]

        client.headers["Authorization"] = "Bearer t-acme"
        assert await _get(client, f"/api/runs/{ours}") == waiting
        stolen = await client.post(f"/api/runs/{ours}/fork", json={"checkpointId": history[0]["checkpointId"]})
        assert _error(stolen) == (404, "checkpoint_not_found")
        await _tell(client, ours, "resume", payload="ours")
        assert (await _reaches(client, ours, "completed"))["output"]["trace"] == ['"ours"']

        del client.headers["Authorization"]
        for action in ACTIONS:
            assert _error(await client.post(f"/api/runs/{ours}/{action}", json={})) == (401, "unauthorized")
        for part in ("activities", "history"):
            assert _error(await client.get(f"/api/runs/{ours}/{part}")) == (401, "unauthorized")


async def test_a_hook_needs_no_token_of_the_api(settings: OrchestratorSettings, gates: Gates) -> None:
    secured = OrchestratorSettings(**settings.model_dump(exclude_unset=True), api_tokens="t-acme:acme")
    async with open_orchestrator(graphs(gates), settings=secured) as orchestrator, _client(orchestrator) as client:
        client.headers["Authorization"] = "Bearer t-acme"
        run_id, path = await _hook(client, "hooked")
        del client.headers["Authorization"]
        assert (await client.post(path, json=1)).status_code == 202
        client.headers["Authorization"] = "Bearer t-acme"
        await _reaches(client, run_id, "completed")


# Hooks.


async def _hook(client: Client, workflow: str) -> tuple[str, str]:
    """A run that waits at an address, and the address."""
    run_id = await _start(client, workflow)
    run = await _reaches(client, run_id, "waiting")
    path = str(run["waitingFor"][0]["value"]["path"])
    assert path.startswith(WEBHOOK)
    return run_id, path


@pytest.mark.parametrize(
    ("content", "answer"),
    [(b"", "null"), (b" ", "null"), (b"null", "null"), (b"[1, 2]", "[1, 2]"), (b'"x"', '"x"'), (b"false", "false")],
)
async def test_a_hook_takes_any_json_once(client: Client, content: bytes, answer: str) -> None:
    run_id, path = await _hook(client, "hooked")
    accepted = await client.post(path, content=content)
    assert (accepted.status_code, accepted.json()) == (202, {"status": "accepted"})
    assert (await _reaches(client, run_id, "completed"))["output"]["trace"] == [answer]
    again = await client.post(path, content=content)
    assert _error(again) == (404, "hook_not_found")
    assert run_id not in again.text
    shown = await client.get(f"/api/runs/{run_id}")
    assert path.removeprefix(WEBHOOK) not in json.dumps(shown.json()["signals"])


async def test_a_hook_for_several_answers(client: Client) -> None:
    run_id, path = await _hook(client, "hooked twice")
    # The same twice is two answers here.
    for _ in range(2):
        assert (await client.post(path, json="paid")).status_code == 202
    run = await _reaches(client, run_id, "completed")
    assert run["output"]["trace"] == ['"paid"', '"paid"']
    over = await client.post(path, json="paid")
    assert _error(over) == (409, "illegal_transition")
    assert "completed" not in over.text
    assert run_id not in over.text


async def test_a_hook_of_a_run_that_was_cancelled(client: Client) -> None:
    run_id, path = await _hook(client, "hooked")
    await _tell(client, run_id, "cancel", 200)
    assert _error(await client.post(path, json=1)) == (409, "illegal_transition")


async def test_a_hook_that_has_expired(client: Client) -> None:
    _, path = await _hook(client, "hooked shortly")

    async def expired() -> bool:
        return _error(await client.post(path, json=1)) == (404, "hook_not_found")

    await until(expired)


@pytest.mark.parametrize("token", ["unknown", "x" * 43, "%00", "a%00b", "%ff", "%ed%a0%80", "é", "x" * 3000, "..%2fx"])
async def test_a_hook_that_is_not_there(client: Client, token: str) -> None:
    answer = await client.post(WEBHOOK + token, json={})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] in {"hook_not_found", "not_found"}


async def test_a_hooks_token_is_never_shown_back(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    run_id, path = await _hook(client, "hooked")
    token = path.removeprefix(WEBHOOK)
    answers = [
        await client.get(path),
        await client.delete(path),
        await client.put(path, content=b"x"),
        await client.post(f"{path}/more"),
        await client.post(f"/{path}"),
        await client.post(f"/prefix{path}"),
        await client.post(path, content=b"{"),
        await client.post(path, content=b"x" * (2 * MAX_BODY_BYTES)),
    ]
    assert [answer.status_code for answer in answers] == [405, 405, 405, 404, 404, 404, 400, 413]
    answers.append(await client.post(path, json=1))
    await _reaches(client, run_id, "completed")
    answers.append(await client.post(path, json=1))
    assert [answer.text for answer in answers if token in answer.text] == []
    ours = [record for record in caplog.records if not record.name.startswith("httpx")]
    assert [record.getMessage() for record in ours if token in record.getMessage()] == []


HOOK_BODIES: Mapping[str, tuple[bytes, int]] = {
    "no json": (b"{", 400),
    "not utf-8": (b'"\xff"', 400),
    "nan": (b"NaN", 400),
    "too deep to parse": (DEEP, 400),
    "over the limit": (b'"' + b"x" * (2 * MAX_BODY_BYTES) + b'"', 413),
    "too deep to keep": (b"[" * 150 + b"]" * 150, 422),
    "a huge float": (b"1e400", 422),
    "a huge int": (b'{"a": 123456789012345678901234567890}', 422),
    "half a surrogate": (b'{"a": "\\ud800"}', 422),
}


@pytest.mark.parametrize("case", HOOK_BODIES)
async def test_a_bad_body_does_not_use_a_hook_up(client: Client, case: str) -> None:
    content, expected = HOOK_BODIES[case]
    run_id, path = await _hook(client, "hooked")
    answer = await client.post(path, content=content)
    assert answer.status_code == expected, answer.text
    _error(answer)
    assert (await _get(client, f"/api/runs/{run_id}"))["status"] == "waiting"
    assert (await client.post(path, json="good")).status_code == 202
    assert (await _reaches(client, run_id, "completed"))["output"]["trace"] == ['"good"']


# The description.


@memory_only
async def test_every_call_is_described(client: Client) -> None:
    described = await _get(client, "/openapi.json")
    assert "$defs" not in json.dumps(described)
    bodies = {
        path.removeprefix("/api/runs/{run_id}"): call["post"]["requestBody"]
        for path, call in described["paths"].items()
        if "post" in call
    }
    shapes = {
        path: sorted(body["content"]["application/json"]["schema"].get("properties", {}))
        for path, body in bodies.items()
    }
    assert shapes["/interrupt"] == shapes["/cancel"] == shapes[WEBHOOK + "{token}"] == []
    assert shapes["/resume"] == ["payload"]
    assert shapes["/signals/{name}"] == ["key", "payload"]
    assert shapes["/fork"] == ["checkpointId", "payload"]
    assert {"ifBusy", "retry", "timeoutSeconds"} <= set(shapes["/api/invoke"])
    required = {path for path, body in bodies.items() if body["required"]}
    assert required >= {"/api/invoke/async", "/api/invoke", "/fork", "/api/batches"}
    assert required.isdisjoint({"/interrupt", "/cancel", "/resume", "/signals/{name}", WEBHOOK + "{token}"})
    assert {"/api/runs/{run_id}/history", "/api/runs/{run_id}/activities"} <= set(described["paths"])
