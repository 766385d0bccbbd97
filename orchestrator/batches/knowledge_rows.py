"""The rows of knowledge in PostgreSQL, on one transaction's connection."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC
from typing import Any

from psycopg.rows import DictRow

from checkpointer.postgres.pool import Connection
from checkpointer.postgres.queries import load_queries
from orchestrator.batches.knowledge import Merge, UndoneWhy
from orchestrator.batches.knowledge_steps import Document
from orchestrator.batches.reading import AliasRow, EvidenceRow, MentionRow, RelationKey, SpellingKey
from orchestrator.batches.resolution import Link, Spelling
from orchestrator.runs.model import new_run_id
from orchestrator.runs.sender import bare

__all__ = ["PostgresRows", "knowledge_queries", "merge_of"]

_PACKAGE = "orchestrator.batches"


def knowledge_queries(schema: str) -> Mapping[str, str]:
    """The statements of `queries.sql`, complete."""
    queries = load_queries(_PACKAGE, schema)
    spelling = bare(queries["spelling"])
    return {name: bare(query.replace("{spelling}", spelling)) for name, query in queries.items()}


class PostgresRows:
    """`Rows` over a connection that is in a transaction."""

    def __init__(self, conn: Connection, queries: Mapping[str, str], organization: str) -> None:
        self._conn = conn
        self._queries = queries
        self._organization = organization

    async def lock(self, keys: Sequence[int]) -> None:
        if keys:
            await self._ask("lock", keys=list(keys))

    async def with_keys(self, keys: Collection[SpellingKey]) -> list[Spelling]:
        types, normals = [type_ for type_, _ in keys], [normal for _, normal in keys]
        return _spellings(await self._ask("spellings_with_keys", types=types, normals=normals))

    async def with_forms(self, forms: Collection[str]) -> list[Spelling]:
        return _spellings(await self._ask("spellings_with_forms", forms=list(forms)))

    async def near(self, blocks: Collection[int]) -> list[Spelling]:
        return _spellings(await self._ask("spellings_near", blocks=list(blocks)))

    async def claims(self, forms: Collection[str]) -> list[tuple[str, Spelling]]:
        rows = await self._ask("claims", forms=list(forms))
        return [(row["form"], _spelling(row)) for row in rows]

    async def members(self, ids: Collection[str]) -> list[Spelling]:
        return _spellings(await self._ask("members", ids=list(ids))) if ids else []

    async def links(self, ids: Collection[str]) -> list[Link]:
        return [_link(row) for row in await self._ask("live_links", ids=list(ids))]

    async def apart(self, ids: Collection[str]) -> list[tuple[str, str]]:
        return [(str(row["left_id"]), str(row["right_id"])) for row in await self._ask("apart", ids=list(ids))]

    async def aliases(self, document: Document) -> set[AliasRow]:
        rows = await self._ask("aliases_of_document", **_of(document))
        return {AliasRow(str(row["entity_id"]), row["surface"], row["normal"], row["spelled_out"]) for row in rows}

    async def add_spellings(self, spellings: Sequence[Spelling], blocks: Sequence[list[int]]) -> None:
        if spellings:
            await self._ask(
                "add_spellings",
                ids=[one.entity_id for one in spellings],
                types=[one.type for one in spellings],
                normals=[one.normal for one in spellings],
                names=[one.name for one in spellings],
                # An array of arrays would have to be rectangular.
                blocks=["{" + ",".join(map(str, own)) + "}" for own in blocks],
            )

    async def replace_aliases(self, document: Document, rows: Collection[AliasRow], *, had: bool) -> None:
        if had:
            await self._ask("remove_aliases", **_of(document))
        kept = sorted(rows)
        await self._ask(
            "add_aliases",
            **_of(document),
            ids=[row.entity_id for row in kept],
            surfaces=[row.surface for row in kept],
            normals=[row.normal for row in kept],
            spelled_out=[row.spelled_out for row in kept],
        )

    async def replace_mentions(self, document: Document, rows: Sequence[MentionRow]) -> None:
        await self._ask("remove_mentions", **_of(document))
        await self._ask(
            "add_mentions",
            **_of(document),
            ids=[row.entity_id for row in rows],
            starts=[row.start for row in rows],
            ends=[row.end for row in rows],
            texts=[row.text for row in rows],
        )

    async def replace_evidence(
        self, document: Document, relations: Sequence[RelationKey], rows: Sequence[EvidenceRow]
    ) -> None:
        await self._ask("remove_evidence", **_of(document))
        ids = [new_run_id() for _ in relations]
        await self._ask("add_relations", relation_ids=ids, **_relations(relations))
        await self._ask(
            "add_evidence",
            **_of(document),
            **_relations([row.relation for row in rows]),
            starts=[row.start for row in rows],
            ends=[row.end for row in rows],
            sentences=[row.sentence for row in rows],
        )

    async def add_links(self, batch_id: str, links: Sequence[Link]) -> None:
        await self._ask(
            "add_links",
            batch_id=batch_id,
            merge_ids=[new_run_id() for _ in links],
            survivors=[link.survivor for link in links],
            absorbed=[link.absorbed for link in links],
            lefts=[link.left for link in links],
            rights=[link.right for link in links],
            scores=[link.score for link in links],
            rules=[link.rule for link in links],
            reasons=[link.reason for link in links],
        )

    async def end_links(self, merge_ids: Collection[str], why: UndoneWhy) -> None:
        await self._ask("end_links", merge_ids=list(merge_ids), why=why)

    async def set_roots(self, roots: Mapping[str, str]) -> None:
        await self._ask("set_roots", ids=list(roots), roots=list(roots.values()))

    async def merge(self, merge_id: str) -> tuple[Merge, Link] | None:
        rows = await self._ask("get_merge", merge_id=merge_id)
        return (merge_of(rows[0]), _link(rows[0])) if rows else None

    async def _ask(self, query: str, **params: Any) -> list[DictRow]:
        given = {"organization_id": self._organization, **params}
        cursor = await self._conn.execute(self._queries[query].encode(), given)
        return await cursor.fetchall() if cursor.description else []


def merge_of(row: DictRow) -> Merge:
    """A row of `knowledge_merge`, with the names of its two spellings."""
    return Merge(
        merge_id=str(row["merge_id"]),
        organization_id=row["organization_id"],
        survivor_id=str(row["survivor_id"]),
        absorbed_id=str(row["absorbed_id"]),
        left=row["left_name"],
        right=row["right_name"],
        score=row["score"],
        rule=row["rule"],
        reason=row["reason"],
        batch_id=str(row["batch_id"]),
        at=row["at"].astimezone(UTC),
        undone_at=row["undone_at"] and row["undone_at"].astimezone(UTC),
        undone_why=row["undone_why"],
    )


def _of(document: Document) -> dict[str, str]:
    return {"batch_id": document.batch_id, "document_key": document.key}


def _relations(relations: Sequence[RelationKey]) -> dict[str, list[str | None]]:
    return {
        "subjects": [one.subject_id for one in relations],
        "predicates": [one.predicate for one in relations],
        "objects": [one.object_id for one in relations],
        "kinds": [one.kind for one in relations],
    }


def _spellings(rows: Sequence[DictRow]) -> list[Spelling]:
    return [_spelling(row) for row in rows]


def _spelling(row: DictRow) -> Spelling:
    return Spelling(
        entity_id=str(row["entity_id"]),
        type=row["type"],
        normal=row["normal"],
        name=row["name"],
        root_id=str(row["root_id"]),
        seen=row["seen"],
    )


def _link(row: DictRow) -> Link:
    return Link(
        left=str(row["left_id"]),
        right=str(row["right_id"]),
        score=row["score"],
        rule=row["rule"],
        reason=row["reason"],
        survivor=str(row["survivor_id"]),
        absorbed=str(row["absorbed_id"]),
        merge_id=str(row["merge_id"]),
    )
