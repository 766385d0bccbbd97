"""Batched loads: many checkpoints, one statement.

Loads of the latest checkpoint, or of one by its id, are queued (`batching.py`) and asked for together; each loader
gets its own rows and decodes them in its own task. How many share a statement adapts to how large their answers
were, so that a batch of large threads does not fill the memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from psycopg.rows import TupleRow

from checkpointer.errors import UnreadableError
from checkpointer.postgres.arrays import TextArray
from checkpointer.postgres.batching import Batcher, Item
from checkpointer.postgres.chunks import ChunkReader, DanglingError, Run
from checkpointer.postgres.worker_connection import WorkerConnection

__all__ = ["BatchLoad", "Load"]

_ANSWER_BYTES = 16_000_000
_ATTEMPT_S = 15.0


@dataclass(slots=True, eq=False, kw_only=True)
class Load(Item):
    """One asked checkpoint: its ids as cells; the latest of the namespace where `checkpoint_id` is `NULL`."""

    thread_id: bytes
    checkpoint_ns: bytes
    checkpoint_id: bytes


class BatchLoad(Batcher[Load]):
    """The queue of loads and its readers; `statement` is `load_batch` continued by `checkpoint_rows`."""

    operation = "load"
    deferred_reason = "chunks"
    deferred_because = "elements of a shared list are missing"

    def __init__(
        self, connections: Sequence[WorkerConnection], statement: str, chunks: ChunkReader, *, retry_for_s: float
    ) -> None:
        super().__init__(connections, retry_for_s=retry_for_s)
        self._statement = statement
        self._chunks = chunks
        self._bytes_a_load = 4096.0

    async def rows(self, thread_id: bytes, checkpoint_ns: bytes, checkpoint_id: bytes) -> list[TupleRow]:
        """The rows of `checkpoint_rows` for one checkpoint (ids as cells); empty where there is none.

        Raises `SaverUnavailableError`, `SaverClosedError`, or psycopg's error.
        """
        rows: list[TupleRow] = await self.submit(
            Load(thread_id=thread_id, checkpoint_ns=checkpoint_ns, checkpoint_id=checkpoint_id)
        )
        return rows

    def _fits(self, batch: list[Load], item: Load) -> bool:
        return super()._fits(batch, item) and len(batch) * self._bytes_a_load < _ANSWER_BYTES

    async def _attempt(self, connection: WorkerConnection, batch: list[Load]) -> list[Load]:
        params = {
            "threads": TextArray([load.thread_id for load in batch]),
            "namespaces": TextArray([load.checkpoint_ns for load in batch]),
            "ids": TextArray([load.checkpoint_id for load in batch]),
        }
        answers: list[list[TupleRow]] = [[] for _ in batch]
        run = partial(connection.run, timeout_s=min(self._time_left(batch), _ATTEMPT_S))
        for row in await run(self._statement, params):
            answers[row[0] - 1].append(row)
        size = 0
        again = []
        for load, answer, problem in zip(batch, answers, await self._attach(run, answers), strict=True):
            size += sum([len(row[-1] or b"") + len(row[-3] or b"") for row in answer])
            if problem is None:
                load.succeed(answer)
            elif isinstance(problem, DanglingError):
                again.append(load)
            else:
                load.fail(problem)
        average = size / len(batch)
        # Goes up at once and comes down slowly.
        self._bytes_a_load = max(average, 0.9 * self._bytes_a_load + 0.1 * average, 1.0)
        return again

    async def _attach(self, run: Run, answers: Sequence[list[TupleRow]]) -> list[Exception | None]:
        """Fetch the elements of all shared lists; gives what is wrong with each answer."""
        try:
            await self._chunks.attach(run, answers)
        except (DanglingError, UnreadableError) as exc:
            if len(answers) == 1:
                return [exc]
            return [problem for answer in answers for problem in await self._attach(run, [answer])]
        return [None] * len(answers)

    async def _refused(self, connection: WorkerConnection, batch: list[Load], error: Exception) -> None:
        for load in batch:
            load.fail(error)
