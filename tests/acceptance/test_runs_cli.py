"""`holdfast runs …` against a real server: over HTTP, and straight on its database."""

from __future__ import annotations

import asyncio
import json
import os
import pty
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from tests.forking import Forked, fork_holdfast, run_holdfast
from tests.servers import ROOT, Server, serving
from tests.waiting import until

GRAPHS = """
import operator, time
from pathlib import Path
from typing import Annotated, TypedDict
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

class State(TypedDict, total=False):
    gates: str
    trace: Annotated[list[str], operator.add]

def step(name):
    def run(state: State) -> State:
        while not (Path(state["gates"]) / name).exists():
            time.sleep(0.01)
        return {"trace": [name]}
    return run

def ask(state: State) -> State:
    return {"trace": [str(interrupt({"signal": "approval", "question": "go on?"}))]}

def again(state: State) -> State:
    if (Path(state["gates"]) / "two").exists():
        return {"trace": ["two"]}
    time.sleep(0.2)
    return {}

def fail(state: State) -> State:
    raise ValueError("this is broken")

gated = StateGraph(State).add_node("one", step("one")).add_node("two", step("two"))
gated = gated.add_edge(START, "one").add_edge("one", "two")
# Whoever is to pause it need not be heard at once: it comes to a checkpoint again and again.
stepping = StateGraph(State).add_node("one", step("one")).add_node("two", again)
stepping = stepping.add_edge(START, "one").add_edge("one", "two")
stepping = stepping.add_conditional_edges("two", lambda state: END if "two" in state["trace"] else "two", ["two", END])
approval = StateGraph(State).add_node("ask", ask).add_edge(START, "ask")
failing = StateGraph(State).add_node("broken", fail).add_edge(START, "broken")
"""
NAMES = ["gated", "stepping", "approval", "failing"]
NO_RUN = "0199c0de-0000-7000-8000-000000000000"


