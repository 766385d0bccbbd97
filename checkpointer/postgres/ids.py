"""Ids of checkpoints that grow along a thread, whatever the clocks of those who write it say.

LangGraph makes a checkpoint's id of the clock of the process, and the latest checkpoint of a thread is the one with
the highest id. Where a thread goes on in another process, whose clock is behind, its checkpoints would sort below those
that are there: the next load would give an old state, and what came after it would be lost. So a process that loads a
checkpoint makes only higher ids from then on (a Lamport clock). Within a process LangGraph sees to the order itself, by
the last time it has used; that is what is raised here.
"""

from __future__ import annotations

from uuid import UUID

from langgraph.checkpoint.base import id as langgraph_ids

__all__ = ["stay_after"]

_ORDERED_BY_TIME = 6
_LAST_USED = "_last_v6_timestamp"


def stay_after(checkpoint_id: str) -> None:
    """Have every checkpoint id that is made in this process from now on be above this one."""
    try:
        known = UUID(checkpoint_id)
    except ValueError:
        return  # not of LangGraph's making
    if known.version != _ORDERED_BY_TIME:
        return
    time = known.int >> 80 << 12 | known.int >> 64 & 0xFFF
    used = vars(langgraph_ids)
    if time > (used[_LAST_USED] or 0):
        used[_LAST_USED] = time
