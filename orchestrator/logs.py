"""Log lines for people (text) or machines (one JSON object a line), in which no secret stands.

    {"time", "level", "logger", "tag"?, "message",                       tag: what stood in [brackets] before it
     "run"?, "thread"?, "organization"?, "workflow"?, "attempt"?,        where the line belongs to a run
     "step"?,                                                            and to a step that a worker runs for it
     "trace"?, "span"?,                                                  where spans are made (orchestrator/tracing.py)
     "client"?, "method"?, "path"?, "status"?,                           of a request (LOG_ACCESS)
     "exception"?}                                                       the traceback, as one text

A line belongs to the run whose attempt wrote it: the machinery, or a node's own code by whatever logger, also in the
threads in which nodes run that are plain functions. A line of ours that names a run belongs to that one.

Messages and tracebacks go through `black_out`: what the settings hold as secret, in each of the ways in which texts
quote it, and what looks like one.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Literal

from checkpointer import tracing
from orchestrator.runs.failure import black_out, spellings
from orchestrator.runs.model import Run
from orchestrator.runs.steps import Step

__all__ = ["about_run", "about_step", "setup_logging"]

_TAGGED = re.compile(r"\[(Checkpointer|POSTGRES|WorkflowOrchestrator)\] ")
_NAMED_RUN = re.compile(r"\brun ([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})\b")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
_ACCESS = "uvicorn.access"
# Who knows a hook's token may post to it.
_HOOK = re.compile(r"(/webhook/)[^\s?\"]+")
# What stands in every text that `_HOOK` or `black_out` changes, in lower case.
_SUSPECT = (
    *("://", "bearer", "basic", "passw", "secret", "token", "key", "/webhook/"),
    *(f"{kind}{mark}" for kind in ("sk", "pk", "rk", "ghp", "gho", "xoxa", "xoxb", "xoxp") for mark in "-_"),
)
# Requests and prepared statements: noise beside the lines that matter.
_QUIET = ("uvicorn", "psycopg", "httpx", "asyncio")
# It warns of every single attempt to connect during an outage, which other lines tell once.
_QUIETER = ("psycopg.pool",)

_about: ContextVar[Mapping[str, object]] = ContextVar("holdfast_logged_about", default=MappingProxyType({}))


def about_run(run: Run) -> AbstractContextManager[None]:
    """What is logged in here, and in the tasks and threads that nodes are run in, belongs to this attempt."""
    return _being_about(
        {
            "run": run.run_id,
            "thread": run.thread_id,
            "organization": run.organization_id,
            "workflow": run.workflow_type,
            "attempt": run.attempt,
        }
    )


def about_step(step: Step) -> AbstractContextManager[None]:
    """`about_run` for an attempt of a step that a worker runs."""
    return _being_about({"run": step.run_id, "step": step.name, "attempt": step.attempt})


@contextmanager
def _being_about(what: Mapping[str, object]) -> Iterator[None]:
    token = _about.set(what)
    try:
        yield
    finally:
        _about.reset(token)


class _Veil:
    """Takes secrets out of texts."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = spellings(secrets)

    def over(self, text: str) -> str:
        """The text without secrets."""
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, "***")
        lowered = text.lower()
        # Most lines have nothing that looks like a secret, and looking closer takes longer than all the rest of a line.
        if any(mark in lowered for mark in _SUSPECT):
            text = _HOOK.sub(r"\1***", black_out(text, ()))
        return text


class _TextFormatter(logging.Formatter):
    def __init__(self, veil: _Veil) -> None:
        super().__init__("%(asctime)s.%(msecs)03d %(levelname)-7s %(message)s", datefmt="%H:%M:%S")
        self._veil = veil

    def format(self, record: logging.LogRecord) -> str:
        return self._veil.over(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:
        # What a node raised is part of some messages: it must not look like a line of its own, nor colour a terminal.
        return _CONTROL.sub(lambda found: repr(found[0])[1:-1], super().formatMessage(record))


class _JsonFormatter(logging.Formatter):
    def __init__(self, veil: _Veil) -> None:
        super().__init__()
        self._veil = veil

    def format(self, record: logging.LogRecord) -> str:
        message = self._veil.over(record.getMessage())
        tag = _TAGGED.match(message)
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
        }
        if tag:
            line["tag"] = tag[1]
        line["message"] = message[tag.end() :] if tag else message
        line |= {**_run_of(record, message), **_span(), **self._request(record)}
        if record.exc_info:
            line["exception"] = self._veil.over(self.formatException(record.exc_info))
        if record.stack_info:
            line["stack"] = self._veil.over(self.formatStack(record.stack_info))
        return json.dumps(line)

    def _request(self, record: logging.LogRecord) -> dict[str, object]:
        """The parts of one of uvicorn's access lines."""
        if record.name != _ACCESS or not isinstance(record.args, tuple) or len(record.args) != 5:
            return {}
        client, method, path, _, status = record.args
        return {"client": client, "method": method, "path": self._veil.over(str(path)), "status": status}


def _run_of(record: logging.LogRecord, message: str) -> Mapping[str, object]:
    """The run that a line belongs to."""
    about = _about.get()
    named = _NAMED_RUN.search(message) if record.name.startswith("orchestrator.") else None
    # Tasks of ours may have been made in any attempt: what the line says goes before where it is said.
    return about if named is None or about.get("run") == named[1] else {"run": named[1]}


def _span() -> dict[str, object]:
    """The ids of the span that the line is written in."""
    if tracing.tracer() is None:
        return {}
    from opentelemetry.trace import format_span_id, format_trace_id, get_current_span

    here = get_current_span().get_span_context()
    return {"trace": format_trace_id(here.trace_id), "span": format_span_id(here.span_id)} if here.is_valid else {}


def setup_logging(
    log_format: Literal["text", "json"] = "text",
    level: str = "INFO",
    *,
    access: bool = False,
    secrets: Iterable[str] = (),
) -> None:
    """Send every log line of the process to stderr, in one format, without `secrets`.

    With `access`, each request to the server is a line too.
    """
    handler = logging.StreamHandler(sys.stderr)
    veil = _Veil(secrets)
    handler.setFormatter(_JsonFormatter(veil) if log_format == "json" else _TextFormatter(veil))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(level)))
    for name in _QUIETER:
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger(_ACCESS).setLevel(logging.INFO if access else logging.NOTSET)
