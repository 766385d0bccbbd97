"""Bad input, by name, and what each gets: the list that `tests/acceptance/test_bad_input.py` sends and runs, and from
which the tables of `docs/errors.md` are made (`python -m tests.bad_input` writes them). Some of it only looks bad, and
is taken.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.api.body import MAX_BODY_BYTES

__all__ = [
    "COMMANDS",
    "FILES",
    "OTHERS_TOKEN",
    "PART",
    "REQUESTS",
    "SETTINGS",
    "TOKEN",
    "WORKER_TOKEN",
    "Command",
    "Request",
    "Setting",
    "tables",
]

PART = re.compile(r"(<!-- bad input: (\w+) -->\n\n)(.*?)(\n\n<!-- end -->)", re.DOTALL)
INVOKE = "/api/invoke/async"
WELL_KNOWN = "/.well-known/workflow/v1"
NOBODY = "01890000-0000-7000-8000-000000000000"
TOKEN, OTHERS_TOKEN = "the-token-of-this-test", "the-token-of-others"
WORKER_TOKEN = "the-worker-token-of-this-test"
AS_CLIENT = {"Authorization": f"Bearer {TOKEN}"}
AS_WORKER = {"Authorization": f"Bearer {WORKER_TOKEN}"}


@dataclass(frozen=True, slots=True)
class Request:
    """A request to a server. `DONE` in a path is a run that is over, `BUSY` one that waits on the thread `busy`."""

    name: str
    status: int
    code: str | None = None
    path: str = INVOKE
    method: str = "POST"
    body: Any = None
    raw: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def content(self) -> bytes | None:
        """What is sent."""
        return self.raw if self.body is None else json.dumps(self.body).encode()


@dataclass(frozen=True, slots=True)
class Command:
    """A command line and its exit code; `{dir}` is a directory of the test's own."""

    name: str
    code: int
    arguments: Sequence[str]
    says: str


@dataclass(frozen=True, slots=True)
class Setting:
    """Environment variables that no command starts with (exit code 2); the message names the variable."""

    name: str
    variables: Mapping[str, str]
    says: str


def start(name: str, status: int, code: str | None = None, **body: Any) -> Request:
    """A run of the workflow `chain`, started with this in the body."""
    return Request(name, status, code, body={"workflow": "chain", "input": {"text": "x"}} | body)


def get(name: str, status: int, code: str | None, path: str, **headers: str) -> Request:
    return Request(
        name, status, code, path, "GET", headers={key.replace("_", "-"): each for key, each in headers.items()}
    )


def post(name: str, status: int, code: str | None, path: str, body: Any = None, **more: Any) -> Request:
    return Request(name, status, code, path, body={} if body is None else body, **more)


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    return value


