"""Batches in memory, beside runs in memory: they last as long as the process."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace

from orchestrator.batches.model import BatchState, DocumentRow, DocumentState, Tally
from orchestrator.batches.rows.store import BatchRow
from orchestrator.errors import RunNotFoundError
from orchestrator.runs.model import RunStatus
from orchestrator.runs.store import RunStore

__all__ = ["MemoryBatchStore"]


class MemoryBatchStore:
    """A `BatchStore` in dicts; `runs` is asked how the runs of documents stand."""

    def __init__(self, runs: RunStore) -> None:
        self._runs = runs
        self._batches: dict[str, BatchRow] = {}
        self._documents: defaultdict[str, dict[str, DocumentRow]] = defaultdict(dict)

    async def begin(self, batch: BatchRow) -> None:
        self._batches.setdefault(batch.batch_id, batch)

    async def enter(self, batch_id: str, state: BatchState) -> None:
        self._batches[batch_id] = replace(self._batches[batch_id], state=state)

    async def find(self, batch_id: str) -> BatchRow | None:
        return self._batches.get(batch_id)

    async def add_documents(self, batch_id: str, rows: Sequence[DocumentRow]) -> None:
        for row in rows:
            self._documents[batch_id].setdefault(row.key, row)

    async def keys(self, batch_id: str) -> set[str]:
        return set(self._documents[batch_id])

    async def documents(
        self,
        batch_id: str,
        *,
        states: Collection[DocumentState] | None = None,
        after: int = -1,
        limit: int = 100,
    ) -> list[DocumentRow]:
        found = [row for row in await self._now(batch_id) if row.position > after]
        wanted = [row for row in found if states is None or row.state in states]
        return sorted(wanted, key=lambda row: row.position)[:limit]

    async def advance(self, batch_id: str, was: DocumentState, rows: Sequence[DocumentRow]) -> None:
        for row in rows:
            kept = self._documents[batch_id][row.key]
            if kept.state is was:
                self._documents[batch_id][row.key] = replace(
                    kept,
                    state=row.state,
                    error=row.error,
                    title=row.title or kept.title,
                    content_hash=row.content_hash or kept.content_hash,
                )

    async def settle(self, batch_id: str) -> None:
        for row in await self._now(batch_id):
            self._documents[batch_id][row.key] = row

    async def tallies(self, batch_id: str) -> list[Tally]:
        counted = Counter((row.state, _failed_in(row)) for row in await self._now(batch_id))
        return [Tally(state, failed_in, count) for (state, failed_in), count in counted.items()]

    async def _now(self, batch_id: str) -> list[DocumentRow]:
        return [await self._seen(row) for row in list(self._documents[batch_id].values())]

    async def _seen(self, row: DocumentRow) -> DocumentRow:
        """The document as if the end of its run were written down."""
        if row.state is not DocumentState.EXTRACTING or row.run_id is None:
            return row
        try:
            run = await self._runs.get(row.run_id)
        except RunNotFoundError:
            return row
        if run.status is RunStatus.COMPLETED:
            return replace(row, state=DocumentState.EXTRACTED)
        if not run.is_final:
            return row
        said = run.error or {"type": "CancelledError", "message": "the run was cancelled"}
        error = {"type": said.get("type"), "message": said.get("message"), "state": str(BatchState.EXTRACTING)}
        return replace(row, state=DocumentState.FAILED, error=error)


def _failed_in(row: DocumentRow) -> BatchState | None:
    return None if row.error is None else BatchState(row.error["state"])
