"""The orchestrator bench's work: the same graph, and the same documents, with and without an orchestrator.

sync, async      `graph.ainvoke` on the orchestrator's own compiled graph and saver, with that durability
loop, threads    `ExtractionPipeline.run` in a plain loop; in a thread for each document
ours             `Orchestrator.start_and_wait`, whose attempts run with durability "sync"
"""

from __future__ import annotations

import asyncio
import operator
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, TypeAlias
from uuid import uuid4

from langchain_core.runnables import RunnableConfig
from langgraph.graph import StateGraph
from pydantic import SecretStr
from typing_extensions import TypedDict

from orchestrator import Orchestrator, OrchestratorSettings, open_orchestrator
from orchestrator.workflows.extraction import ExtractionPipeline, build_extraction
from tests.bench.contenders import Contender
from tests.bench.workloads import Crowd, Sample, Thread, in_a_row, texts
from tests.postgres import fresh_database

__all__ = ["DOCUMENTS", "LABELS", "NODES", "Documents", "Runs", "Way", "corpus", "open_ways"]

# Runs the workflow of this name on a payload, in a thread of its own; gives the output.
Way: TypeAlias = Callable[[str, Mapping[str, Any]], Awaitable[Any]]

LABELS = {
    "sync": "ainvoke, sync",
    "async": "ainvoke, async",
    "loop": "pipeline, plain loop",
    "threads": "pipeline, in threads",
    "ours": "Orchestrator",
}
NODES = 5
DOCUMENTS = 16
_NODE_S = {"20ms": 0.02, "noop": 0.0}
_EXTRACTION = "extraction"


class _State(TypedDict, total=False):
    task: str
    trace: Annotated[list[str], operator.add]


@asynccontextmanager
async def open_ways(admin_dsn: str) -> AsyncIterator[tuple[Orchestrator, dict[str, Contender[Way]]]]:
    """An orchestrator on a fresh database, and every way to do the work; those of LangGraph share its saver."""
    graphs = {name: _five_nodes(pause_s) for name, pause_s in _NODE_S.items()}
    with fresh_database(admin_dsn) as dsn:
        settings = OrchestratorSettings(use_postgres_saver=True, postgres_connection_string=SecretStr(dsn))
        async with open_orchestrator({**graphs, _EXTRACTION: build_extraction()}, settings=settings) as orchestrator:
            ways = {
                "sync": _invoking(orchestrator, "sync"),
                "async": _invoking(orchestrator, "async"),
                "loop": _in_a_loop,
                "threads": _in_threads,
                "ours": _through(orchestrator),
            }
            yield orchestrator, {name: _contender(name, way, dsn) for name, way in ways.items()}


def _contender(name: str, way: Way, dsn: str) -> Contender[Way]:
    return Contender(name, lambda: way, dsn)


def _five_nodes(pause_s: float) -> StateGraph[Any]:
    """Five nodes in a row, each of which takes its time and adds 1 KB to the state."""

    def node(number: int) -> Any:
        async def work(state: _State) -> dict[str, Any]:
            if pause_s:
                await asyncio.sleep(pause_s)
            return {"trace": [texts()[number]]}

        return work

    return in_a_row(StateGraph(_State), {f"node_{number}": node(number) for number in range(NODES)})


def _through(orchestrator: Orchestrator) -> Way:
    async def run(workflow: str, payload: Mapping[str, Any]) -> Any:
        ended = await orchestrator.start_and_wait(workflow, payload)
        if ended.status != "completed":
            raise AssertionError(f"a run of {workflow} ended as {ended.status}: {ended.error}")
        return ended.output

    return run


def _invoking(orchestrator: Orchestrator, durability: Literal["sync", "async"]) -> Way:
    async def run(workflow: str, payload: Mapping[str, Any]) -> Any:
        thread: RunnableConfig = {"configurable": {"thread_id": uuid4().hex}}
        return await orchestrator.graphs[workflow].graph.ainvoke(payload, thread, durability=durability)

    return run


async def _in_a_loop(workflow: str, payload: Mapping[str, Any]) -> Any:
    return ExtractionPipeline().run(payload["text"])


async def _in_threads(workflow: str, payload: Mapping[str, Any]) -> Any:
    return await asyncio.to_thread(ExtractionPipeline().run, payload["text"])


class Runs(Crowd[Way]):
    """Runs of a five-node graph whose nodes take `kind`, all at once."""

    def begin(self, subject: Way) -> Callable[[str, Sample], Thread]:
        async def run(_: str, sample: Sample) -> None:
            output = await subject(self.kind, {"task": "begin"})
            if len(output["trace"]) != NODES:
                raise AssertionError(f"a run ended with {len(output['trace'])} entries")

        return run


