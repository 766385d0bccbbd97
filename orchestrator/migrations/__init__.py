"""The orchestrator's tables, numbered, each with its way back, and those of the queue library."""

from importlib.util import find_spec

from checkpointer.postgres.migrations import MigrationSet
from orchestrator.migrations.queue import QueueMigrations

__all__ = ["ALL_MIGRATIONS", "MIGRATIONS"]

MIGRATIONS = MigrationSet("orchestrator", "orchestrator.migrations")
# The queue's tables are the library's own: where it is not installed, there is no postgres queue.
ALL_MIGRATIONS: tuple[MigrationSet, ...] = (
    (MIGRATIONS, QueueMigrations()) if find_spec("procrastinate") else (MIGRATIONS,)
)
