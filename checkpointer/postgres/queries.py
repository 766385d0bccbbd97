"""Loads `queries.sql` files: every statement named, each with one line saying what it is for.

    -- name: create_run
    -- Adds a run unless its idempotency key was seen before.
    INSERT INTO {schema}.workflow_metadata …

`{schema}` becomes the quoted name of the schema, so no statement depends on a session's search_path (which does
not survive a pooler in transaction mode). Parameters are psycopg's `%(name)s`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType

from psycopg import sql

__all__ = ["load_queries", "quote_identifier"]

_NAME = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)


def quote_identifier(name: str) -> str:
    """The name as a quoted SQL identifier; needs no connection."""
    return sql.Identifier(name).as_string(None)


@cache
def load_queries(package: str, schema: str) -> Mapping[str, str]:
    """The statements of `package`'s queries.sql by name, for the given schema."""
    text = files(package).joinpath("queries.sql").read_text(encoding="utf-8")
    _, *parts = _NAME.split(text)
    named = zip(parts[::2], parts[1::2], strict=True)
    return MappingProxyType({name: body.replace("{schema}", quote_identifier(schema)).strip() for name, body in named})
