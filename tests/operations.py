"""A server under a service manager, runs in every state on it, and the scripts that operate it; for tests."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests import service
from tests.forking import fork_address, run_holdfast, write_command
from tests.postgres import free_port
from tests.servers import ROOT
from tests.waiting import until

__all__ = ["Cast", "Done", "Site", "site"]

GRAPHS = {"graphs": {name: f"./cast.py:{name}" for name in ("work", "asking", "shaky")}, "dependencies": ["."]}
CAST = """
import asyncio, operator
from pathlib import Path
from typing import Annotated, TypedDict

from langgraph.graph import START, StateGraph
from langgraph.types import RetryPolicy, interrupt

from orchestrator import Workflow


class State(TypedDict, total=False):
    text: str
    trace: Annotated[list[str], operator.add]


def one(state): return {"trace": ["one"]}


async def two(state):
    while not Path("open-" + state["text"]).exists():
        await asyncio.sleep(0.02)
    return {"trace": ["two"]}


def three(state): return {"trace": ["three"]}


def ask(state): return {"trace": [str(interrupt("go"))]}


def shaky(state):
    if Path("outage-" + state["text"]).exists():
        raise ConnectionError("there is an outage")
    return {"trace": ["mended"]}


work = StateGraph(State).add_sequence([one, two, three]).add_edge(START, "one")
asking = StateGraph(State).add_node(ask).add_edge(START, "ask")
later = RetryPolicy(initial_interval=3600, max_interval=3600, max_attempts=5, retry_on=ConnectionError)
shaky = Workflow(StateGraph(State).add_sequence([one, shaky]).add_edge(START, "one"), retry=later)
"""


@dataclass
class Done:
    """What a script has come to."""

    code: int
    output: str

    @property
    def verdict(self) -> str:
        """Its last line."""
        return self.output.rstrip().rpartition("\n")[2]


@dataclass
class Site:
    """A directory with the settings and the graphs of one server."""

    directory: Path
    client: httpx.AsyncClient
    url: str

    @property
    def env_file(self) -> Path:
        """The server's settings."""
        return self.directory / ".env"

    @property
    def file(self) -> Path:
        """Where a rollback has the runs."""
        return self.directory / "moved-runs.jsonl"

    @property
    def log(self) -> str:
        """What the server wrote, over all its lives."""
        return (self.directory / "server.log").read_text()

    def command(self, verb: str) -> str:
        """What tells the service manager."""
        words = ["-S", "-m", "tests.service", verb, str(self.directory), fork_address()]
        return f"PYTHONPATH={shlex.quote(str(ROOT))} {shlex.join([sys.executable, *words])}"

    @property
    def halves(self) -> list[str]:
        """The options for a server that can be stopped and started."""
        return ["--stop", self.command("stop"), "--start", self.command("start")]

    @property
    def environment(self) -> dict[str, str]:
        """Of scripts and commands that are run here."""
        path = f"{self.directory / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "HOLDFAST": str(self.directory / "bin/holdfast"), "COLUMNS": "200"}

    def spawn(self, script: str, *arguments: str) -> subprocess.Popen[str]:
        """Start one of `scripts/` here, with all that it starts in a group of its own."""
        return subprocess.Popen(
            [str(ROOT / "scripts" / script), *arguments],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,
        )

    async def run(self, script: str, *arguments: str) -> Done:
        """Run a script to its end."""
        process = self.spawn(script, *arguments)
        output, _ = await asyncio.to_thread(process.communicate, timeout=120)
        return Done(process.returncode, output)

    async def holdfast(self, *arguments: str) -> Done:
        """Run the command with the settings that are here."""
        done = await asyncio.to_thread(run_holdfast, arguments, cwd=self.directory, env=self.environment)
        assert done.returncode == 0, done.stderr + done.stdout
        return Done(done.returncode, done.stdout)

    async def kill_at(self, step: str, script: str, *arguments: str) -> None:
        """Run a script, and kill it and all that it has started where it begins with `step`."""
        process = self.spawn(script, *arguments)
        seen = await asyncio.to_thread(_until_step, process, step)
        os.killpg(process.pid, signal.SIGKILL)
        await asyncio.to_thread(process.communicate)
        assert seen is None, f"{script} did not come to {step}: {seen}"

    async def start(self) -> None:
        """Start the server, where it does not run, and wait until it is ready."""
        # By another process: this one is not to be its parent.
        await asyncio.to_thread(subprocess.run, ["sh", "-c", self.command("start")], check=True)
        await until(self._ready, timeout_s=60, what="the server is ready")

    async def stop(self) -> None:
        """Stop the server in good order."""
        await asyncio.to_thread(service.stop, self.directory)

    async def _ready(self) -> bool:
        try:
            return (await self.client.get("/api/health/ready")).status_code == 200
        except httpx.TransportError:
            return False

    async def saver(self) -> str:
        """The saver that the server says it uses."""
        return str((await self.client.get("/api/health/checkpointer")).json()["checkpointer"])

    async def begin(self, workflow: str, text: str, thread: str | None = None) -> str:
        """Start a run; its id."""
        body = {"workflow": workflow, "input": {"text": text}, "threadId": thread or text}
        answer = await self.client.post("/api/invoke/async", json=body)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["runId"])

    async def tell(self, run_id: str, what: str, payload: Any = None) -> None:
        """Interrupt, resume or signal a run."""
        answer = await self.client.post(
            f"/api/runs/{run_id}/{what}", json={} if payload is None else {"payload": payload}
        )
        assert answer.status_code in (200, 202), answer.text

    async def look(self, run_id: str) -> dict[str, Any]:
        """A run as the API shows it."""
        found: dict[str, Any] = (await self.client.get(f"/api/runs/{run_id}")).json()
        return found

    async def comes_to(self, run_id: str, wanted: str) -> dict[str, Any]:
        """The run, once it is in that state."""

        async def is_there() -> Any:
            run = await self.look(run_id)
            return run if run["status"] == wanted else None

        found: dict[str, Any] = await until(is_there, timeout_s=60, what=f"{run_id} is {wanted}")
        return found


