"""Which fault strikes when: a pure function of the seed, the time there is and the lease."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random

__all__ = ["Fault", "Kind", "make_schedule"]


class Kind(StrEnum):
    """What can go wrong."""

    KILL_WORKER = "worker killed"
    FREEZE_WORKER = "worker frozen"
    KILL_API = "API killed"
    FREEZE_API = "API frozen"
    CRASH_POSTGRES = "PostgreSQL crashed"
    CUT = "connections cut"
    SILENCE = "network silent"
    SLOW = "network slow"
    NO_CONNECTIONS = "no connection free"
    TERMINATE = "backends terminated"
    WRONG_CLOCK = "clock wrong by 1 h"
    FULL_DISK = "disk full"
    RAISE = "node raises"
    BLOCK = "node blocks"
    LEAK = "node leaks memory"


@dataclass(frozen=True, slots=True)
class Fault:
    """`at_s` after the load began, and lifted `lasts_s` later. `victim` is a worker's number; `draw` is in [0, 1)."""

    at_s: float
    kind: Kind
    victim: int
    lasts_s: float
    draw: float


WORKERS = 3
_WARM_UP_S = 5.0
_LEAST_GAP_S, _MOST_GAP_S = 2.0, 4.0
# Seconds from the blow until it is lifted. Of a killed process: until it is started again.
_LASTS_S: dict[Kind, tuple[float, float]] = {
    Kind.KILL_WORKER: (0.5, 3.0),
    Kind.KILL_API: (0.5, 2.0),
    Kind.FREEZE_API: (2.0, 5.0),
    Kind.CRASH_POSTGRES: (0.5, 3.0),
    Kind.CUT: (0.0, 2.0),
    Kind.SILENCE: (2.0, 8.0),
    Kind.SLOW: (4.0, 8.0),
    Kind.NO_CONNECTIONS: (3.0, 8.0),
    Kind.TERMINATE: (0.0, 0.0),
    Kind.WRONG_CLOCK: (6.0, 9.0),
    Kind.FULL_DISK: (3.0, 7.0),
    Kind.RAISE: (1.0, 1.0),
    Kind.BLOCK: (2.0, 4.0),
    Kind.LEAK: (2.0, 4.0),
}
# The two that figures are promised for strike more often than the others.
_AGAIN = (Kind.KILL_WORKER, Kind.KILL_WORKER, Kind.FREEZE_WORKER)


def make_schedule(
    seed: int, duration_s: float, lease_s: float, kinds: Sequence[Kind] = tuple(Kind)
) -> tuple[Fault, ...]:
    """The faults of a storm of `duration_s` seconds, in order. None begins before the one before it is lifted.

    Each kind strikes once before any strikes more often than its share, as far as the time goes.
    """
    random = Random(seed)  # noqa: S311 - repeatable, not secret
    faults: list[Fault] = []
    now = min(_WARM_UP_S, duration_s / 4)
    while True:
        round_ = [*kinds, *(kind for kind in _AGAIN if kind in kinds)]
        random.shuffle(round_)
        for kind in round_:
            # A freeze outlasts the lease, so that the runs have gone on elsewhere when the worker wakes up.
            least, most = (lease_s + 3.0, lease_s + 6.0) if kind is Kind.FREEZE_WORKER else _LASTS_S[kind]
            lasts_s = round(random.uniform(least, most), 2)
            if now + lasts_s > duration_s:
                return tuple(faults)
            faults.append(Fault(round(now, 2), kind, random.randrange(WORKERS), lasts_s, round(random.random(), 6)))
            now += lasts_s + random.uniform(_LEAST_GAP_S, _MOST_GAP_S)
