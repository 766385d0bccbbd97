"""The contract of a knowledge store, over each of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import permutations
from uuid import uuid4

import pytest

from checkpointer import CheckpointerSettings
from orchestrator.batches.knowledge import (
    BatchCounts,
    EntityNotFoundError,
    KnowledgeStore,
    Merge,
    MergeNotFoundError,
    Problem,
)
from orchestrator.errors import InvalidRequestError
from orchestrator.workflows.extraction import ExtractionPipeline
from tests.knowledge import (
    BATCH,
    ORG,
    OTHER_BATCH,
    all_entities,
    document,
    names,
    open_knowledge,
    partition,
    relation,
    statements,
)

ACME = document("organization: ACME Corp. / ACME", "place: Berlin", relations=[relation(1, "is in", 2)])
TEXT = "ACME Corp. is based in Berlin. Jane Smith works for Acme Corporation."


@pytest.fixture
async def store(stage_settings: CheckpointerSettings) -> AsyncIterator[KnowledgeStore]:
    async with open_knowledge(stage_settings) as store:
        yield store


async def add(store: KnowledgeStore, key: str, *specs: str, batch: str = BATCH) -> None:
    await store.add_document(ORG, batch, key, document(*specs))


async def only_merge(store: KnowledgeStore, name: str) -> Merge:
    [found] = [one for one in await all_entities(store) if one.name == name]
    [merge] = (await store.explain(found.entity_id)).merges
    return merge


class TestAdding:
    async def test_a_document_is_there_with_all_it_says(self, store: KnowledgeStore) -> None:
        result = await store.add_document(ORG, BATCH, "a.txt", ACME)
        entities = await all_entities(store)
        assert {(one.name, one.type, one.mentions, one.documents) for one in entities} == {
            ("ACME Corp.", "organization", 1, 1),
            ("Berlin", "place", 1, 1),
        }
        assert {one.entity_id for one in entities} == set(result.entities.values())
        assert (result.mentions, result.relations, result.evidence) == (2, 1, 1)
        assert await statements(store) == {("ACME Corp.", "is in", "Berlin"): 1}
        [place] = await store.provenance(result.entities["e1"])
        assert (place.batch_id, place.document_key, place.start, place.end) == (BATCH, "a.txt", 100, 110)
        assert place.text == "ACME Corp."
        assert await store.batch_counts(BATCH) == BatchCounts(1, 2, 2, 1, 1, 0)
        assert await store.validate(BATCH) == []

    async def test_mentions_have_the_words_of_the_text(self, store: KnowledgeStore) -> None:
        extraction = ExtractionPipeline().run(TEXT)
        result = await store.add_document(ORG, BATCH, "a", extraction, TEXT)
        [acme] = [one for one in await all_entities(store) if one.type == "organization"]
        assert [place.text for place in await store.provenance(acme.entity_id)] == ["ACME Corp", "Acme Corporation"]
        assert len(result.entities) == len(extraction["entities"])

    async def test_every_step_may_be_repeated(self, store: KnowledgeStore) -> None:
        first = await store.resolve_document(ORG, BATCH, "a", ACME)
        assert await store.resolve_document(ORG, BATCH, "a", ACME) == first
        once = await store.ingest_document(ORG, BATCH, "a", ACME)
        assert await store.ingest_document(ORG, BATCH, "a", ACME) == once
        assert await store.add_document(ORG, BATCH, "a", ACME) == once
        assert await store.batch_counts(BATCH) == BatchCounts(1, 2, 2, 1, 1, 0)
        assert await statements(store) == {("ACME Corp.", "is in", "Berlin"): 1}

    async def test_a_document_that_was_not_resolved_is_refused(self, store: KnowledgeStore) -> None:
        with pytest.raises(InvalidRequestError, match="resolve_document"):
            await store.ingest_document(ORG, BATCH, "a", ACME)
        await store.resolve_document(ORG, BATCH, "a", ACME)
        with pytest.raises(InvalidRequestError, match="'a'"):
            await store.ingest_document(ORG, BATCH, "a", document("place: Berlin"))

    async def test_a_changed_document_replaces_what_it_was(self, store: KnowledgeStore) -> None:
        await store.add_document(ORG, BATCH, "a", ACME)
        await store.add_document(ORG, BATCH, "b", document("place: Berlin"))
        changed = document("place: Berlin", "place: Paris", relations=[relation(1, "is far from", 2)])
        await store.add_document(ORG, BATCH, "a", changed)
        assert await names(store) == ["Berlin", "Paris"]
        assert await statements(store) == {("Berlin", "is far from", "Paris"): 1}
        assert await store.batch_counts(BATCH) == BatchCounts(2, 2, 3, 1, 1, 0)
        await store.add_document(ORG, BATCH, "a", ACME)
        assert await names(store) == ["ACME Corp.", "Berlin"]
        assert await statements(store) == {("ACME Corp.", "is in", "Berlin"): 1}
        await store.add_document(ORG, BATCH, "a", document())
        assert await names(store) == ["Berlin"]

    async def test_what_cannot_be_stored_as_it_is(self, store: KnowledgeStore) -> None:
        odd = document(
            "name: a\x00b\ud800", f"url: https://x/{'y' * 9000}", "name: 東京 / とうきょう", "person: \u202e"
        )
        await store.add_document(ORG, BATCH, "a\u00e9", odd)
        assert len(await all_entities(store)) == 4
        assert await store.validate(BATCH) == []

    async def test_organizations_know_nothing_of_each_other(self, store: KnowledgeStore) -> None:
        mine = await store.add_document(ORG, BATCH, "a", ACME)
        other = await store.add_document("other", OTHER_BATCH, "a", ACME)
        assert not set(mine.entities.values()) & set(other.entities.values())
        assert await names(store) == await names(store, "other") == ["ACME Corp.", "Berlin"]
        for ask in (store.entity, store.explain, store.provenance):
            with pytest.raises(EntityNotFoundError):
                await ask(mine.entities["e1"], organization="other")
        assert (await store.entity(mine.entities["e1"], organization=ORG)).name == "ACME Corp."

    @pytest.mark.parametrize("unknown", ["0199c0de-0000-7000-8000-000000000000", "nonsense"])
    async def test_unknown_ids(self, store: KnowledgeStore, unknown: str) -> None:
        with pytest.raises(EntityNotFoundError):
            await store.explain(unknown)
        with pytest.raises(MergeNotFoundError):
            await store.undo_merge(unknown)


class TestListing:
    async def test_pages_follow_each_other_without_gap_or_repeat(self, store: KnowledgeStore) -> None:
        specs = [f"place: Town{number:02}" for number in range(25)]
        links = [relation(number, "borders", number + 1) for number in range(1, 25)]
        await store.add_document(ORG, BATCH, "a", document(*specs, relations=links))
        entities, relations = await all_entities(store), await store.relations(ORG, limit=1000)
        paged, after = [], None
        while page := await store.entities(ORG, after=after, limit=7):
            paged += page
            after = page[-1].entity_id
        assert paged == entities
        assert len(entities) == 25
        stated, last = [], None
        while some := await store.relations(ORG, after=last, limit=7):
            stated += some
            last = some[-1].relation_id
        assert stated == relations
        assert len(relations) == 24

    async def test_a_batch_shows_what_is_its_own(self, store: KnowledgeStore) -> None:
        await add(store, "a", "organization: ACME", "place: Rome")
        await add(store, "b", "organization: ACME Inc", "place: Paris", batch=OTHER_BATCH)
        await add(store, "c", "organization: ACME", batch=OTHER_BATCH)
        both = {one.name: (one.mentions, one.documents) for one in await all_entities(store)}
        mine = {one.name: (one.mentions, one.documents) for one in await store.entities(ORG, BATCH)}
        other = {one.name: (one.mentions, one.documents) for one in await store.entities(ORG, OTHER_BATCH)}
        assert both == {"ACME": (3, 3), "Rome": (1, 1), "Paris": (1, 1)}
        assert mine == {"ACME": (1, 1), "Rome": (1, 1)}
        assert other == {"ACME": (2, 2), "Paris": (1, 1)}
        [acme] = [one for one in await all_entities(store) if one.name == "ACME"]
        assert len(await store.provenance(acme.entity_id)) == 3
        assert len(await store.provenance(acme.entity_id, limit=2)) == 2
        assert [place.document_key for place in await store.provenance(acme.entity_id, batch_id=BATCH)] == ["a"]


class TestResolving:
    async def test_spellings_of_one_company_in_several_documents_are_one(self, store: KnowledgeStore) -> None:
        for number, spelling in enumerate(["ACME Corp.", "Acme Corporation", "ACME", "acme, Inc."]):
            await add(store, f"d{number}", f"organization: {spelling}", batch=str(uuid4()))
        await add(store, "untyped", "acronym: ACME", "place: Berlin")
        assert await partition(store) == {
            frozenset({"ACME Corp.", "Acme Corporation", "ACME", "acme, Inc."}),
            frozenset({"Berlin"}),
        }

    async def test_an_acronym_that_a_document_spells_out(self, store: KnowledgeStore) -> None:
        await add(store, "a", "organization: International Telecommunication Union")
        await add(store, "b", "acronym: ITU")
        assert len(await all_entities(store)) == 2
        await add(store, "c", "organization: International Telecommunication Union / ITU")
        [one] = await all_entities(store)
        assert (one.name, one.type, one.mentions) == ("International Telecommunication Union", "organization", 3)
        [merge] = (await store.explain(one.entity_id)).merges
        assert (merge.rule, merge.score, {merge.left, merge.right}) == ("spelled_out", 100.0, {"ITU", one.name})
        assert "spells" in merge.reason
        assert merge.batch_id == BATCH

    @pytest.mark.parametrize("order", list(permutations(range(3))))
    async def test_an_acronym_of_two_things_is_nobodys(self, store: KnowledgeStore, order: tuple[int, ...]) -> None:
        documents = [
            ("organization: Association for Computational Linguistics / ACL",),
            ("acronym: ACL",),
            ("concept: Access Control List / ACL",),
        ]
        for number in order:
            await add(store, f"d{number}", *documents[number])
        assert await partition(store) == {
            frozenset({"Association for Computational Linguistics", "ACL"}),
            frozenset({"ACL"}),
            frozenset({"Access Control List", "ACL"}),
        }
        mentions = {one.name: one.mentions for one in await all_entities(store)}
        assert set(mentions.values()) == {1}

    async def test_a_claim_that_is_gone_no_longer_counts(self, store: KnowledgeStore) -> None:
        await add(store, "a", "organization: World Health Organization / WHO")
        await add(store, "b", "name: WHO")
        await add(store, "c", "organization: World Heritage Office / WHO")
        assert len(await all_entities(store)) == 3
        await add(store, "c", "organization: World Heritage Office")
        assert await partition(store) == {
            frozenset({"World Health Organization", "WHO"}),
            frozenset({"World Heritage Office"}),
        }

    async def test_different_types_stay_apart_and_the_generic_type_joins_the_only_one(
        self, store: KnowledgeStore
    ) -> None:
        await add(store, "a", "place: Washington")
        await add(store, "b", "name: Washington")
        assert [one.type for one in await all_entities(store)] == ["place"]
        await add(store, "c", "person: Washington")
        assert sorted(one.type for one in await all_entities(store)) == ["name", "person", "place"]

    async def test_persons_with_an_initial_are_not_guessed(self, store: KnowledgeStore) -> None:
        await add(store, "a", "person: John Smith / Smith")
        await add(store, "b", "person: J. Smith")
        await add(store, "c", "person: Jane Smith / Smith")
        await add(store, "d", "person: Dr. John Smith")
        await add(store, "e", "person: Smith")
        assert await names(store) == ["J. Smith", "Jane Smith", "John Smith", "Smith"]

    async def test_a_third_spelling_links_two_entities(self, store: KnowledgeStore) -> None:
        await add(store, "a", "organization: Intercontinental Telekom")
        await add(store, "b", "organization: Intercontinentel Telecom")
        assert len(await all_entities(store)) == 2
        await add(store, "c", "organization: Intercontinental Telecom", batch=OTHER_BATCH)
        [one] = await all_entities(store)
        merges = (await store.explain(one.entity_id)).merges
        assert [(merge.rule, merge.batch_id) for merge in merges] == [("spelling", OTHER_BATCH)] * 2
        assert all(merge.score >= 88 for merge in merges)


class TestUndoing:
    async def joined(self, store: KnowledgeStore) -> Merge:
        stated = [relation(1, "is in", 2)]
        await store.add_document(
            ORG, BATCH, "a", document("organization: Kubernetics Labs", "place: Rome", relations=stated)
        )
        await store.add_document(
            ORG, BATCH, "b", document("organization: Kubernetiks Labs", "place: Paris", relations=stated)
        )
        return await only_merge(store, "Kubernetics Labs")

    async def test_an_absorbed_entity_is_back_with_what_is_its_own(self, store: KnowledgeStore) -> None:
        merge = await self.joined(store)
        assert len(await store.provenance(merge.absorbed_id)) == 2
        assert (await store.entity(merge.absorbed_id)).entity_id == merge.survivor_id
        undone = await store.undo_merge(merge.merge_id)
        assert (undone.undone_why, undone.undone_at is None) == ("asked", False)
        assert await names(store) == ["Kubernetics Labs", "Kubernetiks Labs", "Paris", "Rome"]
        assert {one.entity_id for one in await all_entities(store)} >= {merge.survivor_id, merge.absorbed_id}
        assert await statements(store) == {
            ("Kubernetics Labs", "is in", "Rome"): 1,
            ("Kubernetiks Labs", "is in", "Paris"): 1,
        }
        [place] = await store.provenance(merge.absorbed_id)
        assert place.document_key == "b"
        for each in (merge.survivor_id, merge.absorbed_id):
            assert (await store.explain(each)).merges == [undone]
        assert await store.undo_merge(merge.merge_id) == undone
        assert (await store.batch_counts(BATCH)).merges == 0

    async def test_later_documents_do_not_merge_them_again(self, store: KnowledgeStore) -> None:
        merge = await self.joined(store)
        await store.undo_merge(merge.merge_id)
        await add(store, "a", "organization: Kubernetics Labs")
        await add(store, "c", "organization: Kubernetics Labs", "organization: Kubernetiks Labs Inc", batch=OTHER_BATCH)
        await add(store, "d", "organization: Kubernetixs Labs", batch=OTHER_BATCH)
        await add(store, "e", "organization: Kubernetics Labs / Kubernetiks Labs")
        found = {one.entity_id for one in await all_entities(store)}
        assert found >= {merge.survivor_id, merge.absorbed_id}

    async def test_only_the_part_behind_the_merge_leaves(self, store: KnowledgeStore) -> None:
        await add(store, "a", "organization: Intercontinental Telekom")
        await add(store, "b", "organization: Intercontinental Telecom")
        await add(store, "c", "organization: Intercontinentel Telecom")
        [one] = await all_entities(store)
        first, second = (await store.explain(one.entity_id)).merges
        await store.undo_merge(first.merge_id)
        assert await partition(store) == {
            frozenset({"Intercontinental Telekom"}),
            frozenset({"Intercontinental Telecom", "Intercontinentel Telecom"}),
        }
        await store.undo_merge(second.merge_id)
        assert len(await all_entities(store)) == 3

    async def test_a_batch_lists_what_it_merged_page_by_page(self, store: KnowledgeStore) -> None:
        first = await self.joined(store)
        await add(store, "c", "organization: Kubernetiqs Labs")
        await add(store, "d", "organization: Kubernetigs Labs", batch=OTHER_BATCH)
        undone = await store.undo_merge(first.merge_id)
        [one, two] = await store.merges(ORG, BATCH)
        assert (one, two.batch_id) == (undone, BATCH)
        assert await store.merges(ORG, BATCH, limit=1) == [one]
        assert await store.merges(ORG, BATCH, after=one.merge_id, limit=1) == [two]
        assert await store.merges(ORG, BATCH, after=two.merge_id) == []
        assert [merge.batch_id for merge in await store.merges(ORG, OTHER_BATCH)] == [OTHER_BATCH]
        assert await store.merges("other", BATCH) == []

    async def test_ids_are_found_as_exports_write_them(self, store: KnowledgeStore) -> None:
        merge = await self.joined(store)
        for written in (f"urn:uuid:{merge.survivor_id}", merge.survivor_id.upper()):
            assert (await store.explain(written)).merges == [merge]
        assert (await store.undo_merge(f"urn:uuid:{merge.merge_id}")).undone_why == "asked"

    async def test_a_merge_of_another_organization_cannot_be_undone(self, store: KnowledgeStore) -> None:
        merge = await self.joined(store)
        with pytest.raises(MergeNotFoundError):
            await store.undo_merge(merge.merge_id, organization="other")
        assert (await store.undo_merge(merge.merge_id, organization=ORG)).undone_at is not None


async def test_what_is_wrong_with_a_batch_is_said(store: KnowledgeStore) -> None:
    broken = document("place: Rome", "organization:  ", relations=[relation(1, "is in", 9), relation(8, "sees", 9)])
    broken["entities"][0]["spans"] = [[5, 9], [7, 7], [-4, 3]]
    await store.add_document(ORG, BATCH, "a", broken)
    await store.add_document(ORG, BATCH, "b", ACME)
    assert await store.validate(BATCH) == [
        Problem("a", "dangling_mention", "the mention at -1-3 is no mention of an entity"),
        Problem("a", "dangling_mention", "the mention at 7-7 is no mention of an entity"),
        Problem("a", "empty_name", "an entity of type 'organization' has no name"),
        Problem("a", "missing_entity", "the object of 'is in' is no entity of the document"),
        Problem("a", "missing_entity", "the subject and object of 'sees' is no entity of the document"),
    ]
    await store.resolve_document(ORG, BATCH, "b", document("place: Oslo"))
    assert {problem.kind for problem in await store.validate(BATCH) if problem.document_key == "b"} == {
        "dangling_mention"
    }
    assert await store.validate(OTHER_BATCH) == []
