"""`holdfast setup --roles --sql`: two roles of least privilege, as SQL for a DBA. Nothing here connects.

    holdfast_migrator   owns the schema; creates and upgrades its tables (`holdfast setup`), restores backups
    holdfast_runtime    reads and writes their rows, creates nothing; servers and workers, with POSTGRES_SETUP=verify

Passwords are the DBA's. The script may be run before the tables are made and again after; either way it ends with the
same privileges. Run it once more after `holdfast setup`, so that the runtime can't change the list of migrations.
"""

from __future__ import annotations

from checkpointer.postgres.queries import load_queries
from orchestrator.settings import OrchestratorSettings

__all__ = ["MIGRATOR", "RUNTIME", "print_roles", "roles_sql"]

MIGRATOR, RUNTIME = "holdfast_migrator", "holdfast_runtime"
_STEPS = ("roles_create", "roles_own", "roles_grant", "roles_protect")
_HEAD = f"""\
-- Roles of least privilege for the schema {{schema}}. Run this in its database, as a superuser,
-- or as a role that has CREATEROLE and owns what is there. Safe to run again.
--
--   {MIGRATOR}   owns the schema: `holdfast setup`, `holdfast restore`. Nothing that serves connects as it.
--   {RUNTIME}    reads and writes rows: servers and workers, with POSTGRES_SETUP=verify.
--
-- Neither has a password yet: in psql, \\password {MIGRATOR} and \\password {RUNTIME}.
-- Then run `holdfast setup` as {MIGRATOR}, and this once more.
-- Before PostgreSQL 15 also: REVOKE CREATE ON SCHEMA public FROM PUBLIC;
"""


def roles_sql(schema: str) -> str:
    """The script, for psql or any other client that runs several statements."""
    queries = load_queries("orchestrator.cli", schema)
    parts = [_HEAD.format(schema=schema), "BEGIN;", *(queries[step] for step in _STEPS), "COMMIT;"]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def print_roles() -> None:
    """Print it, for the schema that the settings name."""
    print(roles_sql(OrchestratorSettings().postgres_schema), end="")
