"""What a thread consists of, without its values: the ids of its checkpoints, and where each pending write stands.

LangGraph's API does not say under which path and index a write is stored, and both matter: writes are replayed in
the order (path, task, index), and a saver replaces or keeps a write by its index. So they are read from the tables of
the savers known here (memory, SQLite, PostgreSQL), and made up in the order seen for any other saver.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from langgraph.checkpoint.base import WRITES_IDX_MAP, BaseCheckpointSaver, PendingWrite
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

from checkpointer.postgres.queries import load_queries
from checkpointer.postgres.retry import ride_out

__all__ = ["Place", "WriteKey", "list_thread_ids", "thread_outline", "write_keys"]

_PAGE = 1000
_NO_SCHEMA = "found by search path"
_RETRY_FOR_S = 30.0


class WriteKey(NamedTuple):
    """Where a pending write stands among its checkpoint's; in the order in which writes are replayed."""

    task_path: str
    task_id: str
    idx: int
    channel: str


@dataclass(frozen=True, slots=True)
class Place:
    """A checkpoint of a thread; `writes` in replay order, None where the saver does not tell."""

    namespace: str
    checkpoint_id: str
    parent_id: str | None
    writes: tuple[WriteKey, ...] | None


async def thread_outline(saver: BaseCheckpointSaver[Any], thread_id: str) -> list[Place]:
    """A thread's checkpoints of all namespaces, oldest first; none for a thread that the saver does not know."""
    if isinstance(saver, InMemorySaver):
        return _in_memory(saver, thread_id)
    if isinstance(saver, AsyncPostgresSaver) or _is_sqlite(saver):
        asked = {"thread": thread_id}
        checkpoints = await _rows(saver, "checkpoints_of_thread", asked)
        return _joined(checkpoints, await _rows(saver, "writes_of_thread", asked)) if checkpoints else []
    places = []
    async for found in saver.alist({"configurable": {"thread_id": thread_id}}):
        ids = found.config["configurable"]
        parent = (found.parent_config or {}).get("configurable", {}).get("checkpoint_id")
        places.append(Place(ids.get("checkpoint_ns", ""), ids["checkpoint_id"], parent, None))
    return _oldest_first(places)


async def list_thread_ids(saver: BaseCheckpointSaver[Any]) -> AsyncIterator[str]:
    """The ids of all threads that have a checkpoint, each once."""
    if isinstance(saver, InMemorySaver):
        for thread_id in sorted(str(name) for name, namespaces in saver.storage.items() if any(namespaces.values())):
            yield thread_id
    elif isinstance(saver, AsyncPostgresSaver) or _is_sqlite(saver):
        after = None
        while page := await _rows(saver, "thread_ids", {"after": after, "limit": _PAGE}):
            for (thread_id,) in page:
                yield thread_id
            after = page[-1][0]
    else:
        seen = set()
        async for found in saver.alist(None):
            thread_id = str(found.config["configurable"]["thread_id"])
            if thread_id not in seen:
                seen.add(thread_id)
                yield thread_id


def write_keys(pending: Sequence[PendingWrite]) -> tuple[WriteKey, ...]:
    """Keys for the writes of a saver that does not tell them: such that they keep their order."""
    counts: defaultdict[str, int] = defaultdict(int)
    keys = []
    for task_id, channel, _ in pending:
        keys.append(WriteKey("", task_id, WRITES_IDX_MAP.get(channel, counts[task_id]), channel))
        counts[task_id] += 1
    if keys != sorted(keys):
        rank = {task_id: f"~{number:08d}" for number, task_id in enumerate(counts)}
        return tuple(key._replace(task_path=rank[key.task_id]) for key in keys)
    return tuple(keys)


def _in_memory(saver: InMemorySaver, thread_id: str) -> list[Place]:
    places = []
    for namespace, checkpoints in list(saver.storage.get(thread_id, {}).items()):
        for checkpoint_id, (_, _, parent) in checkpoints.items():
            stored = saver.writes.get((thread_id, namespace, checkpoint_id), {})
            keys = (
                WriteKey(path, task_id, index, channel) for (task_id, index), (_, channel, _, path) in stored.items()
            )
            places.append(Place(namespace, checkpoint_id, parent, tuple(sorted(keys))))
    return _oldest_first(places)


def _joined(checkpoints: Iterable[Sequence[Any]], writes: Iterable[Sequence[Any]]) -> list[Place]:
    keys: defaultdict[tuple[str, str], list[WriteKey]] = defaultdict(list)
    for namespace, checkpoint_id, *key in writes:
        keys[namespace, checkpoint_id].append(WriteKey(*key))
    places = [
        Place(namespace, checkpoint_id, parent or None, tuple(sorted(keys[namespace, checkpoint_id])))
        for namespace, checkpoint_id, parent in checkpoints
    ]
    return _oldest_first(places)  # not by the database: its collation may order ids otherwise


def _oldest_first(places: list[Place]) -> list[Place]:
    return sorted(places, key=lambda place: (place.checkpoint_id, place.namespace))


def _is_sqlite(saver: object) -> bool:
    """By name, so that the package need not be installed."""
    return any(kind.__module__ == "langgraph.checkpoint.sqlite.aio" for kind in type(saver).__mro__)


async def _rows(saver: Any, name: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    queries = load_queries("checkpointer.threads", getattr(saver, "schema", _NO_SCHEMA))
    if isinstance(saver, AsyncPostgresSaver):
        # LangGraph's own saver finds its tables by the search path.
        statement = queries[name].replace(f'"{_NO_SCHEMA}".', "").encode()

        async def attempt() -> list[tuple[Any, ...]]:
            async with saver._cursor() as cursor:
                await cursor.execute(statement, parameters)
                return [tuple(row.values()) for row in await cursor.fetchall()]

        return await ride_out("load", attempt, for_s=getattr(saver, "retry_for_s", 0) or _RETRY_FOR_S)
    await saver.setup()
    lite = queries[f"sqlite_{name}"]
    if not getattr(saver, "_has_task_path", True):  # an old file that may not be changed
        lite = lite.replace("task_path", "''")
    async with saver.lock, saver.conn.execute(lite, parameters) as cursor:
        return list(await cursor.fetchall())