BODIES = (
    Request("a body that is not JSON", 400, "malformed_body", raw=b"workflow=chain"),
    Request("no body", 400, "malformed_body", raw=b""),
    Request("a body that is cut off", 400, "malformed_body", raw=b'{"workflow": "chain", "input"'),
    Request("NaN in a body", 400, "malformed_body", raw=b'{"workflow": "chain", "input": NaN}'),
    Request("a body that is not UTF-8", 400, "malformed_body", raw=b'{"workflow": "\xff\xfe"}'),
    Request("a body nested 100,000 deep", 400, "malformed_body", raw=b"[" * 100_000),
    Request(
        "a number of 5,000 digits", 400, "malformed_body", raw=b'{"workflow": "chain", "input": ' + b"9" * 5000 + b"}"
    ),
    Request("a body over 1 MiB", 413, "body_too_large", raw=b'"' + b"x" * MAX_BODY_BYTES + b'"'),
    Request("a list as the body", 422, "invalid_request", body=[1]),
    Request("null as the body", 422, "invalid_request", raw=b"null"),
    start("a field that is not known", 422, "invalid_request", thread="t"),
    start("a number as the workflow", 422, "invalid_request", workflow=5),
    start("a workflow that is not there", 404, "unknown_workflow", workflow="Robert'); DROP TABLE runs;--"),
    start("a workflow's name of 101 characters", 422, "invalid_request", workflow="x" * 101),
    Request("no input", 422, "invalid_request", body={"workflow": "chain"}),
    start("null as the input", 422, "invalid_payload", input=None),
    start("an input nested 101 deep", 422, "invalid_payload", input=nested(101)),
    start("an integer past 64 bits", 422, "invalid_payload", input={"n": 2**64}),
    start("half of a surrogate pair", 422, "invalid_payload", input={"text": "\ud800"}),
    start("NUL in the input", 202, input={"text": "a\0b"}),
    start("SQL in the input", 202, input={"text": "'; DROP TABLE workflow_metadata; --"}),
    start("role and task with an input", 422, "invalid_request", workflow={"role": "a", "task": "b"}),
    start("an empty thread id", 422, "invalid_request", threadId=""),
    start("NUL in a thread id", 422, "invalid_request", threadId="a\0b"),
    start("a line break in a thread id", 422, "invalid_request", threadId="a\nb"),
    start("half of a surrogate pair in a thread id", 422, "invalid_request", threadId="\udfff"),
    start("a thread id of 256 characters", 422, "invalid_request", threadId="x" * 256),
    start("a thread id of 1,000,000 characters", 422, "invalid_request", threadId="x" * 1_000_000),
    start("SQL as a thread id", 202, threadId="'; DROP TABLE checkpoints; --"),
    start("a path as a thread id", 202, threadId="../../etc/passwd"),
    start("another organization's thread as a thread id", 202, threadId="@acme/t"),
    start("a control character in an idempotency key", 422, "invalid_request", idempotencyKey="\x1b[31m"),
    start(
        "an idempotency key with another input", 409, "idempotency_conflict", idempotencyKey="once", input={"text": "y"}
    ),
    start("a way of being busy that is none", 422, "invalid_request", ifBusy="wait"),
    start("a busy thread, and not to wait for it", 409, "thread_busy", threadId="busy", ifBusy="reject"),
    start("a queue with a slash", 422, "invalid_request", queue="a/b"),
    start("a queue's name of 32 characters", 422, "invalid_request", queue="q" * 32),
    start("a priority past 32 bits", 422, "invalid_request", priority=2**31),
    start("a word as the priority", 422, "invalid_request", priority="high"),
    start("a time without a zone", 422, "invalid_request", startAt="2030-01-01T00:00:00"),
    start("a time in the year 9999", 422, "invalid_request", startAt="9999-12-31T23:59:59Z"),
    start("a time to wait below 0", 422, "invalid_request", timeoutSeconds=-1),
    start("no attempts", 422, "invalid_request", retry={"maxAttempts": 0}),
)
ADDRESSES = (
    get("a state that is none", 422, "invalid_request", "/api/runs?status=done"),
    get("a page of no runs", 422, "invalid_request", "/api/runs?limit=0"),
    get("a page of a million runs", 422, "invalid_request", "/api/runs?limit=1000000"),
    get("a cursor that nobody gave", 422, "invalid_request", "/api/runs?cursor=abc"),
    get("a cursor of SQL", 422, "invalid_request", "/api/runs?cursor=JyBPUiAxPTEgLS0="),
    get("a cursor that is not ASCII", 422, "invalid_request", "/api/runs?cursor=%C3%A9"),
    get("NUL in a query", 422, "invalid_request", "/api/runs?workflow=%00"),
    get("a run id that is no UUID", 404, "run_not_found", "/api/runs/1"),
    get("a run that is not there", 404, "run_not_found", f"/api/runs/{NOBODY}"),
    get("SQL as a run id", 404, "run_not_found", "/api/runs/1'%20OR%20'1'='1"),
    get("a path in the address", 404, "not_found", "/api/runs/..%2F..%2Fetc%2Fpasswd/x"),
    get("a thread that is not there", 404, "thread_not_found", "/api/invoke-status/status/nobody"),
    get("NUL in a thread's address", 404, "thread_not_found", "/api/invoke-status/status/%00"),
    get("bytes that are no UTF-8 in a thread's address", 404, "thread_not_found", "/api/invoke-status/status/%ff"),
    get("events after -1", 422, "invalid_request", "/api/runs/DONE/events?after=-1"),
    get("events after 2⁶³", 422, "invalid_request", f"/api/runs/DONE/events?after={2**63}"),
    get("a word as Last-Event-ID", 422, "invalid_request", "/api/runs/DONE/events", Last_Event_ID="abc"),
    get("Last-Event-ID of 51 digits", 422, "invalid_request", "/api/runs/DONE/events", Last_Event_ID="9" * 51),
    get("a superscript as Last-Event-ID", 422, "invalid_request", "/api/runs/DONE/events", Last_Event_ID="²"),
    get("more of a history than is given at once", 422, "invalid_request", "/api/runs/DONE/history?limit=100000"),
    get("an address that is none", 404, "not_found", "/admin"),
    Request("a method that an address does not take", 405, "method_not_allowed", "/api/runs", "DELETE"),
    post("a signal's name with a control character", 422, "invalid_request", "/api/runs/BUSY/signals/%07"),
    post("a signal's name that is Holdfast's own", 422, "invalid_request", "/api/runs/BUSY/signals/step:x"),
    post("a signal to a run that is over", 409, "illegal_transition", "/api/runs/DONE/signals/x"),
    post("resuming a run that is over", 409, "illegal_transition", "/api/runs/DONE/resume"),
    post("pausing a run that is over", 409, "illegal_transition", "/api/runs/DONE/interrupt"),
    post("a fork from nowhere", 422, "invalid_request", "/api/runs/DONE/fork"),
    post(
        "a fork from a checkpoint that is not there",
        404,
        "checkpoint_not_found",
        "/api/runs/DONE/fork",
        {"checkpointId": "x"},
    ),
    post("a batch of nothing", 422, "invalid_request", "/api/batches"),
    post("a batch of an empty list", 422, "invalid_request", "/api/batches", {"documents": []}),
    post(
        "a batch of paths and documents",
        422,
        "invalid_request",
        "/api/batches",
        {"paths": ["a"], "documents": [{"text": ""}]},
    ),
    post(
        "two documents of one id", 422, "invalid_request", "/api/batches", {"documents": [{"text": "", "id": "a"}] * 2}
    ),
    post("NUL in a path", 422, "invalid_request", "/api/batches", {"paths": ["a\0b"]}),
    get("merges after a word", 422, "invalid_request", f"/api/batches/{NOBODY}/merges?after=b"),
    get("an entity that is not there", 404, "entity_not_found", f"/api/entities/{NOBODY}"),
    get("SQL as an entity's id", 404, "entity_not_found", "/api/entities/'; DROP TABLE x"),
    post("undoing a merge that is not there", 404, "merge_not_found", f"/api/merges/{NOBODY}/undo"),
    get("a batch that is not there", 404, "batch_not_found", f"/api/batches/{NOBODY}"),
    get("a run that is no batch", 404, "batch_not_found", "/api/batches/DONE"),
    get("documents after -2", 422, "invalid_request", f"/api/batches/{NOBODY}/documents?after=-2"),
    get("an export of another kind", 422, "invalid_request", f"/api/batches/{NOBODY}/export?format=exe"),
    post("a hook's address that was never given out", 404, "hook_not_found", f"{WELL_KNOWN}/webhook/abc"),
    post("a hook's address with a quote", 404, "hook_not_found", f"{WELL_KNOWN}/webhook/a'b"),
)
TOKENS = (
    get("no token", 401, "unauthorized", "/api/runs"),
    get("a wrong token", 401, "unauthorized", "/api/runs", Authorization="Bearer wrong"),
    get("an empty token", 401, "unauthorized", "/api/runs", Authorization="Bearer "),
    get("a token as a password", 401, "unauthorized", "/api/runs", Authorization="Basic dG9rZW46"),
    get("a token without its scheme", 401, "unauthorized", "/api/runs", Authorization=TOKEN),
    get("WORKER_TOKEN for runs", 401, "unauthorized", "/api/runs", Authorization=f"Bearer {WORKER_TOKEN}"),
    get("deep health without a token", 401, "unauthorized", "/api/health/deep"),
    post("work without WORKER_TOKEN", 401, "unauthorized", f"{WELL_KNOWN}/flow"),
    post("an API token for work", 401, "unauthorized", f"{WELL_KNOWN}/flow", headers=AS_CLIENT),
    post("work that is no message", 422, "invalid_request", f"{WELL_KNOWN}/flow", headers=AS_WORKER),
    post(
        "a step sent as a flow",
        422,
        "invalid_request",
        f"{WELL_KNOWN}/flow",
        {"kind": "step", "id": NOBODY, "name": "x"},
        headers=AS_WORKER,
    ),
    get(
        "a run of another organization", 404, "run_not_found", "/api/runs/DONE", Authorization=f"Bearer {OTHERS_TOKEN}"
    ),
)
REQUESTS: Mapping[str, Sequence[Request]] = {"bodies": BODIES, "addresses": ADDRESSES, "tokens": TOKENS}

