"""What a node of a batch works with: its run, the stores, and how it shows what it has done."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from time import monotonic

from langgraph.config import get_stream_writer
from langgraph.types import StreamWriter

from orchestrator.batches.model import BatchState, DocumentRow, DocumentState, progress_of, require_policy
from orchestrator.batches.request import BatchInput
from orchestrator.batches.stores import Stores, stores_of
from orchestrator.engine.attempt import Attempt, current_attempt
from orchestrator.engine.points import reached

__all__ = ["Desk"]

_PAGE = 50
_ERRORS = 5
_SHOW_EVERY_S = 0.5


@dataclass(slots=True)
class Desk:
    """One state of a batch at work."""

    state: BatchState
    attempt: Attempt
    stores: Stores
    given: BatchInput
    write: StreamWriter
    shown: float = 0.0

    @classmethod
    def of(cls, state: BatchState) -> Desk:
        """That of the batch whose run is under way. Raises `BatchInputError` for an input that is none."""
        attempt = current_attempt(f"batch {state}")
        given = BatchInput.parse(attempt.run.input)
        return cls(state, attempt, stores_of(attempt.store), given, get_stream_writer())

    @property
    def batch_id(self) -> str:
        """The batch's id, which is its run's."""
        return self.attempt.run.run_id

    async def enter(self) -> None:
        """Say that the batch is in this state."""
        await self.stores.batches.enter(self.batch_id, self.state)
        await self.show()

    async def advance(
        self, was: DocumentState, work: Callable[[Sequence[DocumentRow]], Awaitable[list[DocumentRow]]], *, at_once: int
    ) -> None:
        """Do `work` with the documents in one state, in their order, so many at once: what it returns is kept."""
        after = -1
        while rows := await self.stores.batches.documents(self.batch_id, states=[was], after=after, limit=_PAGE):
            for first in range(0, len(rows), at_once):
                group = rows[first : first + at_once]
                await self.stores.batches.advance(self.batch_id, was, await work(group))
                for _ in group:
                    self.passed()
                await self.show_now_and_then()
            after = rows[-1].position

    def passed(self) -> None:
        """Say that a document is done with."""
        reached(f"batch {self.state}", self.batch_id)

    async def leave(self) -> dict[str, int]:
        """The state's counts, now that its work is done. Raises `BatchFailedError` where the policy says so."""
        await self.show()
        tallies = await self.stores.batches.tallies(self.batch_id)
        failed = await self.stores.batches.documents(self.batch_id, states=[DocumentState.FAILED], limit=_ERRORS)
        errors = [f"{row.name}: {row.error and row.error['message']}" for row in failed]
        require_policy(self.given.policy, tallies, errors)
        progress = progress_of(tallies)[self.state]
        return {"done": progress.done, "total": progress.total, "failed": progress.failed}

    async def show_now_and_then(self) -> None:
        """`show`, unless it was done just now."""
        if monotonic() - self.shown >= _SHOW_EVERY_S:
            await self.show()

    async def show(self) -> None:
        """Let watchers know how far the batch is."""
        self.shown = monotonic()
        progress = progress_of(await self.stores.batches.tallies(self.batch_id))[self.state]
        self.write(
            {"state": str(self.state), "done": progress.done, "total": progress.total, "failed": progress.failed}
        )
