"""Every block of code in the documentation is run by a test, or says what it needs that is not here.

Pages with a test of their own are named below, and are left to it. The others are run here: as a story in one shell
(`tests.docs.stories`), or command by command beside one server (`tests.docs.commands`).
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from langgraph.graph import START, StateGraph
from psycopg.conninfo import conninfo_to_dict
from typing_extensions import TypedDict

from orchestrator import OrchestratorSettings, open_orchestrator
from orchestrator.engine.graph_file import GraphFile
from tests.bench.__main__ import BENCHES
from tests.docs.__main__ import main as write_pages
from tests.docs.commands import Terminal, commands_of, run_python
from tests.docs.pages import DOCS, ROOT, Block, all_pages, blocks_of
from tests.docs.stories import play
from tests.postgres import free_port
from tests.servers import Server, serving
from tests.waiting import until

# Where a page's blocks of a language are run, if not here.
ELSEWHERE = {
    ("README.md", "python"): "unit/test_scripts.py",
    ("docs/backup.md", "sh"): "acceptance/test_backup_command.py",
    ("docs/batches.md", "python"): "integration/test_batch_pages.py",
    ("docs/kubernetes.md", "sql"): "acceptance/test_kubernetes.py",
    ("docs/migration.md", "python"): "integration/test_batch_pages.py",
    ("docs/runbook.md", "sh"): "acceptance/test_runbook.py",
    ("docs/transfer.md", "sh"): "integration/test_transfer_command.py",
    ("docs/transfer.md", "python"): "integration/test_transfer_command.py",
    ("docs/workers.md", "json"): "unit/test_workers_page.py",
    ("docs/runs.md", "js"): "acceptance/test_event_source.py",
}
STORIES = ("README.md", "docs/quickstart.md", "docs/workers.md", "docs/tracing.md")
FLAT = (
    "docs/runs.md",
    "docs/http-api.md",
    "docs/batches.md",
    "docs/monitoring.md",
    "docs/retention.md",
    "docs/rollout.md",
)
PYTHON = ("docs/quickstart.md", "docs/runs.md", "docs/workers.md")
# Shown, and not for anybody to run; what can be checked about them is checked below. `console` is for a terminal where
# something is in use that is not here, as its page says.
SHOWN = {"text", "console", "json", "toml", "dockerfile"}
EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
DATABASE = "postgresql://claude@localhost:5432/claude_studio"
# The quickstart's pauses: here the server is killed in the second stage, however long the first one takes.
MOMENTS = {
    "asyncio.sleep(2)": 'asyncio.sleep(600 if name == "search" and not os.path.exists("killed") else 0)',
    "sleep 5\n": 'until curl -s localhost:3456/api/invoke-status/status/first | grep \'"currentActivity":"search"\'\n'
    "do sleep 0.1; done\ntouch killed\n",
}


def every_block() -> Iterator[Block]:
    for page in all_pages():
        yield from blocks_of(page)


def blocks(page: str, language: str) -> list[Block]:
    return [block for block in blocks_of(ROOT / page) if block.language == language and not block.needs]


def uri_of(dsn: str) -> str:
    parts = conninfo_to_dict(dsn)
    return f"postgresql://{parts['user']}@{parts['host']}:{parts['port']}/{parts['dbname']}"


def test_the_generated_parts_are_what_the_code_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert write_pages(["--check"]) == 0, capsys.readouterr().err


def test_every_block_is_run_by_some_test() -> None:
    nobody = []
    for block in every_block():
        here = (block.language == "sh" and block.page in STORIES + FLAT) or (
            block.language == "python" and block.page in PYTHON
        )
        there = ELSEWHERE.get((block.page, block.language))
        if there:
            assert Path(block.page).name in (ROOT / "tests" / there).read_text(), f"{there} does not read {block.page}"
        if not (here or there or block.needs or block.language in SHOWN or only_scripts(block)):
            nobody.append(f"{block} ({block.language})")
    assert nobody == [], "run it in a test, or say what it needs in a comment: # needs Docker"


def only_scripts(block: Block) -> bool:
    """Whether it names scripts of this repository and packages to install, and nothing else: see below."""
    return block.language == "sh" and all(
        command.startswith(("./scripts/", "pip install ")) for command in commands_of(block)
    )


def test_scripts_benches_and_extras_that_are_named_exist() -> None:
    text = "\n".join(page.read_text() for page in [*all_pages(), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"])
    for script in set(re.findall(r"(?<![\w/])(?:\./)?(scripts/[\w-]+)\b(?!\.)", text)):
        assert (ROOT / script).exists(), script
    assert set(re.findall(r"\./scripts/bench ([a-z]\w*)", text)) <= BENCHES.keys()
    for extras in re.findall(r"(?:holdfast|\.)\[([\w,]+)\]", text):
        assert set(extras.split(",")) <= EXTRAS, extras


def test_json_that_is_shown_is_json() -> None:
    for block in every_block():
        if block.language == "json":
            whole = re.sub(r',? *…|"…": "…",? *', "", block.text)
            assert json.loads(whole) is not None, str(block)


def test_settings_that_are_shown_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that are lines of an `.env` file; a line that is there twice is an alternative."""
    for block in every_block():
        lines = block.text.strip().splitlines()
        if block.language == "text" and all(re.match(r"[A-Z_]+=", line) for line in lines):
            for name, value in (line.split("=", 1) for line in lines if "…" not in line):
                monkeypatch.setenv(name, value)
                OrchestratorSettings()
                assert name.lower() in OrchestratorSettings.model_fields, str(block)
                monkeypatch.delenv(name)


