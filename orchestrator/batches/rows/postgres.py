"""Batches in PostgreSQL, on the saver's pool."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

from psycopg.rows import DictRow

from checkpointer.postgres.pool import Pool
from checkpointer.postgres.queries import load_queries
from orchestrator.batches.model import BatchState, DocumentRow, DocumentState, Tally
from orchestrator.batches.rows.store import BatchRow
from orchestrator.runs.sender import Sender, bare

__all__ = ["PostgresBatchStore"]


class PostgresBatchStore:
    """A `BatchStore` over a database."""

    def __init__(self, pool: Pool, schema: str) -> None:
        queries = load_queries(__package__ or "", schema)
        now = bare(queries["documents_now"])
        self._sender = Sender(pool, schema, {name: bare(each).replace("{now}", now) for name, each in queries.items()})

    async def begin(self, batch: BatchRow) -> None:
        await self._sender.ask(
            "begin_batch",
            batch_id=batch.batch_id,
            organization_id=batch.organization_id,
            title=batch.title,
            policy=batch.policy,
            state=str(batch.state),
        )

    async def enter(self, batch_id: str, state: BatchState) -> None:
        await self._sender.ask("enter_state", batch_id=batch_id, state=str(state))

    async def find(self, batch_id: str) -> BatchRow | None:
        rows = await self._sender.ask("find_batch", batch_id=batch_id)
        return BatchRow(**{**rows[0], "batch_id": batch_id, "state": BatchState(rows[0]["state"])}) if rows else None

    async def add_documents(self, batch_id: str, rows: Sequence[DocumentRow]) -> None:
        await self._sender.ask("add_documents", batch_id=batch_id, **_columns(rows))

    async def keys(self, batch_id: str) -> set[str]:
        return {row["key"] for row in await self._sender.ask("document_keys", batch_id=batch_id)}

    async def documents(
        self,
        batch_id: str,
        *,
        states: Collection[DocumentState] | None = None,
        after: int = -1,
        limit: int = 100,
    ) -> list[DocumentRow]:
        wanted = None if states is None else [str(state) for state in states]
        rows = await self._sender.ask("list_documents", batch_id=batch_id, states=wanted, after=after, limit=limit)
        return [_document(row) for row in rows]

    async def advance(self, batch_id: str, was: DocumentState, rows: Sequence[DocumentRow]) -> None:
        columns = _columns(rows)
        taken = {name: columns[name] for name in ("keys", "titles", "content_hashes", "states", "errors")}
        await self._sender.ask("advance_documents", batch_id=batch_id, was=str(was), **taken)

    async def settle(self, batch_id: str) -> None:
        await self._sender.ask("settle_documents", batch_id=batch_id)

    async def tallies(self, batch_id: str) -> list[Tally]:
        rows = await self._sender.ask("tally_documents", batch_id=batch_id)
        return [
            Tally(DocumentState(row["state"]), row["failed_in"] and BatchState(row["failed_in"]), row["count"])
            for row in rows
        ]


def _columns(rows: Sequence[DocumentRow]) -> dict[str, Any]:
    return {
        "keys": [row.key for row in rows],
        "positions": [row.position for row in rows],
        "names": [row.name for row in rows],
        "sources": [json.dumps(row.source) for row in rows],
        "titles": [row.title for row in rows],
        "content_hashes": [row.content_hash for row in rows],
        "states": [str(row.state) for row in rows],
        "errors": [None if row.error is None else json.dumps(row.error) for row in rows],
        "run_ids": [row.run_id for row in rows],
    }


def _document(row: DictRow) -> DocumentRow:
    values = {name: value for name, value in row.items() if name != "batch_id"}
    run_id = None if row["run_id"] is None else str(row["run_id"])
    return DocumentRow(**{**values, "state": DocumentState(row["state"]), "run_id": run_id})
