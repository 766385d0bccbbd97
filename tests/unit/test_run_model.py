from __future__ import annotations

from datetime import UTC, datetime
from itertools import product
from uuid import UUID

import pytest

from orchestrator.errors import IllegalTransitionError, InvalidRequestError, RunNotFoundError
from orchestrator.runs.model import (
    FINAL,
    SETTLED,
    UNFINISHED,
    Run,
    RunStatus,
    check_identifier,
    new_run_id,
    parse_run_id,
    require_transition,
)

LEGAL = {
    "pending": "running cancelled",
    "running": "pending completed failed cancelled waiting paused suspended",
    "waiting": "pending cancelled",
    "paused": "pending cancelled",
    "suspended": "pending paused cancelled",
    "failed": "pending",
    "completed": "",
    "cancelled": "",
}


def _run(organization_id: str, thread_id: str, status: RunStatus = RunStatus.PENDING) -> Run:
    now = datetime.now(UTC)
    return Run(
        run_id=new_run_id(),
        thread_id=thread_id,
        organization_id=organization_id,
        workflow_type="w",
        status=status,
        input={},
        max_attempts=3,
        saver="MemorySaver",
        created_at=now,
        updated_at=now,
    )


@pytest.mark.parametrize(("current", "target"), list(product(RunStatus, RunStatus)))
def test_a_transition_is_legal_exactly_where_the_table_says_so(current: RunStatus, target: RunStatus) -> None:
    if target in LEGAL[current].split():
        require_transition(current, target)
    else:
        with pytest.raises(IllegalTransitionError, match=f"{current} can't become {target}") as caught:
            require_transition(current, target)
        assert (caught.value.status, caught.value.code) == (409, "illegal_transition")


def test_states_are_final_or_unfinished_and_some_rest() -> None:
    assert set(RunStatus) == FINAL | UNFINISHED
    assert not FINAL & UNFINISHED
    assert {RunStatus.WAITING, RunStatus.PAUSED} == SETTLED - FINAL
    assert _run("default", "t", RunStatus.FAILED).is_final
    assert _run("default", "t", RunStatus.WAITING).is_settled
    assert not _run("default", "t", RunStatus.SUSPENDED).is_settled


def test_run_ids_are_uuid7_and_sort_by_time() -> None:
    ids = [new_run_id() for _ in range(1000)]
    assert ids == sorted(ids)
    assert len(set(ids)) == 1000
    assert {UUID(run_id).version for run_id in ids} == {7}


def test_a_run_id_is_read_in_any_spelling_and_nothing_else_is_one() -> None:
    run_id = new_run_id()
    assert parse_run_id(run_id.upper()) == run_id
    for text in ("", "nope", "\x00", run_id + "0", "é" * 40):
        with pytest.raises(RunNotFoundError):
            parse_run_id(text)


@pytest.mark.parametrize("value", ["a", "user/42", "déjà vu", "x" * 255])
def test_identifiers_that_can_be_stored(value: str) -> None:
    assert check_identifier("thread id", value) == value


@pytest.mark.parametrize("value", ["", "x" * 256, "a\x00b", "a\nb", "\ud800"])
def test_identifiers_that_can_not_be_stored_are_refused_by_name(value: str) -> None:
    with pytest.raises(InvalidRequestError, match="thread id"):
        check_identifier("thread id", value)


def test_no_two_threads_share_checkpoints() -> None:
    threads = [
        ("default", "t"),
        ("acme", "t"),
        ("default", "@acme/t"),
        ("acme", "@acme/t"),
        ("default", "@default/t"),
        ("default", "acme/t"),
    ]
    kept_under = [_run(*thread).checkpoint_thread_id for thread in threads]
    assert len(set(kept_under)) == len(threads)
    assert kept_under[:2] == ["t", "@acme/t"]
