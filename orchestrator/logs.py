"""Log lines for people (text) or machines (one JSON object a line). Messages carry their own tag, such as
`[WorkflowOrchestrator]`; the JSON form takes it out into a field."""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Literal

__all__ = ["setup_logging"]

_TAGGED = re.compile(r"\[(Checkpointer|POSTGRES|WorkflowOrchestrator)\] ")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
# Requests and prepared statements: noise beside the lines that matter.
_QUIET = ("uvicorn", "psycopg", "httpx", "asyncio")
# It warns of every single attempt to connect during an outage, which other lines tell once.
_QUIETER = ("psycopg.pool",)


class _TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03d %(levelname)-7s %(message)s", datefmt="%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        # What a node raised is part of some messages: it must not look like a line of its own, nor colour a terminal.
        return _CONTROL.sub(lambda found: repr(found[0])[1:-1], super().formatMessage(record))


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        tag = _TAGGED.match(message)
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": message[tag.end() :] if tag else message,
        }
        if tag:
            line["tag"] = tag[1]
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def setup_logging(log_format: Literal["text", "json"] = "text", level: str = "INFO") -> None:
    """Send every log line of the process to stderr, in one format."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if log_format == "json" else _TextFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(level)))
    for name in _QUIETER:
        logging.getLogger(name).setLevel(logging.ERROR)
