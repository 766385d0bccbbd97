"""The contract of a batch store. `MemoryBatchStore` and `PostgresBatchStore` pass the same tests.

Everything may be sent twice. A document's run tells for itself when it is over: until `settle` has written it down, its
document is shown as if it had.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from orchestrator.batches.model import BatchState, DocumentRow, DocumentState, Policy, Tally

__all__ = ["BatchRow", "BatchStore"]


@dataclass(frozen=True, slots=True)
class BatchRow:
    """A row of `workflow_batch`. `state` is how far the batch's run has come; whether it is over, the run says."""

    batch_id: str
    organization_id: str
    title: str | None
    policy: Policy
    state: BatchState = BatchState.PENDING


class BatchStore(Protocol):
    """Where batches are kept. Raises `DatabaseUnavailableError` where the store does not answer in time."""

    async def begin(self, batch: BatchRow) -> None:
        """Keep a batch, unless it is there."""
        ...

    async def enter(self, batch_id: str, state: BatchState) -> None:
        """Say how far a batch has come."""
        ...

    async def find(self, batch_id: str) -> BatchRow | None:
        """A batch; None for one whose run has not begun."""
        ...

    async def add_documents(self, batch_id: str, rows: Sequence[DocumentRow]) -> None:
        """Keep documents, but for those that are there."""
        ...

    async def keys(self, batch_id: str) -> set[str]:
        """The keys of the batch's documents."""
        ...

    async def documents(
        self,
        batch_id: str,
        *,
        states: Collection[DocumentState] | None = None,
        after: int = -1,
        limit: int = 100,
    ) -> list[DocumentRow]:
        """The documents with higher positions than `after`, in their order."""
        ...

    async def advance(self, batch_id: str, was: DocumentState, rows: Sequence[DocumentRow]) -> None:
        """Note how far documents have come that were in the state `was`; of one that is not, nothing is changed.

        What is taken of a row is its state, its error and, where it has them, its hash and title.
        """
        ...

    async def settle(self, batch_id: str) -> None:
        """Write down how the runs of documents ended."""
        ...

    async def tallies(self, batch_id: str) -> list[Tally]:
        """How many documents there are in each state."""
        ...
