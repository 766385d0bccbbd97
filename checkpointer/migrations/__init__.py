"""The plugin's own tables, beside LangGraph's."""

from checkpointer.postgres.migrations import MigrationSet

__all__ = ["MIGRATIONS"]

MIGRATIONS = MigrationSet("checkpointer", "checkpointer.migrations")
