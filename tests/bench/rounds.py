"""Rounds: every contender does the same work one after the other, in an order that rotates."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from tests.bench.contenders import Contender
from tests.bench.workloads import Crowd, Sample

__all__ = ["one_round", "warm_up"]

SubjectT = TypeVar("SubjectT")
_SHORT = 20


async def warm_up(
    contenders: Sequence[Contender[SubjectT]], workloads: Sequence[Crowd[SubjectT]], *, short: bool
) -> None:
    """Let connections, statements, caches and the server's statistics come to the state that they have at work."""
    for workload in workloads:
        work = replace(workload, threads=min(workload.threads, _SHORT), waves=1) if short else workload
        for contender in _taking_part(contenders, workload):
            await work.run(contender.fresh(), Sample())
    for contender in contenders:
        await contender.analyze()


async def one_round(
    number: int,
    contenders: Sequence[Contender[SubjectT]],
    workloads: Sequence[Crowd[SubjectT]],
    say: Callable[[str], None],
) -> AsyncIterator[tuple[str, str, Sample]]:
    """Run everything once; gives workload, contender, sample."""
    for workload in workloads:
        entered = _taking_part(contenders, workload)
        first = number % len(entered) if entered else 0
        times: dict[str, float] = {}
        for contender in (*entered[first:], *entered[:first]):
            sample = await workload.measure(contender.fresh())
            times[contender.name] = sample.seconds
            yield workload.name, contender.name, sample
        if times:
            shown = (f"{contender.name} {1000 * times[contender.name]:.1f}" for contender in entered)
            say(f"  {workload.name:<14}{'  '.join(shown)} ms")


def _taking_part(contenders: Sequence[Contender[SubjectT]], workload: Crowd[SubjectT]) -> list[Contender[SubjectT]]:
    return [contender for contender in contenders if not workload.only or contender.name == workload.only]
