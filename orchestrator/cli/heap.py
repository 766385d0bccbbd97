"""What a process that stays tells Python's garbage collector."""

from __future__ import annotations

import gc

__all__ = ["settle_heap"]

# Objects of the young generation, and collections of it and of the middle one, until the next is looked at. Python's
# own 700, 10, 10 are for small programs: with hundreds of runs under way a collection found next to nothing, and all of
# them together took a seventh of the processor's time (`scripts/bench crowd`). Resident memory stays the same.
_THRESHOLDS = 10_000, 20, 20


def settle_heap() -> None:
    """Call it once all is opened: what is there by then stays to the end, and is not gone through again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