def _until_step(process: subprocess.Popen[str], step: str) -> str | None:
    """None once the script begins with the step; all its output where it ends before."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        words = line.split()
        if words[:1] == ["==>"] and words[2] == f"{step}:":
            return None
    return "".join(seen)


@asynccontextmanager
async def site(directory: Path, dsn: str, settings: Mapping[str, str] | None = None) -> AsyncIterator[Site]:
    """A server that is not started yet, on the database; stopped at the end."""
    port = free_port()
    given = {"POSTGRES_CONNECTION_STRING": f"'{dsn}'", "PORT": str(port), "DRAIN_TIMEOUT": "0.3", **(settings or {})}
    lines = ["# the settings", "USE_POSTGRES_SAVER=true", *(f"{name}={value}" for name, value in given.items())]
    (directory / ".env").write_text("\n".join(lines) + "\n")
    (directory / ".env").chmod(0o600)
    (directory / "bin").mkdir()
    write_command(directory / "bin/holdfast")
    (directory / "langgraph.json").write_text(json.dumps(GRAPHS))
    (directory / "cast.py").write_text(CAST)
    url = f"http://127.0.0.1:{port}"
    headers = {"Connection": "close"}
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False, headers=headers) as client:
        place = Site(directory, client, url)
        try:
            yield place
        finally:
            if (pid := service.running(directory)) is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@dataclass
class Cast:
    """A run in each unfinished state; `name` tells several casts apart."""

    site: Site
    name: str
    runs: dict[str, str] = field(default_factory=dict)

    async def appear(self) -> None:
        """Bring every run into its state."""
        site, name = self.site, self.name
        for run in ("suspended", "paused"):
            (site.directory / f"outage-{run}-{name}").touch()
        self.runs = {
            "running": await site.begin("work", f"running-{name}", f"busy-{name}"),
            "waiting": await site.begin("asking", f"waiting-{name}"),
            "suspended": await site.begin("shaky", f"suspended-{name}"),
            "paused": await site.begin("shaky", f"paused-{name}"),
        }
        await until(self._is_in_two, timeout_s=60, what="the run is in its node")
        self.runs["pending"] = await site.begin("work", f"pending-{name}", f"busy-{name}")
        # What is between two attempts rests at once; a run in a node may be past the last one before it hears.
        await site.comes_to(self.runs["paused"], "suspended")
        await site.tell(self.runs["paused"], "interrupt")
        await self.is_as_before()

    async def _is_in_two(self) -> bool:
        return (await self.site.look(self.runs["running"])).get("currentActivity") == "two"

    async def is_as_before(self) -> None:
        """Each run is, or comes to be, in the state it is named after."""
        for wanted, run_id in self.runs.items():
            await self.site.comes_to(run_id, wanted)

    async def end(self) -> None:
        """Give every run what it lacks; each ends as it would have."""
        site, name = self.site, self.name
        for run in ("running", "pending"):
            (site.directory / f"open-{run}-{name}").touch()
        for run in ("suspended", "paused"):
            (site.directory / f"outage-{run}-{name}").unlink()
        await site.tell(self.runs["waiting"], "signals/go", f"yes-{name}")
        await site.tell(self.runs["paused"], "resume")
        await site.tell(self.runs["suspended"], "resume")
        await self.has_ended()

    async def has_ended(self) -> None:
        """Each run is over, with the state that it would have had without any move."""
        steps = ["one", "two", "three"]
        expected: Mapping[str, Sequence[str]] = {
            "running": steps,
            "pending": steps * 2,  # the second run of its thread
            "paused": ["one", "mended"],
            "waiting": [f"yes-{self.name}"],
            "suspended": ["one", "mended"],
        }
        ended = {run: await self.site.comes_to(run_id, "completed") for run, run_id in self.runs.items()}
        assert {run: each["output"]["trace"] for run, each in ended.items()} == expected
