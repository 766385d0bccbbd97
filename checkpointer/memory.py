"""What LangGraph's in-memory saver lacks: whether it has a thread, and copying, pruning and forgetting threads.

Its dictionaries are its public attributes: `storage` (thread → namespace → id → checkpoint, metadata, parent),
`blobs` (thread, namespace, channel, version → value) and `writes` (thread, namespace, id → task, index → write).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from langgraph.checkpoint.memory import InMemorySaver

from checkpointer.postgres.retention import Keep

__all__ = ["copy_thread", "delete_runs", "has_thread", "head_of", "prune_thread", "thread_ids"]

# A thread whose metadata has one of these has DeltaChannels, whose state is made of ancestors and their writes.
_DELTA_MARKS = ("counters_since_delta_snapshot", "delta_writes_versioned")


def has_thread(saver: InMemorySaver, thread_id: str) -> bool:
    """Whether the thread has a checkpoint. Asking the saver itself would leave an empty entry behind."""
    return any(saver.storage[thread_id].values()) if thread_id in saver.storage else False


def thread_ids(saver: InMemorySaver) -> Iterator[str]:
    """The threads that have a checkpoint."""
    return (thread_id for thread_id in list(saver.storage) if has_thread(saver, thread_id))


def head_of(saver: InMemorySaver, thread_id: str) -> str | None:
    """The id of the thread's last checkpoint of the outermost graph."""
    return max(saver.storage[thread_id].get("", {}), default=None) if has_thread(saver, thread_id) else None


def copy_thread(saver: InMemorySaver, source: str, target: str) -> None:
    """Copy a thread with its whole history; what the target has under the same ids is replaced."""
    if not has_thread(saver, source):
        return
    for namespace, checkpoints in list(saver.storage[source].items()):
        saver.storage[target][namespace].update(checkpoints)
    for (_, namespace, channel, version), value in _of_thread(saver.blobs, source):
        saver.blobs[target, namespace, channel, version] = value
    for (_, namespace, checkpoint_id), writes in _of_thread(saver.writes, source):
        saver.writes[target, namespace, checkpoint_id].update(writes)


def prune_thread(saver: InMemorySaver, thread_id: str, keep: Keep) -> None:
    """Forget all but the last checkpoints of each namespace, and what DeltaChannels may need of those before."""
    if not has_thread(saver, thread_id):
        return
    kept = {
        namespace: set(sorted(checkpoints, reverse=True)[: keep.last])
        for namespace, checkpoints in saver.storage[thread_id].items()
    }
    _forget_all_but(saver, thread_id, kept)


def delete_runs(saver: InMemorySaver, run_ids: Collection[str]) -> None:
    """Delete the checkpoints that runs saved, but those that a DeltaChannel of another run's may need."""
    for thread_id in thread_ids(saver):
        kept = {
            namespace: {
                checkpoint_id
                for checkpoint_id, (_, metadata, _) in checkpoints.items()
                if saver.serde.loads_typed(metadata).get("run_id") not in run_ids
            }
            for namespace, checkpoints in saver.storage[thread_id].items()
        }
        _forget_all_but(saver, thread_id, kept)


def _forget_all_but(saver: InMemorySaver, thread_id: str, kept: dict[str, set[str]]) -> None:
    """Delete the other checkpoints, their writes, and the values that only they refer to."""
    for namespace, checkpoints in saver.storage[thread_id].items():
        wanted = kept[namespace]
        if _has_delta_channels(saver, checkpoints):
            wanted = _with_ancestors(checkpoints, wanted)
        for checkpoint_id in [each for each in checkpoints if each not in wanted]:
            del checkpoints[checkpoint_id]
            saver.writes.pop((thread_id, namespace, checkpoint_id), None)
        for checkpoint_id, (checkpoint, metadata, parent) in list(checkpoints.items()):
            checkpoints[checkpoint_id] = checkpoint, metadata, parent if parent in checkpoints else None
        referred = {
            (channel, version)
            for checkpoint, _, _ in checkpoints.values()
            for channel, version in saver.serde.loads_typed(checkpoint)["channel_versions"].items()
        }
        for key, _ in list(_of_thread(saver.blobs, thread_id)):
            if key[1] == namespace and key[2:] not in referred:
                del saver.blobs[key]
    if not has_thread(saver, thread_id):
        saver.delete_thread(thread_id)


def _has_delta_channels(saver: InMemorySaver, checkpoints: dict[str, Any]) -> bool:
    about = (saver.serde.loads_typed(metadata) for _, metadata, _ in checkpoints.values())
    return any(each.get(mark) for each in about for mark in _DELTA_MARKS)


def _with_ancestors(checkpoints: dict[str, Any], wanted: set[str]) -> set[str]:
    found = set(wanted)
    for checkpoint_id in wanted:
        parent = checkpoints[checkpoint_id][2]
        while parent in checkpoints and parent not in found:
            found.add(parent)
            parent = checkpoints[parent][2]
    return found


def _of_thread(stored: Any, thread_id: str) -> Iterator[tuple[Any, Any]]:
    return ((key, value) for key, value in list(stored.items()) if key[0] == thread_id)
