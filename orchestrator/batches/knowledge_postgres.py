"""Knowledge in PostgreSQL, on the saver's pool."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar
from uuid import UUID

from psycopg.rows import DictRow

from checkpointer.postgres.pool import Pool
from checkpointer.postgres.retry import ride_out
from orchestrator.batches.knowledge import (
    Alias,
    BatchCounts,
    EntityNotFoundError,
    Explanation,
    KnownEntity,
    KnownRelation,
    Merge,
    Problem,
    Provenance,
    Statement,
    canonical_id,
    entity_of,
)
from orchestrator.batches.knowledge_rows import PostgresRows, knowledge_queries, merge_of
from orchestrator.batches.knowledge_steps import KnowledgeSteps, Rows
from orchestrator.runs.sender import translated

__all__ = ["PostgresKnowledgeStore"]

ResultT = TypeVar("ResultT")


class PostgresKnowledgeStore(KnowledgeSteps):
    """A `KnowledgeStore` over a database. A lost server is ridden out for `retry_for_s` seconds, then
    `DatabaseUnavailableError` is raised."""

    def __init__(self, pool: Pool, schema: str, *, retry_for_s: float = 30.0) -> None:
        self._pool = pool
        self._retry_for_s = retry_for_s
        self._queries = knowledge_queries(schema)

    async def batch_counts(self, batch_id: str) -> BatchCounts:
        [row] = await self._ask("batch_counts", batch_id=batch_id)
        return BatchCounts(**row)

    async def entities(
        self, organization: str, batch_id: str | None = None, *, after: str | None = None, limit: int = 100
    ) -> list[KnownEntity]:
        return await self._entities(organization, batch_id=batch_id, after=after, limit=limit)

    async def relations(
        self, organization: str, batch_id: str | None = None, *, after: str | None = None, limit: int = 100
    ) -> list[KnownRelation]:
        rows = await self._ask(
            "list_relations", organization_id=organization, batch_id=batch_id, after=after, limit=limit
        )
        ids = ("relation_id", "subject_id", "object_id")
        return [KnownRelation(**{**row, **{name: str(row[name]) for name in ids}}) for row in rows]

    async def evidence(
        self, relation_id: str, *, batch_id: str | None = None, organization: str | None = None, limit: int = 1000
    ) -> list[Statement]:
        if not _is_uuid(relation_id):
            return []
        given = {"relation_id": relation_id, "batch_id": batch_id, "organization_id": organization, "limit": limit}
        return [_statement(row) for row in await self._ask("evidence", **given)]

    async def entity(self, entity_id: str, *, organization: str | None = None) -> KnownEntity:
        root, owner = await self._root(entity_id, organization)
        found = await self._entities(owner, root_id=root)
        if not found:
            raise EntityNotFoundError(entity_id)
        return found[0]

    async def provenance(
        self, entity_id: str, *, batch_id: str | None = None, organization: str | None = None, limit: int = 1000
    ) -> list[Provenance]:
        root, _ = await self._root(entity_id, organization)
        rows = await self._ask("provenance", root_id=root, batch_id=batch_id, limit=limit)
        return [_provenance(row) for row in rows]

    async def surfaces(self, entity_ids: Sequence[str]) -> dict[str, list[str]]:
        rows = await self._ask("surfaces_of_entities", ids=list(entity_ids))
        return {str(row["root_id"]): sorted(row["surfaces"]) for row in rows}

    async def places(
        self, entity_ids: Sequence[str], *, batch_id: str | None = None, limit: int = 20
    ) -> dict[str, list[Provenance]]:
        found: dict[str, list[Provenance]] = {}
        for row in await self._ask("places_of_entities", ids=list(entity_ids), batch_id=batch_id, limit=limit):
            found.setdefault(str(row["root_id"]), []).append(_provenance(row))
        return found

    async def statements(
        self, relation_ids: Sequence[str], *, batch_id: str | None = None, limit: int = 20
    ) -> dict[str, list[Statement]]:
        found: dict[str, list[Statement]] = {}
        for row in await self._ask("statements_of_relations", ids=list(relation_ids), batch_id=batch_id, limit=limit):
            found.setdefault(str(row["listed_id"]), []).append(_statement(row))
        return found

    async def merges(
        self, organization: str, batch_id: str, *, after: str | None = None, limit: int = 100
    ) -> list[Merge]:
        rows = await self._ask(
            "merges_of_batch", organization_id=organization, batch_id=batch_id, after=after, limit=limit
        )
        return [merge_of(row) for row in rows]

    async def explain(self, entity_id: str, *, organization: str | None = None) -> Explanation:
        entity = await self.entity(entity_id, organization=organization)
        aliases = await self._ask("aliases_of_entity", root_id=entity.entity_id)
        merges = await self._ask("merges_of_entity", root_id=entity.entity_id)
        return Explanation(entity, [Alias(**row) for row in aliases], [merge_of(row) for row in merges])

    async def validate(self, batch_id: str) -> list[Problem]:
        missing = await self._ask("missing_entities", batch_id=batch_id)
        dangling = await self._ask("dangling_mentions", batch_id=batch_id)
        empty = await self._ask("empty_names", batch_id=batch_id)
        found = [
            *(
                Problem.missing_end(
                    row["document_key"], row["predicate"], subject=row["lacks_subject"], object_=row["lacks_object"]
                )
                for row in missing
            ),
            *(Problem.dangling_mention(row["document_key"], row["span_start"], row["span_end"]) for row in dangling),
            *(Problem.empty_name(row["document_key"], row["type"]) for row in empty),
        ]
        return sorted(set(found))

    async def _entities(
        self,
        organization: str,
        *,
        batch_id: str | None = None,
        after: str | None = None,
        root_id: str | None = None,
        limit: int = 1,
    ) -> list[KnownEntity]:
        rows = await self._ask(
            "list_entities",
            organization_id=organization,
            batch_id=batch_id,
            after=after,
            root_id=root_id,
            limit=limit,
        )
        return [_entity(row, organization) for row in rows]

    async def _root(self, entity_id: str, organization: str | None) -> tuple[str, str]:
        entity_id = canonical_id(entity_id)
        rows = await self._ask("root_of", entity_id=entity_id) if _is_uuid(entity_id) else []
        if not rows or organization not in (None, rows[0]["organization_id"]):
            raise EntityNotFoundError(entity_id)
        return str(rows[0]["root_id"]), rows[0]["organization_id"]

    async def _owner_of_merge(self, merge_id: str) -> str | None:
        rows = await self._ask("get_merge", merge_id=merge_id) if _is_uuid(merge_id) else []
        return rows[0]["organization_id"] if rows else None

    async def _change(self, organization: str, work: Callable[[Rows], Awaitable[ResultT]]) -> ResultT:
        async def attempt() -> ResultT:
            async with self._pool.connection(timeout=self._retry_for_s) as conn, conn.transaction():
                return await work(PostgresRows(conn, self._queries, organization))

        return await translated(ride_out("changing knowledge", attempt, for_s=self._retry_for_s))

    async def _ask(self, query: str, **params: Any) -> list[DictRow]:
        async def attempt() -> list[DictRow]:
            async with self._pool.connection(timeout=self._retry_for_s) as conn:
                cursor = await conn.execute(self._queries[query].encode(), params)
                return await cursor.fetchall()

        return await translated(ride_out(query, attempt, for_s=self._retry_for_s))


def _entity(row: DictRow, organization: str) -> KnownEntity:
    spellings = list(zip(row["names"], row["types"], row["mentions"], strict=True))
    return entity_of(str(row["entity_id"]), organization, spellings, row["documents"])


def _provenance(row: DictRow) -> Provenance:
    return Provenance(str(row["batch_id"]), row["document_key"], row["span_start"], row["span_end"], row["text"])


def _statement(row: DictRow) -> Statement:
    return Statement(str(row["batch_id"]), row["document_key"], row["span_start"], row["span_end"], row["sentence"])


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
