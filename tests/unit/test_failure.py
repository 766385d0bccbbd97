from __future__ import annotations

import pytest

from orchestrator.runs.failure import MAX_TRACEBACK_CHARS, describe_failure


def _caught(error: Exception) -> Exception:
    try:
        raise error
    except Exception as exc:
        return exc


def test_type_message_and_traceback_are_kept() -> None:
    failure = describe_failure(_caught(ValueError("no such thing")))
    assert failure["type"] == "ValueError"
    assert failure["message"] == "no such thing"
    assert "in _caught" in failure["traceback"]


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("connect to postgresql://me:hunter22@db:5432/x failed", "hunter22"),
        ("connect to postgresql://me:p%40ss/w@db/x failed", "p%40ss/w"),
        ("Authorization: Bearer abc.def-ghi123", "abc.def-ghi123"),
        ("password=hunter22 host=db", "hunter22"),
        ('{"api_key": "hunter22"}', "hunter22"),
        ("OPENAI_API_KEY=hunter22", "hunter22"),
        ("key sk-proj-abcdefghijklmnop refused", "sk-proj-abcdefghijklmnop"),
        ("the word squeamish was sent", "squeamish"),
    ],
)
def test_secrets_are_blacked_out_everywhere(text: str, secret: str) -> None:
    failure = describe_failure(_caught(RuntimeError(text)), ["squeamish"])
    assert secret not in str(failure)
    assert "***" in failure["message"]


def test_a_long_traceback_keeps_its_end() -> None:
    failure = describe_failure(_caught(RuntimeError("x" * 20_000 + "the end")))
    assert len(failure["traceback"]) <= MAX_TRACEBACK_CHARS
    assert failure["traceback"].rstrip().endswith("the end")
