from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from orchestrator.logs import setup_logging


@pytest.fixture(autouse=True)
def _logging_is_put_back() -> Iterator[None]:
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    for handler in handlers:
        # basicConfig(force=True) closes what it removes.
        root.removeHandler(handler)
    yield
    root.setLevel(level)
    for handler in list(root.handlers):
        root.removeHandler(handler)
    for handler in handlers:
        root.addHandler(handler)


def test_json_lines_have_the_tag_apart(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("json")
    logging.getLogger("checkpointer.factory").info("[Checkpointer] PostgresSaver enabled (pool %d)", 3)
    logging.getLogger("other").error("plain\nand two lines")
    tagged, plain = map(json.loads, capsys.readouterr().err.splitlines())
    assert (tagged["tag"], tagged["message"]) == ("Checkpointer", "PostgresSaver enabled (pool 3)")
    assert tagged["level"] == "INFO"
    assert plain["message"] == "plain\nand two lines"
    assert "tag" not in plain


def test_text_lines_keep_it(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("text", "WARNING")
    logging.getLogger("orchestrator").warning("[WorkflowOrchestrator] run x failed")
    logging.getLogger("orchestrator").info("[WorkflowOrchestrator] not shown")
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("WARNING [WorkflowOrchestrator] run x failed")


def test_a_text_line_stays_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("text")
    logging.getLogger("orchestrator").error("run x failed: %s", "a\nb\r\x1b[31mc\x00\u2028d\té")
    assert capsys.readouterr().err.endswith("failed: a\\nb\\r\\x1b[31mc\\x00\\u2028d\té\n")


def test_a_traceback_keeps_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("text")
    logging.getLogger("orchestrator").error("failed", exc_info=ValueError("why"))
    assert capsys.readouterr().err.splitlines()[-1] == "ValueError: why"
