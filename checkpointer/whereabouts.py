"""Which engine a thread is in while POSTGRES_SAVER_ROLLOUT_PERCENT moves new ones from memory to PostgreSQL.

Where a thread is, is asked in this order:

    it has a checkpoint in memory        → memory
    its bucket is below the percentage   → PostgreSQL, whether it is there already or begins there
    PostgreSQL has something of it       → PostgreSQL
    otherwise it is new                  → memory

A thread's bucket is 0 to 99: the first eight bytes of the SHA-256 of its id in UTF-8, as a big-endian number, modulo
100. So the share is the same in every process, and grows with the percentage: 10 % are among the 50 %. A thread stays
where it began whatever becomes of the percentage, for the first and the third rule look at where it is.

Invariants:

1. A thread is in one engine. Where PostgreSQL has to be asked and does not answer, the call fails
   (`SaverUnavailableError`): a thread that can't be found might otherwise get a second head in memory.
2. PostgreSQL is asked only about threads whose bucket is at or above the percentage and that memory does not know, and
   about each once as long as it is remembered. What is asked at the same time is one statement.
3. Threads in memory need no PostgreSQL: they go on while it is away.
4. Memory belongs to one process. Nothing here tells two processes apart that both keep threads in memory;
   `orchestrator` refuses the second one.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from typing import Literal, TypeAlias

from langgraph.checkpoint.memory import InMemorySaver

from checkpointer import memory as in_memory
from checkpointer.errors import StaleWriterError
from checkpointer.metrics import FENCED_WRITES
from checkpointer.postgres.codec import text
from checkpointer.postgres.queries import load_queries
from checkpointer.postgres.saver import PooledPostgresSaver

__all__ = ["Engine", "Places", "bucket_of", "places_of"]

Engine: TypeAlias = Literal["memory", "postgres"]

_REMEMBERED = 100_000  # threads, about 15 MB


def bucket_of(thread_id: str) -> int:
    """The thread's bucket, 0 to 99: it begins in PostgreSQL where that is below the percentage."""
    return int.from_bytes(hashlib.sha256(thread_id.encode("utf-8", "surrogatepass")).digest()[:8]) % 100


async def places_of(saver: PooledPostgresSaver, heads: Mapping[str, str | None]) -> dict[str, bool]:
    """Of the threads those that PostgreSQL has something of, and whether it has the checkpoint given for them."""
    query = load_queries("checkpointer.postgres", saver.schema)["places_of_threads"]
    params = {"threads": list(heads), "heads": [head or "" for head in heads.values()]}
    return {thread_id: bool(has_head) for thread_id, has_head in await saver.fetch_rows(query, params)}


class Places:
    """Where threads are. One for all clones of a saver; used on the event loop only."""

    def __init__(self, memory: InMemorySaver, postgres: PooledPostgresSaver, percent: int) -> None:
        self._memory = memory
        self._postgres = postgres
        self._percent = percent
        # Begun in memory by a write that came before the first checkpoint, or fenced; thread → the last epoch.
        self._begun: dict[str, int] = {}
        self._in_postgres: OrderedDict[str, None] = OrderedDict()
        self._asked: dict[str, asyncio.Future[bool]] = {}
        self._asking: asyncio.Task[None] | None = None

    def is_in_memory(self, thread_id: str) -> bool:
        """Whether memory has it."""
        return thread_id in self._begun or in_memory.has_thread(self._memory, thread_id)

    def admit(self, thread_id: str, epoch: int | None) -> None:
        """Note that a thread is written in memory. Raises `StaleWriterError` for an epoch before the last one."""
        last = self._begun.setdefault(thread_id, 0)
        if epoch is not None and epoch < last:
            FENCED_WRITES.inc()
            raise StaleWriterError(thread_id, epoch)
        self._begun[thread_id] = max(last, epoch or 0)

    def forget(self, thread_id: str) -> None:
        """The thread was deleted."""
        self._begun.pop(thread_id, None)
        self._in_postgres.pop(thread_id, None)

    async def find(self, thread_id: str) -> Engine | None:
        """Where the thread is; None where it is nowhere yet. Raises `SaverUnavailableError`."""
        if self.is_in_memory(thread_id):
            return "memory"
        return "postgres" if await self._is_in_postgres(thread_id) else None

    async def engine_of(self, thread_id: str) -> Engine:
        """Where the thread is, or would begin. Raises `SaverUnavailableError`, or `UnsavableError` for its id."""
        if self.is_in_memory(thread_id):
            return "memory"
        text("thread_id", thread_id)  # what PostgreSQL can't hold is refused whatever the percentage
        if bucket_of(thread_id) < self._percent or await self._is_in_postgres(thread_id):
            return "postgres"
        return "memory"

    async def _is_in_postgres(self, thread_id: str) -> bool:
        if thread_id in self._in_postgres:
            self._in_postgres.move_to_end(thread_id)
            return True
        answer = self._asked.get(thread_id)
        if answer is None:
            answer = self._asked[thread_id] = asyncio.get_running_loop().create_future()
            if self._asking is None or self._asking.done():
                self._asking = asyncio.create_task(self._ask())
        # Shielded: others may wait for the same answer.
        found = await asyncio.shield(answer)
        if found:
            self._in_postgres[thread_id] = None
            while len(self._in_postgres) > _REMEMBERED:
                self._in_postgres.popitem(last=False)
        return found

    async def _ask(self) -> None:
        """Ask for all that wait, together, until none does."""
        while self._asked:
            asked, self._asked = self._asked, {}
            try:
                found = await places_of(self._postgres, dict.fromkeys(asked))
            except BaseException as exc:
                for answer in asked.values():
                    if isinstance(exc, Exception):
                        answer.set_exception(exc)
                        answer.exception()  # whoever asked may be gone
                    else:
                        answer.cancel()
                if not isinstance(exc, Exception):
                    raise
            else:
                for thread_id, answer in asked.items():
                    answer.set_result(thread_id in found)
