"""Where the time goes: one contender's workload under cProfile."""

from __future__ import annotations

import cProfile
import pstats
import sys

from tests.bench.contenders import Contender
from tests.bench.workloads import Sample, Workload

__all__ = ["profile"]


async def profile(contender: Contender, workload: Workload, *, lines: int) -> None:
    """Print the hottest functions by own and by cumulative time; only the event loop's thread is seen."""
    for _ in range(2):
        await workload.run(contender.fresh(), Sample())
        await contender.analyze()
    plain = await workload.measure(contender.fresh())
    profiler = cProfile.Profile()
    await workload.run(contender.fresh(), Sample(), watch=profiler)
    stats = pstats.Stats(profiler, stream=sys.stdout).strip_dirs()
    print(f"{contender.name}, {workload.name}, without the profiler: {plain.seconds:.3f} s ({plain.cpu:.3f} s busy)")
    for order in ("tottime", "cumtime"):
        stats.sort_stats(order).print_stats(lines)
