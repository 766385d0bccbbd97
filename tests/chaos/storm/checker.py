"""Goes over everything at the end of a storm, when no fault is left and nothing is under way.

Each check gives what it finds wrong. Two kinds matter most: *lost* (a run that was accepted and is not there, not over,
or came to something else than its model) and *duplicated* (work or events that were kept, and done again).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import httpx

from checkpointer.postgres.queries import load_queries
from tests.chaos.fleet import Row
from tests.chaos.storm.load import Load
from tests.chaos.storm.model import expected_end
from tests.chaos.storm.system import System
from tests.checkpoints import SCHEMA
from tests.waiting import until

__all__ = ["CHECKS", "Execution", "Records", "Violation", "check_all", "executions_of", "violations"]

# What is checked → in words.
CHECKS = {
    "accepted": "every accepted run is there, with what it was given",
    "status": "every run is over, or waits for what never came",
    "state": "every state is the model's",
    "work": "no committed work was done again",
    "steps": "every step's result is the one that was used",
    "events": "events are numbered 1 to n without a gap",
    "watchers": "watchers saw every event once, in order",
    "heads": "no thread has two heads, or goes backward",
    "activities": "what is shown of nodes is what was run",
    "orphans": "no row belongs to nothing",
    "health": "the system says that it is healthy",
    "client": "no request was refused, no process ended by itself",
}
LOST = frozenset({"accepted", "status", "state"})
DUPLICATED = frozenset({"work", "steps"})
_OF_THE_STORM = {"saves", "loads", "errors"}
_HEALTHY_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Violation:
    """What `check` found wrong, of which run where it is one."""

    check: str
    what: str
    run_id: str | None = None


@dataclass(frozen=True, slots=True)
class Execution:
    """One time that a node was run, from the journal."""

    at: float
    pid: int
    run_id: str
    node: str
    token: str
    depth: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Records:
    """Everything that there is to be checked, as it was read."""

    runs: Sequence[Row]
    states: Sequence[Row]
    events: Sequence[Row]
    steps: Sequence[Row]
    executions: Mapping[str, Sequence[Execution]]

    @classmethod
    def of(cls, system: System) -> Records:
        """What is there now."""
        queries = load_queries("tests.chaos.storm", SCHEMA)
        runs, states, events, steps = (system.rows(queries[name]) for name in ("runs", "states", "events", "steps"))
        return cls(runs, states, events, steps, executions_of(system))


def executions_of(system: System) -> Mapping[str, Sequence[Execution]]:
    """Run → what was run of it, in order."""
    found: defaultdict[str, list[Execution]] = defaultdict(list)
    for entry in system.journal.entries(event="enter"):
        node, token, depth, attempt = entry.node.split()
        found[entry.run_id].append(
            Execution(entry.time, entry.pid, entry.run_id, node, token, int(depth), int(attempt))
        )
    return found


async def check_all(system: System, load: Load, records: Records) -> list[Violation]:
    """Everything that does not hold."""
    found = violations(records, load)
    found += await asyncio.to_thread(lambda: list(_tables(system)))
    return found + [Violation("health", what) for what in await _health(system)]


def violations(records: Records, load: Load) -> list[Violation]:
    """What the records show, compared with what the client was told."""
    found = list(_accepted(records, load))
    found += _ends(records)
    for run in records.runs:
        found += _work(run, records.executions.get(run["run_id"], ()))
    found += _steps(records)
    found += _events(records)
    found += _watchers(records, load)
    return found + [Violation("client", problem) for problem in load.problems]


def _accepted(records: Records, load: Load) -> Iterator[Violation]:
    rows = {row["run_id"]: row for row in records.runs}
    for run_id, accepted in load.accepted.items():
        row = rows.get(run_id)
        if row is None:
            yield Violation("accepted", f"{accepted.workflow} was accepted and is not there", run_id)
        elif (row["workflow_type"], row["input"]) != (accepted.workflow, accepted.given):
            yield Violation("accepted", f"was given {accepted.given} and has {row['input']}", run_id)


def _ends(records: Records) -> Iterator[Violation]:
    said: defaultdict[str, list[int]] = defaultdict(list)
    for run in records.runs:
        workflow, output = run["workflow_type"], run["output"]
        if workflow == "talk":
            said[run["thread_id"]] += run["input"]["said"]
        expected = expected_end(workflow, run["input"], said[run["thread_id"]])
        if run["status"] != expected.status:
            yield Violation(
                "status", f"{workflow} is {run['status']}, not {expected.status}: {run['error']}", run["run_id"]
            )
        elif expected.status == "completed":
            nodes = tuple(line.split()[0] for line in output["trace"])
            if (output["value"], nodes) != (expected.value, expected.nodes):
                what = f"{workflow} came to {output['value']} by {_names(nodes)}, not {expected.value} by "
                what += _names(expected.nodes)
                yield Violation("state", what, run["run_id"])


def _names(nodes: Sequence[str]) -> str:
    return " ".join(nodes) if len(nodes) < 12 else f"{len(nodes)} nodes"


def _work(run: Row, executions: Sequence[Execution]) -> Iterator[Violation]:
    """An attempt begins where those before it have ended, and the last time that a node is run is the one that is kept.

    An attempt that was frozen may run a node when a later one is at work already: what it does is refused, and counts
    for nothing.
    """
    newest = begun_at = deepest = 0
    for each in executions:
        if each.attempt < newest or not each.attempt:
            continue
        if each.attempt > newest:
            newest, begun_at = each.attempt, deepest
        if each.depth < begun_at:
            what = f"{each.node} was run again by attempt {each.attempt}, when its work was saved"
            yield Violation("work", what, run["run_id"])
        deepest = max(deepest, each.depth)
    if run["status"] != "completed":
        return
    kept = {line.split()[1] for line in run["output"]["trace"]}
    last = {each.node: each.attempt for each in executions if each.attempt and each.token in kept}
    for each in executions:
        if each.attempt and each.token not in kept and each.attempt >= last.get(each.node, 0):
            yield Violation("work", f"{each.node} was run by attempt {each.attempt}, which was not kept", run["run_id"])


def _steps(records: Records) -> Iterator[Violation]:
    used: defaultdict[str, set[str]] = defaultdict(set)
    for run in records.runs:
        if run["status"] == "completed" and run["workflow_type"] == "stepping":
            used[run["run_id"]] = {line.split()[1] for line in run["output"]["trace"] if line.startswith("double ")}
    begun: defaultdict[str, int] = defaultdict(int)
    for run_id, ran in records.executions.items():
        begun[run_id] = sum(each.node == "double" for each in ran)
    attempts: defaultdict[str, int] = defaultdict(int)
    for step in records.steps:
        attempts[step["run_id"]] += step["attempt"]
        if step["status"] != "completed":
            yield Violation("steps", f"a step is {step['status']}", step["run_id"])
        elif step["token"] not in used[step["run_id"]]:
            yield Violation("steps", "the result of a step is not the one that its run used", step["run_id"])
    for run_id, number in attempts.items():
        if begun[run_id] > number:
            yield Violation("steps", f"steps were run {begun[run_id]} times in {number} attempts", run_id)


def _events(records: Records) -> Iterator[Violation]:
    reached: defaultdict[str, int] = defaultdict(int)
    for row in records.events:
        run_id = row["run_id"]
        if row["first"] != reached[run_id] + 1 or row["held"] != row["number"] - row["first"] + 1:
            what = f"after event {reached[run_id]} come {row['held']}, numbered {row['first']} to {row['number']}"
            yield Violation("events", what, run_id)
        reached[run_id] = row["number"]
    for run in records.runs:
        if run["event_count"] != reached[run["run_id"]]:
            what = f"{run['event_count']} events were counted and {reached[run['run_id']]} are there"
            yield Violation("events", what, run["run_id"])


def _watchers(records: Records, load: Load) -> Iterator[Violation]:
    counts = {run["run_id"]: run["event_count"] for run in records.runs}
    for watched in load.watched:
        wanted = list(range(1, counts.get(watched.run_id, 0) + 1))
        if watched.seen != wanted:
            what = f"of {len(wanted)} events a watcher saw {_compact(watched.seen)}"
            yield Violation("watchers", what, watched.run_id)


def _compact(numbers: Sequence[int]) -> str:
    """`1-7, 9-12`."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(f"{first}-{last}" for first, last in spans) or "none"


