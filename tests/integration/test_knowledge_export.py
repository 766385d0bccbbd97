"""Knowledge as files and as a picture, over each store."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any
from xml.etree import ElementTree

import networkx as nx  # type: ignore[import-untyped]
import pytest

from checkpointer import CheckpointerSettings
from orchestrator.batches.export import graphml, json_ld
from orchestrator.batches.knowledge import KnowledgeStore
from orchestrator.batches.knowledge_memory import MemoryKnowledgeStore
from orchestrator.batches.picture import draw_knowledge
from orchestrator.errors import InvalidRequestError
from tests.knowledge import BATCH, ORG, OTHER_BATCH, all_entities, document, names, open_knowledge, relation

SVG = "{http://www.w3.org/2000/svg}"
ODD = "name: <R&D> \"x\" \x01 'y' ]]>"


@pytest.fixture
async def store(stage_settings: CheckpointerSettings) -> AsyncIterator[KnowledgeStore]:
    async with open_knowledge(stage_settings) as store:
        links = [
            relation(1, "is in", 2),
            relation(3, "leads & <runs>", 1, sentence="She leads it."),
            relation(1, "x", 3),
        ]
        first = document(
            "organization: ACME Corp / ACME", "place: Berlin", "person: Ada Lovelace", ODD, relations=links
        )
        await store.add_document(ORG, BATCH, "a.txt", first)
        again = document("organization: Acme Inc", "place: Berlin", relations=[relation(1, "is in", 2)])
        await store.add_document(ORG, OTHER_BATCH, "b.txt", again)
        yield store


async def as_json(store: KnowledgeStore, batch_id: str | None = None) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads("".join([part async for part in json_ld(store, ORG, batch_id)]))
    return parsed


async def test_json_ld_asks_for_many_at_a_time(store: KnowledgeStore) -> None:
    """A call for each entity or relation would make large graphs take as many round trips."""
    many = document(*(f"organization: Company{number} Works" for number in range(60)))
    await store.add_document(ORG, OTHER_BATCH, "many.txt", many)
    asked: Counter[str] = Counter()

    class Counting:
        def __getattr__(self, name: str) -> Any:
            asked[name] += 1
            return getattr(store, name)

    whole = "".join([part async for part in json_ld(Counting(), ORG)])
    assert len(json.loads(whole)["@graph"]) == 67
    assert asked.total() <= 8, asked


async def test_json_ld_says_all(store: KnowledgeStore) -> None:
    found = await as_json(store)
    nodes = {node["@id"]: node for node in found["@graph"]}
    assert len(nodes) == len(found["@graph"]) == 4 + 3
    [acme] = [node for node in nodes.values() if node["@type"] == "Organization"]
    assert (acme["name"], acme["alternateName"]) == ("ACME Corp", ["ACME", "Acme Inc"])
    assert [place["document"] for place in acme["mentionedIn"]] == ["a.txt", "b.txt"]
    assert (acme["mentionCount"], acme["documentCount"], acme["entityType"]) == (2, 2, "organization")
    relations = [node for node in nodes.values() if node["@type"] == "Relation"]
    assert all(nodes[each["subject"]]["name"] and nodes[each["object"]]["name"] for each in relations)
    [located] = [each for each in relations if each["predicate"] == "is in"]
    assert (located["evidenceCount"], nodes[located["object"]]["name"]) == (2, "Berlin")
    assert {place["batch"] for place in located["statedIn"]} == {f"urn:uuid:{BATCH}", f"urn:uuid:{OTHER_BATCH}"}
    [led] = [each for each in relations if each["predicate"].startswith("leads")]
    assert led["statedIn"][0]["text"] == "She leads it."
    used = {key for node in nodes.values() for key in node if not key.startswith("@")}
    assert found["@context"]["name"] == "schema:name"
    assert found["@context"]["@vocab"]
    assert {"name", "subject", "object", "mentionedIn"} <= used


async def test_an_export_of_a_batch_has_its_own_alone(store: KnowledgeStore) -> None:
    found = await as_json(store, OTHER_BATCH)
    shown = sorted(node.get("name", node.get("predicate")) for node in found["@graph"])
    assert shown == ["ACME Corp", "Berlin", "is in"]
    assert all(place["document"] == "b.txt" for node in found["@graph"] for place in node.get("mentionedIn", ()))


async def test_graphml_reads_back(store: KnowledgeStore) -> None:
    text = "\n".join(await graphml(store, ORG))
    graph = nx.read_graphml(io.BytesIO(text.encode()), force_multigraph=True)
    assert graph.is_directed()
    entities = {one.entity_id: one for one in await all_entities(store)}
    assert set(graph.nodes) == set(entities)
    for node, values in graph.nodes(data=True):
        one = entities[node]
        assert values["name"] == one.name.replace("\x01", "\ufffd")
        assert (values["type"], values["mentions"], values["documents"]) == (one.type, one.mentions, one.documents)
    relations = {one.relation_id: one for one in await store.relations(ORG)}
    edges = {key: (subject, values) for subject, _, key, values in graph.edges(keys=True, data=True)}
    assert set(edges) == set(relations)
    for key, (subject, values) in edges.items():
        stated = relations[key]
        assert (subject, values["predicate"]) == (stated.subject_id, stated.predicate)
        assert (values["kind"], values["evidence"]) == (stated.kind, stated.evidence)


async def test_an_export_is_the_same_each_time(store: KnowledgeStore) -> None:
    assert await as_json(store) == await as_json(store)
    assert list(await graphml(store, ORG)) == list(await graphml(store, ORG))
    assert await draw_knowledge(store, ORG) == await draw_knowledge(store, ORG)


async def test_nothing_is_exported_as_nothing(store: KnowledgeStore) -> None:
    assert json.loads("".join([part async for part in json_ld(store, "nobody")]))["@graph"] == []
    assert len(nx.parse_graphml("\n".join(await graphml(store, "nobody")))) == 0
    assert "0 entities; 0 relations" in await draw_knowledge(store, "nobody")


def parsed(picture: str) -> ElementTree.Element:
    return ElementTree.fromstring(picture)  # noqa: S314


def labels(picture: str) -> list[str]:
    [group] = [each for each in parsed(picture).iter(f"{SVG}g") if each.get("id") == "labels"]
    return sorted("".join(text.itertext()) for text in group)


async def test_a_picture_has_every_label_once(store: KnowledgeStore) -> None:
    picture = await draw_knowledge(store, ORG)
    assert labels(picture) == [" ".join(name.replace("\x01", "\ufffd").split()) for name in await names(store)]
    assert "4 entities; 3 relations" in picture
    titles = [title.text for title in parsed(picture).iter(f"{SVG}title")]
    assert "ACME Corp is in Berlin" in titles


async def test_a_picture_of_too_many_is_refused(store: KnowledgeStore) -> None:
    for wrong in (0, 401):
        with pytest.raises(InvalidRequestError, match="1 to 400"):
            await draw_knowledge(store, ORG, max_nodes=wrong)


async def large(towns: int) -> MemoryKnowledgeStore:
    store = MemoryKnowledgeStore()
    for start in range(0, towns, 100):
        specs = [f"place: Town {number:04} {'of a long name ' * (number % 3)}" for number in range(start, start + 100)]
        links = [relation(number, "borders", number + 1) for number in range(1, 100)]
        await store.add_document(ORG, BATCH, f"d{start}", document(*specs, relations=links))
    return store


async def test_a_picture_shows_the_biggest_and_says_so() -> None:
    store = await large(300)
    for number in (9, 210):
        for key in "xyz":
            await store.add_document(ORG, BATCH, f"{key}{number}", document(f"place: Town {number:04}"))
    picture = await draw_knowledge(store, ORG)
    assert len(labels(picture)) == len(set(labels(picture))) == 60
    assert "60 of 300 entities, those mentioned most" in picture
    assert "of 297 relations" in picture
    two = await draw_knowledge(store, ORG, max_nodes=2)
    assert len(labels(two)) == 2
    assert all(label.startswith(("Town 0009", "Town 0210")) for label in labels(two))
    assert len(max(labels(picture), key=len)) <= 32


async def test_more_than_a_page_is_exported_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.batches.export.PAGE", 90)
    towns = 200
    store = await large(towns)
    found = await as_json(store)
    assert len({node["@id"] for node in found["@graph"]}) == len(found["@graph"]) == towns + towns // 100 * 99
