"""Which signal is for which wait, and which one came twice."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import InvalidRequestError
from orchestrator.runs.model import Run, RunStatus, new_run_id
from orchestrator.runs.signals import (
    ANY_SIGNAL,
    RESUME_SIGNAL,
    NewSignal,
    Signal,
    answers,
    awaited_signal,
    is_awaited,
    is_repeated,
    match_signals,
    waits_of,
)

NOW = datetime.now(UTC)
NAMES = ("a", "b", RESUME_SIGNAL)
WAITS = st.dictionaries(st.sampled_from(["i1", "i2", "i3"]), st.sampled_from([ANY_SIGNAL, "a", "b"]))
PAYLOADS = st.sampled_from([None, 0, False, "x", [1], {"k": 1, "l": 2}, {"l": 2, "k": 1}])


def kept(number: int, name: str, **values: Any) -> Signal:
    return Signal(number, "run", name, values.pop("payload", number), NOW, **values)


def waiting(waits: dict[str, str], status: RunStatus = RunStatus.WAITING) -> Run:
    return Run(
        run_id=new_run_id(),
        thread_id="t",
        organization_id="default",
        workflow_type="w",
        status=status,
        input={},
        max_attempts=3,
        saver="MemorySaver",
        created_at=NOW,
        updated_at=NOW,
        awaiting=[{"interruptId": each, "signal": name, "value": None} for each, name in waits.items()],
    )


@st.composite
def mailboxes(draw: st.DrawFn) -> list[Signal]:
    """Signals of one run, of which no two were handed over to the same wait."""
    ids = draw(st.lists(st.sampled_from(["i1", "i2", "i3", "gone"]), unique=True, max_size=3))
    given_to: list[str | None] = draw(st.permutations([*ids, *[None] * draw(st.integers(0, 4))]))
    return [kept(n, draw(st.sampled_from(NAMES)), interrupt_id=each) for n, each in enumerate(given_to)]


def fits(name: str, wanted: str) -> bool:
    return name == RESUME_SIGNAL or wanted in (ANY_SIGNAL, name)


@given(WAITS, mailboxes())
def test_each_wait_gets_one_signal_that_fits_and_no_signal_goes_twice(
    waits: dict[str, str], signals: list[Signal]
) -> None:
    found = match_signals(waits, signals)
    assert found.keys() <= waits.keys()
    assert len({signal.signal_id for signal in found.values()}) == len(found)
    for interrupt_id, signal in found.items():
        assert signal.interrupt_id in (None, interrupt_id)
        assert signal.interrupt_id == interrupt_id or fits(signal.name, waits[interrupt_id])


@given(WAITS, mailboxes())
def test_what_was_handed_over_stays_with_its_wait(waits: dict[str, str], signals: list[Signal]) -> None:
    found = match_signals(waits, signals)
    for signal in signals:
        if signal.interrupt_id in waits:
            assert found[signal.interrupt_id] is signal
    # A worker that was lost after handing over finds the same.
    given_to = {signal.signal_id: interrupt_id for interrupt_id, signal in found.items()}
    after = [replace(signal, interrupt_id=given_to.get(signal.signal_id, signal.interrupt_id)) for signal in signals]
    again = match_signals(waits, after)
    assert {key: signal.signal_id for key, signal in again.items()} == {k: s.signal_id for k, s in found.items()}


@given(WAITS, mailboxes())
def test_no_wait_is_left_while_a_signal_for_it_is(waits: dict[str, str], signals: list[Signal]) -> None:
    found = match_signals(waits, signals)
    taken = {signal.signal_id for signal in found.values()}
    free = [signal for signal in signals if signal.interrupt_id is None and signal.signal_id not in taken]
    for interrupt_id in waits.keys() - found.keys():
        assert not [signal for signal in free if fits(signal.name, waits[interrupt_id])]


@given(WAITS, mailboxes())
def test_the_oldest_signal_that_fits_goes_first(waits: dict[str, str], signals: list[Signal]) -> None:
    found = match_signals(waits, signals)
    taken = {signal.signal_id for signal in found.values()}
    for interrupt_id, signal in found.items():
        older = [s for s in signals if s.interrupt_id is None and s.signal_id < signal.signal_id]
        if signal.interrupt_id is None:
            assert all(each.signal_id in taken for each in older if fits(each.name, waits[interrupt_id]))


@given(mailboxes(), st.sampled_from(NAMES), PAYLOADS, st.sampled_from(list(RunStatus)))
def test_with_a_key_only_the_key_counts(signals: list[Signal], name: str, payload: Any, status: RunStatus) -> None:
    run, new = waiting({"i1": ANY_SIGNAL}, status), NewSignal(name, payload, key="k")
    assert not is_repeated(run, new, signals)
    assert is_repeated(run, new, [kept(99, "other", key="k"), *signals])
    assert not is_repeated(run, new, [kept(99, name, payload=payload, key="l")])


@given(st.sampled_from(NAMES), PAYLOADS, PAYLOADS, st.sampled_from(sorted(set(RunStatus) - {RunStatus.WAITING})))
def test_without_a_key_what_equals_the_last_of_its_name_is_the_same(
    name: str, payload: Any, other: Any, status: RunStatus
) -> None:
    run, new = waiting({}, status), NewSignal(name, payload)
    last = kept(2, name, payload=payload)
    assert not is_repeated(run, new, [])
    assert is_repeated(run, new, [kept(1, name, payload=other), last, kept(3, "of another name")])
    assert not is_repeated(run, new, [last, kept(3, name, payload=["newer"])])
    assert not is_repeated(run, new, [replace(last, key="k")])


def test_the_same_payload_is_the_same_in_any_order_of_its_keys_and_nothing_else_is() -> None:
    run, earlier = waiting({}, RunStatus.RUNNING), [kept(1, "a", payload={"k": 1, "l": [0]})]
    assert is_repeated(run, NewSignal("a", {"l": [0], "k": 1}), earlier)
    for payload in ({"l": [False], "k": 1}, {"k": 1}, None):
        assert not is_repeated(run, NewSignal("a", payload), earlier)


@given(WAITS, st.sampled_from(NAMES), PAYLOADS)
def test_for_a_run_that_waits_for_it_nothing_is_repeated(waits: dict[str, str], name: str, payload: Any) -> None:
    earlier = [kept(1, name, payload=payload)]
    repeated = is_repeated(waiting(waits), NewSignal(name, payload), earlier)
    assert repeated is not is_awaited(name, waits)
    assert is_awaited(name, waits) is any(fits(name, wanted) for wanted in waits.values())


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("approval", "approval"),
        ("a.b:c-1_d", "a.b:c-1_d"),
        ({"signal": "approval", "x": 1}, "approval"),
        ({"name": "approval"}, "approval"),
        ({"signal": "one", "name": "two"}, "one"),
        ("two words", ANY_SIGNAL),
        ("", ANY_SIGNAL),
        ("1st", ANY_SIGNAL),
        ("x" * 101, ANY_SIGNAL),
        ({"signal": 5}, ANY_SIGNAL),
        ({"question": "ok?"}, ANY_SIGNAL),
        (["approval"], ANY_SIGNAL),
        (None, ANY_SIGNAL),
    ],
)
def test_the_value_of_an_interrupt_says_what_it_waits_for(value: object, name: str) -> None:
    assert awaited_signal(value) == name


@given(WAITS)
def test_a_row_says_what_it_waits_for(waits: dict[str, str]) -> None:
    assert waits_of(waiting(waits)) == waits


def test_a_resume_answers_what_is_open() -> None:
    two = {"i1": "a", "i2": ANY_SIGNAL}
    assert answers({}, "yes") == {}
    assert answers({"i1": "a"}, "yes") == {"i1": "yes"}
    assert answers({"i1": "a"}, {"i1": "yes"}) == {"i1": {"i1": "yes"}}
    assert answers(two, {"i2": None}) == {"i2": None}
    assert answers(two, {"i1": 1, "i2": 2}) == {"i1": 1, "i2": 2}
    for payload in (None, "yes", {}, {"i1": 1, "other": 2}, [1, 2]):
        with pytest.raises(InvalidRequestError, match=r"waits for 2 answers.*i1, i2"):
            answers(two, payload)