COMMANDS = (
    Command("a command that is none", 2, ["destroy"], "No such command"),
    Command("an option that is none", 2, ["serve", "--force"], "No such option"),
    Command("a port past 65535", 2, ["serve", "--port", "70000"], "PORT"),
    Command("a concurrency of 0", 2, ["worker", "--concurrency", "0"], "--concurrency"),
    Command("a queue of another alphabet", 2, ["worker", "--queues", "flow,Übung"], "queue takes"),
    Command("a graph file that is not there", 1, ["serve", "--graphs", "{dir}/none.json"], "none.json"),
    Command("two kinds of setup at once", 2, ["setup", "--sql", "--check"], "exclude each other"),
    Command("roles without --sql", 2, ["setup", "--roles"], "--roles goes with --sql"),
    Command("a database that is none", 2, ["setup", "--database-url", "mysql://localhost/x"], "--database-url"),
    Command("runs in the memory of a server that is not named", 2, ["runs", "ls"], "ask it with --url"),
    Command("an address that is none", 2, ["runs", "ls", "--url", "ftp://127.0.0.1"], "--url takes"),
    Command("an address with a password", 2, ["runs", "ls", "--url", "http://a:b@127.0.0.1"], "--url takes"),
    Command("a server that is not there", 1, ["health", "--url", "http://127.0.0.1:9"], "127.0.0.1:9"),
    Command("a time that is none", 2, ["prune", "--older-than", "soon"], "--older-than"),
    Command("runs that are never removed", 2, ["prune", "--older-than", "1d", "--status", "running"], "--status takes"),
    Command("a place that is none", 2, ["transfer", "--from", "redis://x", "--to", "postgres"], "--from"),
    Command("a place to itself", 2, ["transfer", "--from", "file:a.jsonl", "--to", "file:a.jsonl"], "name two places"),
)
FILES = (
    Command("a backup that is not there", 1, ["backup", "verify", "{dir}/none"], "none"),
    Command("a backup that is none", 1, ["backup", "verify", "{dir}/garbage"], "garbage"),
    Command("an empty backup", 1, ["backup", "verify", "{dir}/empty"], "empty"),
    Command("a directory as a backup", 1, ["backup", "verify", "{dir}"], "{dir}"),
    Command("a graph file that is not JSON", 1, ["serve", "--graphs", "{dir}/garbage"], "garbage"),
    Command("a graph file without graphs", 1, ["serve", "--graphs", "{dir}/no-graphs.json"], "graphs"),
    Command("a graph that is not in its file", 1, ["serve", "--graphs", "{dir}/lost-graph.json"], "lost"),
    Command(
        "a file of threads that is none",
        1,
        ["transfer", "--from", "file:{dir}/garbage.jsonl", "--to", "sqlite:{dir}/x"],
        "garbage",
    ),
    Command("a file of runs that is none", 1, ["runs", "verify", "{dir}/garbage.jsonl"], "garbage"),
)
SETTINGS = (
    Setting("a flag of maybe", {"USE_POSTGRES_SAVER": "maybe"}, "USE_POSTGRES_SAVER"),
    Setting("an address that all can reach, without tokens", {"HOST": "0.0.0.0"}, "API_TOKENS"),  # noqa: S104
    Setting("a port in hexadecimal", {"PORT": "0x50"}, "PORT"),
    Setting("a token without its organization", {"API_TOKENS": "secret"}, "API_TOKENS"),
    Setting("a token that is not ASCII", {"API_TOKENS": "schlüssel:acme"}, "API_TOKENS"),
    Setting("an organization with a slash", {"API_TOKENS": "secret:a/b"}, "API_TOKENS"),
    Setting("a token of two organizations", {"API_TOKENS": "secret:a,secret:b"}, "API_TOKENS"),
    Setting("a short WORKER_TOKEN", {"WORKER_TOKEN": "short"}, "WORKER_TOKEN"),
    Setting(
        "a connection string that is none", {"POSTGRES_CONNECTION_STRING": "nonsense"}, "POSTGRES_CONNECTION_STRING"
    ),
    Setting(
        "a bare @ in a password",
        {"POSTGRES_CONNECTION_STRING": "postgresql://u:p@ss@h/d"},
        "POSTGRES_CONNECTION_STRING",
    ),
    Setting("a URI as the host", {"POSTGRES_HOST": "postgresql://h"}, "POSTGRES_HOST"),
    Setting("SQL as the schema", {"POSTGRES_SCHEMA": 'x"; DROP SCHEMA public; --'}, "POSTGRES_SCHEMA"),
    Setting("PostgreSQL's own schema", {"POSTGRES_SCHEMA": "pg_catalog"}, "POSTGRES_SCHEMA"),
    Setting("a pool of -1", {"POSTGRES_POOL_MIN_SIZE": "-1"}, "POSTGRES_POOL_MIN_SIZE"),
    Setting("a pool that is larger at least than at most", {"POSTGRES_POOL_MIN_SIZE": "20"}, "POSTGRES_POOL_MAX_SIZE"),
    Setting("a time that never ends", {"POSTGRES_RETRY_FOR": "inf"}, "POSTGRES_RETRY_FOR"),
    Setting("a time that is no number", {"RUN_LEASE_SECONDS": "NaN"}, "RUN_LEASE_SECONDS"),
    Setting("a port without a host", {"USE_POSTGRES_SAVER": "true", "POSTGRES_PORT": "5432"}, "POSTGRES_HOST"),
    Setting("a compression that is none", {"CHECKPOINT_COMPRESSION": "gzip"}, "CHECKPOINT_COMPRESSION"),
    Setting("a time to keep that is none", {"RUN_KEEP_FOR": "long"}, "RUN_KEEP_FOR"),
    Setting("a share over 100 %", {"POSTGRES_SAVER_ROLLOUT_PERCENT": "101"}, "POSTGRES_SAVER_ROLLOUT_PERCENT"),
    Setting("a prefix with a space", {"JOB_PREFIX": "my jobs"}, "JOB_PREFIX"),
)