def one_graph(directory: Path) -> None:
    """A `langgraph.json` where the page takes it as given."""
    (directory / "langgraph.json").write_text(json.dumps({"graphs": {"noop": "tests.bench.served:noop"}}))


def test_the_readme(postgres_dsn: str, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "may.md").write_text("Acme Corporation acquired Globex in 2019.")
    health = Block("README.md", 0, "sh", "echo; curl -s localhost:3456/api/health/checkpointer; echo\n")
    given = {"POSTGRES_CONNECTION_STRING": postgres_dsn}
    printed = play([*blocks("README.md", "sh"), health], tmp_path, free_port(), given, {})
    assert '"statusUrl":' in printed
    [answer] = re.findall(r'^\{"status":"healthy".*\}$', printed, re.MULTILINE)
    _, shown = (json.loads(block.text) for block in blocks("README.md", "json")[:2])
    real = json.loads(answer)
    assert real["postgres"].keys() == shown["postgres"].keys()
    assert shown.keys() <= real.keys()


def test_the_quickstart(empty_dsn: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    given = {"POSTGRES_EMBEDDED_DIR": str(tmp_path / "pg"), "TMPDIR": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    page = blocks_of(DOCS / "quickstart.md")
    printed = play(page, tmp_path, free_port(), given, {DATABASE: uri_of(empty_dsn), **MOMENTS})
    [done] = re.findall(r'"done":(\[.*?\])', printed)
    stages, processes = zip(*(entry.split(" in process ") for entry in json.loads(done)), strict=True)
    assert stages == ("read", "search", "think", "answer")
    assert [process == processes[0] for process in processes] == [True, False, False, False]
    assert len(set(processes)) == 2
    [shown] = blocks("docs/quickstart.md", "json")
    assert all(f'"{key}":' in printed for key in json.loads(shown.text))


def test_the_pages_that_start_processes(postgres_dsn: str, tmp_path: Path) -> None:
    given = {"USE_POSTGRES_SAVER": "true", "POSTGRES_CONNECTION_STRING": postgres_dsn, "DRAIN_TIMEOUT": "0.5"}
    for page in ("docs/workers.md", "docs/tracing.md"):
        directory = tmp_path / Path(page).stem
        directory.mkdir()
        one_graph(directory)
        printed = play(blocks(page, "sh"), directory, free_port(), given, {})
        assert "Traceback" not in printed


GRAPHS = """
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

class State(TypedDict, total=False):
    amount: int
    approved: bool
    receipt: object
    pages: list

def one(name, node):
    return StateGraph(State).add_node(name, node, input_schema=State).add_edge(START, name)

asking = one("approve", approve)
paying = one("pay", pay)
fetching = one("fetch", fetch)
shopping = shop(one("approve", approve))
"""


@pytest.fixture
def pages_of_runs(tmp_path: Path) -> str:
    """A `langgraph.json` with the nodes that docs/runs.md shows."""
    shown = [block.text for block in blocks("docs/runs.md", "python") if "async for event" not in block.text]
    (tmp_path / "shown.py").write_text("\n".join([*shown, GRAPHS]))
    graphs = {name: f"./shown.py:{name}" for name in ("asking", "paying", "fetching", "shopping")}
    (tmp_path / "langgraph.json").write_text(json.dumps({"graphs": graphs}))
    return "langgraph.json"


@pytest.mark.usefixtures("pages_of_batches")
async def test_the_pages_beside_a_server(postgres_dsn: str, tmp_path: Path, pages_of_runs: str) -> None:
    given = {
        "USE_POSTGRES_SAVER": "true",
        "POSTGRES_CONNECTION_STRING": postgres_dsn,
        "RUN_KEEP_FOR": "30d",
        "DOCUMENTS_DIR": str(tmp_path),
    }
    async with serving(tmp_path, given, "--graphs", pages_of_runs) as server:
        await server.start()
        terminal = Terminal(tmp_path, given, server.port)
        stand_in = placeholders(server, tmp_path)
        await terminal.type("holdfast transfer --from postgres --to file:memory.jsonl")
        for page in FLAT:
            for block in blocks(page, "sh"):
                if not only_scripts(block):
                    for command in commands_of(block):
                        await terminal.type(await stand_in(command))


TEXT = "Acme Corporation acquired Globex in 2019."


@pytest.fixture
def pages_of_batches(tmp_path: Path) -> None:
    """The documents that docs/batches.md reads."""
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "a.md").write_text(TEXT)
    (tmp_path / "notes.txt").write_text(TEXT)


def placeholders(server: Server, directory: Path) -> Callable[[str], Awaitable[str]]:
    """What stands for RUN_ID and the like: of a run that waits where it is to be answered, else of one that ended."""

    batches: dict[bool, dict[str, str]] = {}

    async def stand_in(command: str) -> str:
        words = command.replace("/var/lib/holdfast/", f"{directory}/")
        if re.search(r"\b(BATCH|ENTITY|MERGE)_ID\b", words):
            if (is_open := "cancel" in words) not in batches:
                batches[is_open] = await (open_batch(server) if is_open else batch_that_is_over(server, directory))
            return replaced(words, batches[is_open])
        if not re.search(r"\b(RUN|THREAD|CHECKPOINT)_ID\b", words):
            return words
        if re.search(r"signal|history|fork", words):
            run = await server.invoke({"workflow": "asking", "input": {"amount": 3}})

            async def waits(url: str = run["statusUrl"]) -> bool:
                return bool((await server.get(url))["status"] == "waiting")

            await until(waits, what="the run waits")
        else:
            run = await server.invoke({"workflow": "fetching", "input": {"pages": [1, 2]}})
            await server.finished(run)
        checkpoints = (await server.get(f"/api/runs/{run['runId']}/history"))["checkpoints"]
        names = {"RUN_ID": run["runId"], "THREAD_ID": run["threadId"], "CHECKPOINT_ID": checkpoints[0]["checkpointId"]}
        return replaced(words, names)

    return stand_in


def replaced(words: str, names: dict[str, str]) -> str:
    return re.sub("|".join(names), lambda found: names[found[0]], words)


async def open_batch(server: Server) -> dict[str, str]:
    given = {"workflow": "batch", "input": {"documents": [{"text": TEXT}]}, "startAt": "9000-01-01T00:00:00Z"}
    return {"BATCH_ID": (await server.invoke(given))["runId"]}


async def batch_that_is_over(server: Server, directory: Path) -> dict[str, str]:
    """One that merged two spellings, and has a document that failed, but is mended by now."""
    texts = {"a.md": "Northwind Analytics GmbH employs John Smith.", "b.md": "", "c.md": "Northwind Analytic GmbH."}
    for name, text in texts.items():
        (directory / "reports" / name).write_text(text)
    answer = await server.client.post("/api/batches", json={"paths": ["reports"]})
    assert answer.status_code == 202, answer.text
    batch = await server.finished({**answer.json(), "runId": answer.json()["batchId"]})
    assert [row["name"] for row in batch["failedDocuments"]] == ["reports/b.md"]
    (directory / "reports" / "b.md").write_text(TEXT)
    [merge] = (await server.get(f"{batch['statusUrl']}/merges"))["merges"]
    return {"BATCH_ID": batch["batchId"], "MERGE_ID": merge["mergeId"], "ENTITY_ID": merge["absorbedId"]}


class State(TypedDict, total=False):
    pages: list[int]


async def test_the_code_of_the_pages() -> None:
    """With the names that the pages take as given, over the memory saver."""

    def nothing(state: State) -> State:
        return {}

    builder = StateGraph(State).add_node("nothing", nothing).add_edge(START, "nothing")
    async with open_orchestrator({"agent": builder, "reports": builder}) as orchestrator:
        run = await orchestrator.start_and_wait("agent", {})
        names: dict[str, Any] = {
            "orchestrator": orchestrator,
            "graphs": {"agent": builder, "reports": builder},
            "builder": builder,
            "task": {},
            "run_id": run.run_id,
            **{each.__name__: each for each in (datetime, timedelta)},
            "UTC": UTC,
            "asyncio": __import__("asyncio"),
        }
        await run_python([*blocks("docs/runs.md", "python"), *blocks("docs/workers.md", "python")], names)
    workflow = names["shop"](builder)
    assert workflow.retry.max_attempts == 3


def test_graph_files_that_are_shown_are_read(tmp_path: Path) -> None:
    for block in every_block():
        if block.language == "json" and '"graphs"' in block.text:
            (tmp_path / "langgraph.json").write_text(block.text)
            assert GraphFile.read(tmp_path / "langgraph.json").graphs