@pytest.fixture
def graphs(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(GRAPHS)
    (tmp_path / "langgraph.json").write_text(json.dumps({"graphs": {name: f"./mine.py:{name}" for name in NAMES}}))
    return "langgraph.json"


@pytest.fixture
async def server(tmp_path: Path, graphs: str) -> AsyncIterator[Server]:
    """A server that keeps its runs in memory."""
    async with serving(tmp_path, {"DRAIN_TIMEOUT": "0.5"}, "--graphs", graphs) as server:
        await server.start()
        yield server


@pytest.fixture
def durable(postgres_dsn: str) -> dict[str, str]:
    return {"USE_POSTGRES_SAVER": "true", "POSTGRES_CONNECTION_STRING": postgres_dsn, "DRAIN_TIMEOUT": "0.5"}


def _environment(**more: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "200"} | more


class Cli:
    """`holdfast runs` in a directory, with the same options and environment each time."""

    def __init__(self, directory: Path, *options: str, **environment: str) -> None:
        self._directory = directory
        self._options = options
        self._environment = _environment(**environment)

    async def __call__(self, *arguments: str, code: int = 0) -> str:
        """What it prints; `code` is how it is to exit."""
        out, _ = await self._ended(arguments, code)
        return out

    async def json(self, *arguments: str, code: int = 0) -> Any:
        """What it prints for machines."""
        return json.loads(await self(*arguments, "--json", code=code))

    async def complaint(self, *arguments: str, code: int) -> str:
        """The one line on stderr of a command that fails."""
        out, err = await self._ended(arguments, code)
        assert (out, err.count("\n"), err.partition(" ")[0]) == ("", 1, "holdfast:"), err
        return err

    async def _ended(self, arguments: Sequence[str], code: int) -> tuple[str, str]:
        command = ["runs", *arguments, *self._options]
        ended = await asyncio.to_thread(run_holdfast, command, cwd=self._directory, env=self._environment)
        assert ended.returncode == code, (arguments, ended.stdout, ended.stderr)
        return ended.stdout, ended.stderr

    def spawn(self, *arguments: str, stdout: IO[bytes]) -> Forked:
        """The command as a process under way."""
        command = ["runs", *arguments, *self._options]
        with Path(os.devnull).open("wb") as nowhere:
            return fork_holdfast(command, cwd=self._directory, env=self._environment, stdout=stdout, stderr=nowhere)

    @contextmanager
    def piped(self, *arguments: str) -> Iterator[tuple[Forked, IO[bytes]]]:
        """The command as a process under way, and what it prints."""
        read, write = os.pipe()
        with open(read, "rb") as printed:
            with open(write, "wb") as out:
                process = self.spawn(*arguments, stdout=out)
            try:
                yield process, printed
            finally:
                process.kill()


async def _started(server: Server, workflow: str, **more: Any) -> str:
    return str((await server.invoke({"workflow": workflow, "input": {}, **more}))["runId"])


def _url(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}"


async def test_a_human_approves_from_the_command_line(server: Server, tmp_path: Path) -> None:
    runs = Cli(tmp_path, "--url", _url(server))
    run_id = await _started(server, "approval")
    assert (await runs("watch", run_id, code=3)).splitlines()[-1].startswith("waiting, for approval  ")
    shown = await runs("show", run_id)
    assert 'waitingFor        approval: {"signal": "approval", "question": "go on?"} (interrupt ' in shown

    kept = await runs("signal", run_id, "aproval", "--payload", "1")
    assert kept.startswith("kept: nothing waits for 'aproval' yet, but for approval\n")
    assert "signals           aproval: 1 (kept for a wait to come, sent 20" in await runs("show", run_id)
    sent = await runs.json("signal", run_id, "approval", "--payload", '{"ok": true}', "--key", "k")
    assert (sent["runId"], sent["waitingFor"]) == (run_id, None)
    done = await runs.json("watch", run_id)
    assert (done["status"], done["output"]["trace"]) == ("completed", ["{'ok': True}"])
    assert [(signal["status"], signal["key"]) for signal in done["signals"]] == [("kept", None), ("delivered", "k")]
    assert done == await runs.json("show", run_id)

    header, *activities = (await runs("activities", run_id)).splitlines()
    assert header.split()[:3] == ["activity", "attempt", "status"]
    assert [line.split()[0] for line in activities] == ["ask", "ask"]
    asked, answered = (await runs.json("activities", run_id))["activities"]
    assert (asked["status"], answered["status"]) == ("interrupted", "completed")


async def test_history_and_fork_from_the_command_line(server: Server, tmp_path: Path) -> None:
    runs = Cli(tmp_path, "--url", _url(server))
    run_id = await _started(server, "approval")
    await runs("watch", run_id, code=3)
    assert (await runs("resume", run_id, "--payload", '"yes"')).startswith(f"run {run_id} is ")
    assert (await runs("watch", run_id)).splitlines()[-1].startswith("completed")

    checkpoints = (await runs.json("history", run_id))["checkpoints"]
    assert [(each["step"], each["next"]) for each in checkpoints] == [(1, []), (0, ["ask"]), (-1, ["__start__"])]
    header, newest = (await runs("history", run_id, "--limit", "1")).splitlines()
    assert header.startswith("step  checkpoint")
    assert checkpoints[0]["checkpointId"] in newest
    assert "the end" in newest
    fork = await runs.json("fork", run_id, checkpoints[1]["checkpointId"])
    assert (fork["parentRunId"], fork["runId"] != run_id) == (run_id, True)
    await runs("watch", fork["runId"], code=3)
    await runs("resume", fork["runId"], "--payload", '"no"')
    assert (await runs.json("watch", fork["runId"]))["output"]["trace"] == ["no"]
    assert (await runs.json("show", run_id))["output"]["trace"] == ["yes"]
    assert "has no checkpoint 'none'" in await runs.complaint("fork", run_id, "none", code=1)


async def test_the_ends_of_a_watch(server: Server, tmp_path: Path) -> None:
    runs = Cli(tmp_path, "--url", _url(server))
    failed = await _started(server, "failing")
    assert (
        (await runs("watch", failed, code=1))
        .splitlines()[-1]
        .startswith("failed, ValueError: this is broken  activity broken  attempt 1")
    )
    cancelled = await _started(server, "approval")
    await runs("watch", cancelled, code=3)
    assert await runs("cancel", cancelled) == f"run {cancelled} is cancelled\n"
    assert (await runs.json("watch", cancelled, code=1))["status"] == "cancelled"
    refused = await runs.complaint("interrupt", cancelled, code=1)
    assert refused == "holdfast: a run that is cancelled can't become paused\n"


async def test_what_is_wrong_is_one_line(server: Server, tmp_path: Path) -> None:
    runs = Cli(tmp_path, "--url", _url(server))
    commands = [["watch"], ["activities"], ["history"], ["interrupt"], ["resume"], ["cancel"], ["signal", "x"]]
    unknown = [runs.complaint(command, NO_RUN, *more, code=1) for command, *more in commands]
    assert set(await asyncio.gather(*unknown)) == {f"holdfast: there is no run '{NO_RUN}'\n"}
    taking = [["resume", NO_RUN], ["signal", NO_RUN, "x"], ["fork", NO_RUN, "x"]]
    payloads = [("{", taking[0]), ("yes", taking[1]), ("NaN", taking[2]), ("", taking[0]), ("'x'", taking[1])]
    malformed = [runs.complaint(*command, f"--payload={payload}", code=2) for payload, command in payloads]
    assert ["--payload takes JSON" in complaint for complaint in await asyncio.gather(*malformed)] == [True] * 5
    gone = Cli(tmp_path, "--url", "http://127.0.0.1:9")
    assert "is the server running?" in await gone.complaint("cancel", NO_RUN, code=1)
    assert "--url" in await Cli(tmp_path).complaint("watch", NO_RUN, code=2)


async def test_a_pipe_gets_a_line_per_change(server: Server, tmp_path: Path) -> None:
    runs = Cli(tmp_path, "--url", _url(server))
    run_id = await _started(server, "gated", input={"gates": str(tmp_path)})
    with runs.piped("watch", run_id) as (watching, printed):
        lines: list[str] = []
        while not lines or "activity one" not in lines[-1]:
            lines.append((await asyncio.to_thread(printed.readline)).decode())
            assert lines[-1], lines
        (tmp_path / "one").touch()
        lines.append((await asyncio.to_thread(printed.readline)).decode())
        (tmp_path / "two").touch()
        lines += (await asyncio.to_thread(printed.read)).decode().splitlines(keepends=True)
        assert await asyncio.to_thread(watching.wait, 60) == 0
    assert [line.strip() for line in lines][-3:] == [
        "running  activity one  attempt 1",
        "running  activity two  attempt 1",
        "completed  attempt 1",
    ]


async def test_a_terminal_gets_one_line_that_changes(server: Server, tmp_path: Path) -> None:
    runs = Cli(tmp_path, "--url", _url(server), TERM="xterm")
    run_id = await _started(server, "gated", input={"gates": str(tmp_path)})
    ours, theirs = pty.openpty()
    shown = bytearray()

    async def shows(text: str) -> None:
        while text.encode() not in shown:
            shown.extend(await asyncio.wait_for(asyncio.to_thread(os.read, ours, 4096), 60))

    try:
        with open(theirs, "wb", closefd=False) as terminal:  # noqa: ASYNC230
            watching = runs.spawn("watch", run_id, stdout=terminal)
        try:
            await shows("activity one")
            (tmp_path / "one").touch()
            (tmp_path / "two").touch()
            await shows("completed")
            assert await asyncio.to_thread(watching.wait, 60) == 0
        finally:
            watching.kill()
    finally:
        os.close(ours)
        os.close(theirs)
    assert b"\x1b[2K" in shown


async def test_a_watch_outlives_its_server(durable: dict[str, str], graphs: str, tmp_path: Path) -> None:
    async with serving(tmp_path, durable, "--graphs", graphs) as server:
        await server.start()
        runs = Cli(tmp_path, "--url", _url(server))
        run_id = await _started(server, "gated", input={"gates": str(tmp_path)})
        with runs.piped("watch", run_id) as (watching, printed):
            await asyncio.to_thread(printed.readline)
            await server.kill()
            await server.start()
            (tmp_path / "one").touch()
            (tmp_path / "two").touch()
            rest = await asyncio.to_thread(printed.read)
            assert await asyncio.to_thread(watching.wait, 60) == 0
    assert rest.decode().splitlines()[-1] == "completed  attempt 2"


async def test_straight_on_the_database_a_live_server_is_told(
    durable: dict[str, str], graphs: str, tmp_path: Path
) -> None:
    async with serving(tmp_path, durable, "--graphs", graphs) as server:
        await server.start()
        runs = Cli(tmp_path, **durable)
        run_id = await _started(server, "stepping", input={"gates": str(tmp_path)})

        async def in_one() -> bool:
            return bool((await server.get(f"/api/runs/{run_id}"))["currentActivity"] == "one")

        await until(in_one)
        asked = await runs("interrupt", run_id)
        assert asked == f"run {run_id} is running, pauses at its next checkpoint\n"
        (tmp_path / "one").touch()
        assert (await runs.json("watch", run_id, code=3))["status"] == "paused"
        (tmp_path / "two").touch()
        assert await runs("resume", run_id) == f"run {run_id} is pending\n"
        done = await runs.json("watch", run_id)
        assert (done["status"], done["output"]["trace"]) == ("completed", ["one", "two"])
        assert done == await server.get(f"/api/runs/{run_id}")
        first, *others = (each["activity"] for each in (await runs.json("activities", run_id))["activities"])
        assert (first, set(others)) == ("one", {"two"})
        for command in (["history", run_id], ["fork", run_id, done["lastCheckpointId"]]):
            assert "--url" in await runs.complaint(*command, code=2)

        approval = await _started(server, "approval")
        await runs("watch", approval, code=3)
        await runs("signal", approval, "approval", "--payload", '"yes"', "--key", "k")
        assert (await runs.json("watch", approval))["output"]["trace"] == ["yes"]
        await runs("signal", approval, "approval", "--payload", '"yes"', "--key", "k")
        assert "is completed" in await runs.complaint("signal", approval, "approval", "--payload", "2", code=1)
        assert "signal name" in await runs.complaint("signal", approval, "x" * 300, code=2)
        assert "no run" in await runs.complaint("cancel", "nonsense", code=1)
        assert "no run" in await runs.complaint("activities", NO_RUN, code=1)


async def test_cancelling_in_the_database_stops_the_attempt(
    durable: dict[str, str], graphs: str, tmp_path: Path
) -> None:
    async with serving(tmp_path, durable, "--graphs", graphs) as server:
        await server.start()
        runs = Cli(tmp_path, **durable)
        run_id = await _started(server, "gated", input={"gates": str(tmp_path)}, threadId="t")
        await until(lambda: "activity one started" in server.log)
        assert (await runs.json("cancel", run_id))["status"] == "cancelled"
        # Its thread is free at once, though its node may still be at it.
        (tmp_path / "one").touch()
        (tmp_path / "two").touch()
        next_id = await _started(server, "gated", input={"gates": str(tmp_path)}, threadId="t")
        assert (await runs.json("watch", next_id))["status"] == "completed"
        assert (await runs.json("show", run_id))["status"] == "cancelled"