def tables(part: str) -> str:
    """A table of `docs/errors.md`."""
    if part == "settings":
        rows = [f"| {each.name} | `{_shown(each.variables)}` | 2 |" for each in SETTINGS]
        return "\n".join(["| setting | such as | exit code |", "|---|---|---|", *rows])
    if part in ("commands", "files"):
        given = COMMANDS if part == "commands" else FILES
        rows = [f"| {each.name} | `holdfast {' '.join(each.arguments)}` | {each.code} |" for each in given]
        return "\n".join(["| input | such as | exit code |", "|---|---|---|", *rows]).replace("{dir}/", "")
    rows = [
        f"| {each.name} | {each.status} | {f'`{each.code}`' if each.code else 'taken'} |" for each in REQUESTS[part]
    ]
    return "\n".join(["| request | status | code |", "|---|---|---|", *rows])


def _shown(variables: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in variables.items()).replace("|", "\\|")


def regenerated(text: str) -> str:
    """The page with the tables as they are now."""
    return PART.sub(lambda part: f"{part[1]}{tables(part[2])}{part[4]}", text)


if __name__ == "__main__":
    page = Path(__file__).parents[1] / "docs" / "errors.md"
    page.write_text(regenerated(page.read_text(encoding="utf-8")), encoding="utf-8")
