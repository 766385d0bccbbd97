"""What each batch of transitions sends."""

from __future__ import annotations

from checkpointer.postgres.queries import load_queries
from orchestrator.runs.sender import QUERIES
from orchestrator.runs.transitions import _statements


def test_each_statement_is_short_enough_to_be_parsed_once() -> None:
    """psycopg keeps what it has made of a statement of at most 4,096 characters; a longer one is parsed every time."""
    statements = _statements(load_queries(QUERIES, "workflow_checkpoints"), pushes=True)
    assert {kind: len(text) for kind, text in statements.items() if len(text) > 4_096} == {}
    assert len(statements) == 13
