"""Numbered migrations kept as SQL files, each with its way back: `0001_runs.up.sql`, `0001_runs.down.sql`.

A set is a package directory of such files. What they make they make IF NOT EXISTS, so that the script of
`holdfast setup --sql` may be run on a schema that has some of it already. `{schema}` in them becomes the quoted schema
name. LangGraph's own tables are not here: they are made by `langgraph-checkpoint-postgres`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files

from checkpointer.postgres.queries import quote_identifier

__all__ = ["Migration", "MigrationSet"]

_FILE = re.compile(r"(\d{4})_(\w+)\.up\.sql")


@dataclass(frozen=True, slots=True)
class Migration:
    """One step up and its way back, as SQL with `{schema}` in it."""

    set_name: str
    number: int
    name: str
    up_text: str
    down_text: str

    def up(self, schema: str) -> str:
        """The SQL that applies it."""
        return self.up_text.replace("{schema}", quote_identifier(schema))

    def down(self, schema: str) -> str:
        """The SQL that takes it back."""
        return self.down_text.replace("{schema}", quote_identifier(schema))


@dataclass(frozen=True)
class MigrationSet:
    """The migrations in a package, under a name that is recorded with each."""

    name: str
    package: str

    @cached_property
    def migrations(self) -> tuple[Migration, ...]:
        """In order. Raises `FileNotFoundError` where a way back is missing."""
        directory = files(self.package)
        found = []
        for entry in directory.iterdir():
            if match := _FILE.fullmatch(entry.name):
                down = directory.joinpath(entry.name.replace(".up.sql", ".down.sql"))
                texts = entry.read_text(encoding="utf-8"), down.read_text(encoding="utf-8")
                found.append(Migration(self.name, int(match[1]), match[2], *texts))
        return tuple(sorted(found, key=lambda migration: migration.number))

    @property
    def latest(self) -> int:
        """The highest number, 0 for an empty set."""
        return max((migration.number for migration in self.migrations), default=0)
