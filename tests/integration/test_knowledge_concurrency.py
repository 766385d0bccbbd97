"""Documents resolved at the same time, over several connections to a real PostgreSQL."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from uuid import uuid4

import psycopg
import pytest

from checkpointer import CheckpointerSettings
from orchestrator.batches.knowledge import KnowledgeStore
from orchestrator.batches.knowledge_memory import MemoryKnowledgeStore
from orchestrator.workflows.extraction.records import Extraction
from tests.knowledge import ORG, all_entities, document, open_knowledge, partition, relation, statements

SPELLINGS = (
    "organization: ACME Corp. / ACME",
    "organization: Acme Corporation",
    "acronym: ACME",
    "organization: World Health Organization / WHO",
    "organization: WHO",
    "organization: Deutsche Telekom AG",
    "organization: Deutsche Telecom",
    "place: Zürich",
    "place: Zuerich",
    "name: Zürich",
    "person: Dr. Ada Lovelace",
    "person: Lovelace, Ada",
    "technology: PostgreSQL / Postgres",
    "technology: Kubernets",
    "technology: Kubernetes",
)
ONCE = {
    frozenset({"ACME Corp.", "ACME", "Acme Corporation"}),
    frozenset({"World Health Organization", "WHO"}),
    frozenset({"Deutsche Telekom AG", "Deutsche Telecom"}),
    frozenset({"Zürich", "Zuerich"}),
    frozenset({"Dr. Ada Lovelace", "Lovelace, Ada"}),
    frozenset({"PostgreSQL", "Postgres"}),
    frozenset({"Kubernets", "Kubernetes"}),
}


@pytest.fixture
async def stores(checkpointer_settings: CheckpointerSettings) -> AsyncIterator[list[KnowledgeStore]]:
    """Two processes as far as the database can tell, each with five connections."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(open_knowledge(checkpointer_settings)) for _ in range(2)]


def overlapping(seed: int) -> list[Extraction]:
    """Documents that have every spelling, several times, in an order of their own."""
    order = random.Random(seed)  # noqa: S311
    found = []
    for _ in range(6):
        some = order.sample(SPELLINGS, 6)
        found.append(document(*some, relations=[relation(1, "knows", 2), relation(3, "knows", 4)]))
    return [*found, document(*order.sample(SPELLINGS, len(SPELLINGS)))]


@pytest.mark.parametrize("seed", range(8))
async def test_two_batches_that_find_the_same_at_once_make_it_once(
    stores: list[KnowledgeStore], conn: psycopg.Connection, seed: int
) -> None:
    batches = [str(uuid4()), str(uuid4())]
    work = [
        (stores[number], batch, f"d{position}", extraction)
        for number, batch in enumerate(batches)
        for position, extraction in enumerate(overlapping(seed + 100 * number))
    ]
    random.Random(seed).shuffle(work)  # noqa: S311
    # Twice: as if every worker had been lost after its work and before its answer.
    await asyncio.gather(*(store.add_document(ORG, batch, key, one) for store, batch, key, one in [*work, *work]))
    assert await partition(stores[0]) == ONCE
    assert sum(one.mentions for one in await all_entities(stores[0])) == 2 * (6 * 6 + len(SPELLINGS))
    assert sum((await statements(stores[0])).values()) <= 2 * 2 * 6
    assert [await stores[0].validate(batch) for batch in batches] == [[], []]
    alone = MemoryKnowledgeStore()
    for _, batch, key, extraction in work:
        await alone.add_document(ORG, batch, key, extraction)
    assert await partition(alone) == ONCE
    live = conn.execute("SELECT count(*) FROM workflow_checkpoints.knowledge_merge WHERE undone_at IS NULL").fetchone()
    spellings = conn.execute("SELECT count(*) FROM workflow_checkpoints.knowledge_entity").fetchone()
    assert live is not None
    assert spellings is not None
    # A forest: each link joins two parts that were apart.
    assert live[0] == spellings[0] - len(ONCE)
    deadlocks = conn.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").fetchone()
    assert deadlocks == (0,)


async def test_one_document_by_two_workers_is_one_document(stores: list[KnowledgeStore]) -> None:
    batch = str(uuid4())
    one, other = document(*SPELLINGS[:8]), document(*SPELLINGS[4:])
    await asyncio.gather(*(store.resolve_document(ORG, batch, "d", one) for store in stores * 4))
    await asyncio.gather(*(store.ingest_document(ORG, batch, "d", one) for store in stores * 4))
    assert (await stores[0].batch_counts(batch)).mentions == 8
    await asyncio.gather(*(store.resolve_document(ORG, batch, "d", other) for store in stores * 4))
    await asyncio.gather(*(store.ingest_document(ORG, batch, "d", other) for store in stores * 4))
    counts = await stores[1].batch_counts(batch)
    assert (counts.documents, counts.mentions) == (1, len(SPELLINGS) - 4)


async def test_a_merge_is_undone_while_documents_come_in(stores: list[KnowledgeStore]) -> None:
    batch = str(uuid4())
    await stores[0].add_document(ORG, batch, "a", document("organization: Kubernetics Labs"))
    await stores[0].add_document(ORG, batch, "b", document("organization: Kubernetiks Labs"))
    [one] = await all_entities(stores[0])
    [merge] = (await stores[0].explain(one.entity_id)).merges
    more = [
        document("organization: Kubernetics Labs", "organization: Kubernetiks Labs", f"place: Town{number}")
        for number in range(10)
    ]
    adding = (stores[n % 2].add_document(ORG, batch, f"d{n}", extraction) for n, extraction in enumerate(more))
    undoing = (store.undo_merge(merge.merge_id) for store in stores)
    await asyncio.gather(*adding, *undoing)
    found = await partition(stores[1])
    assert {frozenset({"Kubernetics Labs"}), frozenset({"Kubernetiks Labs"})} <= found
    assert len(found) == 12
