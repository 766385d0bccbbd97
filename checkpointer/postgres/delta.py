"""DeltaChannel: a value kept as a snapshot now and then, and the writes since.

LangGraph asks the saver for both. The walk up the parents is one recursive statement (`delta_history`); here its
rows become what LangGraph takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from langgraph.checkpoint.base import DeltaChannelHistory, PendingWrite, writes_sort_key
from psycopg.rows import TupleRow

from checkpointer.postgres.chunks import SharedList
from checkpointer.postgres.codec import Codec, decode_json

__all__ = ["history"]


def history(
    codec: Codec,
    thread: str,
    namespace: str,
    channels: Sequence[str],
    rows: Sequence[TupleRow],
    shared: Mapping[str, SharedList],
) -> Mapping[str, DeltaChannelHistory]:
    """Per channel its seed (absent where there is none) and the writes after it, oldest first.

    `shared` has the elements of the seeds that are shared lists, by channel.
    """
    result: dict[str, DeltaChannelHistory] = {channel: {"writes": []} for channel in channels}
    writes: list[tuple[int, tuple[str, str, int], str, PendingWrite]] = []
    for kind, depth, checkpoint, channel, task, path, idx, tag, blob, version, value in rows:
        if kind == 0:
            loaded = codec.load(tag, blob, ("write", thread, namespace, checkpoint, task, str(idx)))
            writes.append((-depth, writes_sort_key(path, task, idx), channel, (task, channel, loaded)))
        elif kind == 2:
            result[channel]["seed"] = decode_json(value)["seed"]
        elif tag != "empty":
            value = shared.get(channel, blob)
            result[channel]["seed"] = codec.load(tag, value, ("blob", thread, namespace, channel, version))
    for _, _, channel, write in sorted(writes, key=lambda item: item[:2]):
        result[channel]["writes"].append(write)
    return result
