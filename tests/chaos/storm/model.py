"""What each run has to come to, whatever happens to it: computed from its input alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["BRANCHES", "CHAIN", "CHILDREN", "SHOWN", "End", "expected_end", "mixed"]

CHAIN = 8
BRANCHES = 4
CHILDREN = 3
SHOWN = 10

Given = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class End:
    """The status, the value, and the nodes whose work is in the state, in order."""

    status: str
    value: int
    nodes: tuple[str, ...]


def mixed(value: int, by: int) -> int:
    """A number that shows by which steps, and in which order, it was made."""
    return (value * 31 + by) % 1_000_003


def expected_end(workflow: str, given: Given, said: Sequence[int] = ()) -> End:
    """The end of a run of `workflow`. Of a conversation, `said` is all that was said on its thread, this turn last."""
    if workflow == "talk":
        return _talk(said)
    return _ENDS[workflow](given)


def _chain(given: Given) -> End:
    return End("completed", _chained(given["value"]), tuple(f"n{n}" for n in range(CHAIN)))


def _chained(value: int) -> int:
    for depth in range(CHAIN):
        value = mixed(value, depth)
    return value


def _fan(given: Given) -> End:
    start = mixed(given["value"], 0)
    nodes = ("split", *(f"branch{n}" for n in range(BRANCHES)), "join")
    return End("completed", sum((start + n) ** 2 for n in range(BRANCHES)), nodes)


def _asking(given: Given) -> End:
    if given["answer"] is None:
        return End("waiting", mixed(given["value"], 0), ("before",))
    return _around(given, lambda value: mixed(value, given["answer"]), "ask")


def _stepping(given: Given) -> End:
    return _around(given, lambda value: 2 * value + 2 * (value + 1), "step", "double", "double")


def _family(given: Given) -> End:
    total = sum(_chained(given["value"] + n) for n in range(CHILDREN))
    return End("completed", mixed(total, 2), ("spawn", "gather", "after"))


def _misbehaving(given: Given) -> End:
    if given["misdeed"] == "raise":
        return End("failed", mixed(given["value"], 0), ("before",))
    return _around(given, _by_one, "misbehave")


def _talk(said: Sequence[int]) -> End:
    value = 0
    for count, each in enumerate(said, 1):
        value = mixed(mixed(value, each), count)
    return End("completed", value, ("say", "answer") * len(said))


def _around(given: Given, work: Callable[[int], int], *nodes: str) -> End:
    return End("completed", mixed(work(mixed(given["value"], 0)), 2), ("before", *nodes, "after"))


def _by_one(value: int) -> int:
    return mixed(value, 1)


_ENDS: dict[str, Callable[[Given], End]] = {
    "chain": _chain,
    "fan": _fan,
    "asking": _asking,
    "flaky": lambda given: _around(given, _by_one, "flaky"),
    "stepping": _stepping,
    "family": _family,
    "showing": lambda given: _around(given, _by_one, "show"),
    "misbehaving": _misbehaving,
}