@dataclass(frozen=True)
class Documents(Crowd[Way]):
    """The extraction of a corpus of `total_bytes`, document by document, `threads` of them at a time."""

    total_bytes: int = 1_000_000

    @classmethod
    def at_once(cls, number: int, total_bytes: int) -> Documents:
        """The whole corpus, so many documents at a time."""
        return cls(_EXTRACTION, number, waves=DOCUMENTS // number, total_bytes=total_bytes)

    def begin(self, subject: Way) -> Callable[[str, Sample], Thread]:
        documents = iter(corpus(self.total_bytes))
        return lambda _, sample: self._extract(subject, next(documents))

    @staticmethod
    async def _extract(subject: Way, text: str) -> None:
        output = await subject(_EXTRACTION, {"text": text})
        if output["counts"]["characters"] != len(text):
            raise AssertionError(f"of {len(text)} characters {output['counts']['characters']} were read")


_PEOPLE = ("Ada", "Maria", "Noor", "Jonas", "Lucia", "Henrik", "Mei", "Tomas"), (
    "Keller", "Lovelace", "Okafor", "Brandt", "Rossi", "Nguyen", "Haugen", "Silva", "Novak", "Duarte", "Fischer",
)  # fmt: skip
_ORGANIZATIONS = ("Northwind", "Alder", "Kestrel", "Bluebay", "Granite", "Solstice"), (
    "Systems", "Institute", "Labs", "Bank", "University", "Logistics",
)  # fmt: skip
_TOOLS = ("PostgreSQL", "Redis", "LangGraph", "Kafka", "Kubernetes", "SQLite", "Python", "Docker", "Grafana", "OpenAPI")
_PLACES = ("Basel", "Lisbon", "Oslo", "Nairobi", "Kyoto", "Toronto", "Vienna", "Porto")
_SENTENCES = (
    "{person} founded {organization} in {place} on {day} May {year}.",
    "{organization} uses {tool}, {other} and `{code}`, and depends on {tool}.",
    "{organization} acquired {rival} in {year}, although {person} of {rival} had advised against it.",
    "The team around Dr. {person} migrated {number} services from {tool} to {other} within {day} weeks.",
    "What was slow before takes {number} ms now, which is {day}% of what it took in {year}.",
    "A write-ahead log (WAL) keeps {tool} honest; `{code}` reads it, as <https://example.org/{number}> explains.",
    "{person} is an engineer at {organization}, and lives in {place}.",
    "It took a while until everybody agreed that the old way of doing things had to go, for it had served well.",
)


@cache
def corpus(total_bytes: int) -> Sequence[str]:
    """Documents of together so many bytes, in Markdown, the same every time, each about people of its own."""
    size, rest = divmod(total_bytes, DOCUMENTS)
    return [_document(number, size + (number < rest)) for number in range(DOCUMENTS)]


def _document(number: int, size: int) -> str:
    chooser = random.Random(number)  # noqa: S311 - the same texts every time
    lines, length = [f"# Report {number}", ""], 0
    cast = [_words(chooser) for _ in range(12)]
    while length < size:
        sentences = (chooser.choice(_SENTENCES).format(**chooser.choice(cast)) for _ in range(chooser.randint(2, 7)))
        lines += [" ".join(sentences), ""]
        if chooser.random() < 0.1:
            lines += [f"## Part {len(lines)}", "", f"- {chooser.choice(_TOOLS)}", f"- {chooser.choice(_PLACES)}", ""]
        length = sum(map(len, lines)) + len(lines)
    return "\n".join(lines)[:size]


def _words(chooser: random.Random) -> dict[str, object]:
    """What the sentences about one matter are filled in with."""
    return {
        "person": " ".join(map(chooser.choice, _PEOPLE)),
        "organization": " ".join(map(chooser.choice, _ORGANIZATIONS)),
        "rival": " ".join(map(chooser.choice, _ORGANIZATIONS)),
        "tool": chooser.choice(_TOOLS),
        "other": chooser.choice(_TOOLS),
        "place": chooser.choice(_PLACES),
        "code": f"{chooser.choice(('load', 'save', 'open'))}_{chooser.choice(('run', 'index', 'page'))}()",
        "day": chooser.randint(1, 28),
        "year": chooser.randint(1990, 2024),
        "number": chooser.randint(2, 90),
    }
