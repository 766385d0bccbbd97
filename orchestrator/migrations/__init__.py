"""The orchestrator's tables, numbered, each with its way back."""

from checkpointer.postgres.migrations import MigrationSet

__all__ = ["MIGRATIONS"]

MIGRATIONS = MigrationSet("orchestrator", "orchestrator.migrations")
