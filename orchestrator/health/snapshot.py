"""What the database says about runs, runners and storage at one moment: one statement, or a look at the memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic

from checkpointer.postgres.pool import Pool
from checkpointer.postgres.queries import load_queries
from orchestrator.runs.model import Run, RunStatus
from orchestrator.runs.postgres import PostgresRunStore
from orchestrator.runs.sender import Sender
from orchestrator.runs.store import RunFilter, RunStore

__all__ = ["RUNNER_KINDS", "Snapshot", "health_sender", "read_memory", "read_postgres", "sender_of"]

# What processes call themselves in workflow_runner, with whether they drive runs. Others may come: a program's own.
RUNNER_KINDS: Mapping[str, bool] = {"serve": True, "serve --no-worker": False, "worker": True, "program": True}
# Bounded, whatever else lies in the schema: each is a label's value.
_TABLES: Sequence[str] = (
    "checkpoints",
    "checkpoint_blobs",
    "checkpoint_writes",
    "checkpoint_chunks",
    "checkpoint_fences",
    "workflow_metadata",
    "workflow_activity",
    "workflow_event",
    "workflow_signal",
    "workflow_step",
    "workflow_hook",
    "workflow_batch",
    "workflow_batch_document",
    "knowledge_entity",
    "knowledge_alias",
    "knowledge_mention",
    "knowledge_relation",
    "knowledge_evidence",
    "knowledge_merge",
    "procrastinate_jobs",
    "procrastinate_events",
)
# Past so many runs in the table, those that are over are estimated: counting them would read all of it.
_EXACT_UP_TO = 100_000
# Lost workers are noticed, and retries begun, within a second or two. What is later than this is stuck.
_GRACE_S = 10.0
_PATIENCE_S = 2.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Runs by state, the longest wait of a run that could begin, and what should have happened already. Times in s.

    `runners` are the living processes by kind, None in memory; `storage` the bytes by table. `clock` is the server's
    time (seconds since 1970) and `taken` this process's `time.monotonic()`.
    """

    runs: Mapping[str, int]
    oldest_pending_s: float = 0.0
    late_leases: int = 0
    late_retries: int = 0
    runners: Mapping[str, int] | None = None
    storage: Mapping[str, int] = field(default_factory=dict)
    clock: float | None = None
    taken: float = field(default_factory=monotonic)

    @property
    def drivers(self) -> int | None:
        """How many living processes drive runs."""
        if self.runners is None:
            return None
        return sum(count for kind, count in self.runners.items() if RUNNER_KINDS.get(kind, True))


def health_sender(pool: Pool, schema: str) -> Sender:
    """What sends this package's statements over `pool`."""
    return Sender(pool, schema, load_queries("orchestrator.health", schema))


def sender_of(store: RunStore) -> Sender | None:
    """The same over the connections of a run store; None for one in memory."""
    return health_sender(store.sender.pool, store.sender.schema) if isinstance(store, PostgresRunStore) else None


async def read_postgres(sender: Sender) -> Snapshot:
    """One statement. Raises `DatabaseUnavailableError` within three seconds, and psycopg's errors."""
    [row] = await sender.ask(
        "gauges",
        for_s=_PATIENCE_S,
        schema=sender.schema,
        tables=list(_TABLES),
        exact_up_to=_EXACT_UP_TO,
        grace_s=_GRACE_S,
    )
    return Snapshot(
        runs=_all_states(row["runs"] or {}),
        oldest_pending_s=row["oldest_pending_s"] or 0.0,
        late_leases=row["late_leases"],
        late_retries=row["late_retries"],
        runners=dict.fromkeys(RUNNER_KINDS, 0) | (row["runners"] or {}),
        storage=row["storage"] or {},
        clock=row["clock"],
    )


async def read_memory(store: RunStore) -> Snapshot:
    """Look at every run once."""
    runs: Counter[str] = Counter()
    waits = [0.0]
    now = datetime.now(UTC)
    busy: set[tuple[str, str]] = set()
    pending: list[Run] = []
    for run in (await store.list_runs(RunFilter(), limit=2**31)).runs:
        runs[run.status] += 1
        if run.status is RunStatus.PENDING:
            pending.append(run)
        elif not run.is_final:
            busy.add((run.organization_id, run.thread_id))
    for run in pending:
        since = max(run.updated_at, run.start_at) if run.start_at else run.updated_at
        if (run.organization_id, run.thread_id) not in busy:
            waits.append((now - since).total_seconds())
    return Snapshot(runs=_all_states(runs), oldest_pending_s=max(waits))


def _all_states(counts: Mapping[str, int]) -> dict[str, int]:
    return {str(status): int(counts.get(status, 0)) for status in RunStatus}