def _tables(system: System) -> Iterator[Violation]:
    queries = load_queries("tests.chaos.storm", SCHEMA)
    for row in system.rows(queries["heads"]):
        yield Violation("heads", f"thread {row['thread_id']!r} has {row['heads']} heads ({row['checkpoint_ns']!r})")
    for row in system.rows(queries["backward"]):
        what = f"checkpoint {row['checkpoint_id']} of thread {row['thread_id']!r} has an id below its parent's"
        yield Violation("heads", what)
    for row in system.rows(queries["shared_threads"]):
        yield Violation("heads", f"thread {row['thread_id']!r} has two runs under way")
    for row in system.rows(queries["activities"]):
        yield Violation("activities", f"{row['activity']} {row['what']}", row["run_id"])
    for row in system.rows(queries["orphans"]):
        if row["n"]:
            yield Violation("orphans", f"{row['n']} in {row['table']}, such as {row['example']}")


async def _health(system: System) -> list[str]:
    """What is at fault; a process may take a while to find out that the server is back."""
    found = [f"no answer about health within {_HEALTHY_WITHIN_S:g} s"]

    async def is_healthy() -> bool:
        found[:] = [each async for each in _faults(system)]
        return not found

    with suppress(AssertionError):
        await until(is_healthy, timeout_s=_HEALTHY_WITHIN_S)
    return found


async def _faults(system: System) -> AsyncIterator[str]:
    try:
        for path in ("/api/health", "/api/health/ready", "/api/health/checkpointer"):
            answer = await system.api.client.get(path)
            if answer.status_code != 200:
                yield f"{path} answers {answer.status_code}: {answer.text[:300]}"
        if deep := await _deep(system):
            yield f"/api/health/deep: {'; '.join(deep)}"
    except httpx.TransportError as exc:
        yield f"no answer about health: {exc!r}"
    alive = await asyncio.to_thread(system.alive)
    if alive != len(system.servers):
        yield f"{alive} of {len(system.servers)} processes hold the lock that says they are alive"


async def _deep(system: System) -> list[str]:
    """What the deep examination finds at fault. How quick saves and loads were in the storm is no fault."""
    checks = (await system.api.client.get("/api/health/deep")).json()["checks"]
    failed = [each for each in checks if each["state"] == "fail" and each["name"] not in _OF_THE_STORM]
    return [f"{each['name']}: {each['message']}" for each in failed]
