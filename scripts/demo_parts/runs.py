"""The documents, the runs made of them, and what a finished run says about where it ran."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from demo_parts.errors import DemoError
from demo_parts.server import Server

STAGES = ("chunk", "mentions", "entities", "relations", "assemble")
# The server takes bodies up to 1 MiB, and JSON makes text longer.
MAX_DOCUMENT_BYTES = 500_000


@dataclass(frozen=True)
class Document:
    """A text to read."""

    title: str
    text: str


@dataclass
class DemoRun:
    """A run as last seen; `done` counts its finished stages."""

    title: str
    thread_id: str
    run_id: str
    status: str = "pending"
    stage: str = ""
    done: int = 0
    done_at_kill: int = 0
    output: dict[str, Any] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        return self.status == "completed"

    def refresh(self, server: Server) -> None:
        """Ask the server where the run stands."""
        answer = server.get(f"/api/invoke-status/status/{self.thread_id}")
        if answer["runId"] != self.run_id:
            raise DemoError(f"thread {self.thread_id} has run {answer['runId']}; run {self.run_id} was started on it")
        self.status = str(answer["status"])
        if self.status in {"failed", "cancelled"}:
            raise DemoError(f"the run over {self.title} is {self.status}: {answer.get('error')}")
        self.stage = str(answer.get("currentActivity") or "")
        if self.finished:
            self.done, self.output = len(STAGES), answer["output"]
        elif self.stage in STAGES:
            self.done = max(self.done, STAGES.index(self.stage))


@dataclass(frozen=True)
class Evidence:
    """Which process ran the stages of one run, and what came out."""

    run: DemoRun
    before: tuple[str, ...]
    after: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """The entities found, the most often mentioned first."""
        entities = sorted(self.run.output["entities"], key=lambda entity: -int(entity["count"]))
        return [str(entity["name"]) for entity in entities]

    @property
    def relations(self) -> int:
        return len(self.run.output["relations"])


def read_documents(paths: list[Path]) -> list[Document]:
    """The files as documents; raises where one can't be used."""
    documents = []
    for path in paths:
        try:
            content = path.read_bytes()
            text = content.decode("utf-8")
        except OSError as exc:
            raise DemoError(f"{path} can't be read: {exc.strerror}") from exc
        except UnicodeDecodeError as exc:
            raise DemoError(f"{path} is not text in UTF-8; the demo takes text and Markdown") from exc
        if len(content) > MAX_DOCUMENT_BYTES:
            raise DemoError(f"{path} has {len(content)} bytes; the demo takes up to {MAX_DOCUMENT_BYTES}")
        if not text.strip():
            raise DemoError(f"{path} is empty")
        documents.append(Document(path.name, text))
    return documents


def submit(server: Server, document: Document, throttle_s: float) -> DemoRun:
    """Start a run over the document. `throttle_s` is a pause in every stage, so that it can be watched."""
    payload = {"text": document.text, "title": document.title, "throttleSeconds": throttle_s}
    answer = server.post("/api/invoke/async", {"workflow": "extraction", "input": payload})
    return DemoRun(document.title, thread_id=answer["threadId"], run_id=answer["runId"])


def examine(run: DemoRun, first_pid: int, second_pid: int, killed_at: datetime) -> Evidence:
    """See in the run's own trace that every stage ran once, on the right side of the kill."""
    trace = run.output["trace"]
    ran = tuple(entry["stage"] for entry in trace)
    if ran != STAGES:
        raise DemoError(f"{run.title}: expected each stage once, in order; ran: {', '.join(ran)}")
    before = tuple(entry["stage"] for entry in trace if entry["pid"] == first_pid)
    after = tuple(entry["stage"] for entry in trace if entry["pid"] == second_pid)
    if before + after != STAGES:
        raise DemoError(f"{run.title}: expected processes {first_pid}, then {second_pid}; the trace says {trace}")
    if len(before) < run.done_at_kill:
        raise DemoError(
            f"{run.title}: {run.done_at_kill} stages had been reported done before the kill, "
            f"but only {len(before)} of them were kept"
        )
    for entry in trace:
        if (entry["pid"] == first_pid) != (datetime.fromisoformat(entry["finishedAt"]) <= killed_at):
            raise DemoError(f"{run.title}: stage {entry['stage']} is on the wrong side of the kill: {entry}")
    return Evidence(run, before, after)
