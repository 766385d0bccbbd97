"""Does loading the latest checkpoint of a long thread take longer than of a short one?"""

from __future__ import annotations

import asyncio
import gc
from time import perf_counter
from uuid import uuid4

from langchain_core.runnables import RunnableConfig

from tests.bench.contenders import Contender, Saver
from tests.bench.figures import Figure, percentile
from tests.bench.workloads import history_of, metadata_of, thread_config

__all__ = ["long_thread_figure"]

_LONG, _SHORT = 10_000, 10
_LOADS = 400
_AT_ONCE = 250
_MARK = 1.3


async def long_thread_figure(contender: Contender, *, rounds: int) -> Figure:
    """p95 of loads of the long thread ÷ p95 of loads of the short one, alternating, one load at a time."""
    saver = contender.fresh()
    long, short = await _thread_of(saver, _LONG), await _thread_of(saver, _SHORT)
    await contender.analyze()
    ratios = [await _ratio(saver, long, short) for _ in range(rounds + 1)][1:]
    return Figure(f"load latest, {_LONG:,} checkpoints ÷ {_SHORT}: p95", ratios, _MARK, "at most", "×")


async def _thread_of(saver: Saver, length: int) -> RunnableConfig:
    """Save a thread of that many checkpoints, each with a pending write, as a run would have left it."""
    thread_id = uuid4().hex
    history = history_of(saver, length)
    parents = [thread_config(thread_id)]
    for checkpoint in history[:-1]:
        ids = {**thread_config(thread_id)["configurable"], "checkpoint_id": checkpoint["id"]}
        parents.append({"configurable": ids})

    async def save(step: int) -> None:
        checkpoint = history[step]
        new = {"messages": checkpoint["channel_versions"]["messages"]}
        config = await saver.aput(parents[step], checkpoint, metadata_of(step), new)
        await saver.aput_writes(config, [("messages", {"role": "user", "content": "go on"})], uuid4().hex)

    for start in range(0, length, _AT_ONCE):
        await asyncio.gather(*(save(step) for step in range(start, min(start + _AT_ONCE, length))))
    return thread_config(thread_id)


async def _ratio(saver: Saver, long: RunnableConfig, short: RunnableConfig) -> float:
    times: tuple[list[float], list[float]] = ([], [])
    gc.collect()
    for _ in range(_LOADS):
        for config, taken in zip((long, short), times, strict=True):
            begun = perf_counter()
            await saver.aget_tuple(config)
            taken.append(perf_counter() - begun)
    return percentile(times[0], 95) / percentile(times[1], 95)
