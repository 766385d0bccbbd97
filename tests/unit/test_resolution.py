"""Resolution over whole documents: the order does not matter, and a merge that is undone leaves no trace."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.batches.knowledge_memory import MemoryKnowledgeStore
from tests.knowledge import BATCH, ORG, all_entities, document, statements

# Clear-cut and ambiguous at once: acronyms of one thing and of two, untyped names, initials, one-letter slips.
SPECS = (
    "organization: ACME Corp. / ACME",
    "organization: Acme Corporation",
    "acronym: ACME",
    "name: Acme Inc",
    "organization: World Health Organization / WHO",
    "organization: World Heritage Office / WHO",
    "acronym: WHO",
    "organization: WHO",
    "organization: International Telecommunication Union / ITU",
    "organization: Internationel Telecommunication Union",
    "name: ITU",
    "place: Paris",
    "person: Paris",
    "name: Paris",
    "person: John Smith / Smith",
    "person: Jane Smith / Smith",
    "person: J. Smith",
    "person: Smith",
    "name: John Smith",
    "technology: PostgreSQL / Postgres",
    "technology: PostgresSQL",
    "name: Big Blue / IBM / International Business Machines",
    "organization: International Business Machines",
    "acronym: IBM",
    "organization: Intercontinental Telekom",
    "organization: Intercontinental Telecom",
    "organization: Intercontinentel Telecom",
)
DOCUMENTS = st.lists(st.lists(st.sampled_from(SPECS), min_size=1, max_size=4, unique=True), min_size=1, max_size=7)


async def filled(documents: Sequence[tuple[int, Sequence[str]]]) -> MemoryKnowledgeStore:
    store = MemoryKnowledgeStore()
    for number, specs in documents:
        await store.add_document(ORG, BATCH, f"d{number}", document(*specs))
    return store


async def state(store: MemoryKnowledgeStore) -> list[tuple[int, tuple[tuple[str, int, bool], ...]]]:
    """Each entity by its mentions and spellings, without ids."""
    found = [await store.explain(one.entity_id) for one in await all_entities(store)]
    spelled = [tuple((alias.surface, alias.documents, alias.spelled_out) for alias in one.aliases) for one in found]
    return sorted(zip((one.entity.mentions for one in found), spelled, strict=True))


@given(DOCUMENTS, st.data())
@settings(max_examples=150, deadline=None)
def test_the_order_of_documents_does_not_matter(documents: list[list[str]], data: st.DataObject) -> None:
    numbered = list(enumerate(documents))
    shuffled = data.draw(st.permutations(numbered))

    async def compare() -> None:
        assert await state(await filled(numbered)) == await state(await filled(shuffled))

    asyncio.run(compare())


@given(DOCUMENTS, DOCUMENTS)
@settings(max_examples=75, deadline=None)
def test_a_document_that_changed_is_as_if_it_had_always_been_so(old: list[list[str]], new: list[list[str]]) -> None:
    length = min(len(old), len(new))

    async def compare() -> None:
        store = await filled(list(enumerate(old[:length])))
        for number, specs in enumerate(new[:length]):
            await store.add_document(ORG, BATCH, f"d{number}", document(*specs))
        assert await state(store) == await state(await filled(list(enumerate(new[:length]))))

    asyncio.run(compare())


@given(DOCUMENTS, st.data())
@settings(max_examples=75, deadline=None)
def test_undoing_every_merge_leaves_each_spelling_by_itself(documents: list[list[str]], data: st.DataObject) -> None:
    async def undo() -> None:
        numbered = list(enumerate(documents))
        store = await filled(numbered)
        stated = await statements(store)
        merges = {
            merge.merge_id
            for one in await all_entities(store)
            for merge in (await store.explain(one.entity_id)).merges
            if merge.undone_at is None
        }
        before = len(await all_entities(store))
        for undone, merge_id in enumerate(data.draw(st.permutations(sorted(merges))) if merges else [], 1):
            await store.undo_merge(merge_id)
            assert len(await all_entities(store)) == before + undone
        apart = await state(store)
        for number, specs in numbered:
            await store.add_document(ORG, BATCH, f"d{number}", document(*specs))
        assert await state(store) == apart
        assert await statements(store) == stated
        for one in await all_entities(store):
            assert not [each for each in (await store.explain(one.entity_id)).merges if each.undone_at is None]

    asyncio.run(undo())
