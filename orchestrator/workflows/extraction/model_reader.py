"""A chat model in the place of the rules, asked block by block for structured answers.

What the model answers is only believed as far as the document bears it out: a mention has to occur in the
text, and a relation needs both its entities in one block.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, Field

from orchestrator.workflows.extraction.chat import load_chat_model
from orchestrator.workflows.extraction.entities import normal_form
from orchestrator.workflows.extraction.mentions import make_mention
from orchestrator.workflows.extraction.patterns import Found
from orchestrator.workflows.extraction.records import Chunk, EntityGroup, Mention, Relation
from orchestrator.workflows.extraction.relations import RelationTable

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

__all__ = ["ModelReader", "NamedThings", "StatedRelations"]

_ASK_NAMES = (
    "List every person, organization, place, technology, product and key concept that the text names, "
    "each spelled exactly as in the text.\n\n{text}"
)
_ASK_RELATIONS = (
    "State the relations that the text expresses between these entities, and no others: {names}. "
    "Use a short verb phrase as the predicate.\n\n{text}"
)

AnswerT = TypeVar("AnswerT", bound=BaseModel)


class NamedThing(BaseModel):
    """Something that the text names."""

    name: str = Field(description="as spelled in the text")
    type: str = Field(description="person, organization, place, technology, product, concept, date or quantity")


class NamedThings(BaseModel):
    """What a text names."""

    names: list[NamedThing]


class StatedRelation(BaseModel):
    """A relation that the text states."""

    subject: str
    predicate: str
    object: str


class StatedRelations(BaseModel):
    """The relations that a text states."""

    relations: list[StatedRelation]


class ModelReader:
    """Finds mentions and relations by asking a chat model; one call per block and question."""

    def __init__(self, model: str | BaseChatModel) -> None:
        self._model = load_chat_model(model) if isinstance(model, str) else model

    def mentions(self, text: str, chunks: Sequence[Chunk]) -> list[Mention]:
        """Ask for the names in each block and find them in its sentences."""
        found: list[Mention] = []
        for number, chunk in enumerate(chunks):
            if chunk["sentences"]:
                prompt = _ASK_NAMES.format(text=text[chunk["start"] : chunk["end"]])
                things = self._ask(NamedThings, prompt).names
                found.extend(_locate(text, number, chunk, things))
        return found

    def relations(
        self, text: str, chunks: Sequence[Chunk], mentions: Sequence[Mention], entities: Sequence[EntityGroup]
    ) -> list[Relation]:
        """Ask for the relations in each block that mentions more than one entity."""
        table = RelationTable(text, entities)
        owner = {position: number for number, entity in enumerate(entities) for position in entity["mentions"]}
        by_chunk: dict[int, list[tuple[Mention, int]]] = {}
        for position, mention in enumerate(mentions):
            by_chunk.setdefault(mention["chunk"], []).append((mention, owner[position]))
        for number, present in by_chunk.items():
            if len({entity for _, entity in present}) > 1:
                self._relate(table, text, chunks[number], present)
        return table.relations()

    def _ask(self, schema: type[AnswerT], prompt: str) -> AnswerT:
        answer = self._model.with_structured_output(schema).invoke(prompt)
        return schema.model_validate(answer)

    def _relate(self, table: RelationTable, text: str, chunk: Chunk, present: Sequence[tuple[Mention, int]]) -> None:
        places: dict[str, tuple[Mention, int]] = {}
        for mention, entity in present:
            places.setdefault(normal_form(mention["name"], mention["type"]), (mention, entity))
        names = ", ".join(mention["name"] for mention, _ in places.values())
        prompt = _ASK_RELATIONS.format(names=names, text=text[chunk["start"] : chunk["end"]])
        for stated in self._ask(StatedRelations, prompt).relations:
            subject = places.get(normal_form(stated.subject, "name"))
            object_ = places.get(normal_form(stated.object, "name"))
            predicate = " ".join(stated.predicate.split())
            if subject and object_ and predicate:
                first, second = sorted((subject[0], object_[0]), key=lambda mention: mention["start"])
                sentence = [
                    chunk["sentences"][first["sentence"]][0],
                    chunk["sentences"][second["sentence"]][1],
                ]
                span = (first["start"], max(first["end"], second["end"]))
                table.add(subject[1], predicate, object_[1], "verb", span, sentence)


def _locate(text: str, number: int, chunk: Chunk, things: Sequence[NamedThing]) -> Iterator[Mention]:
    types = {thing.name.strip(): thing.type.strip().lower() for thing in things if thing.name.strip()}
    if not types:
        return
    # Longest first, so that "Docker Compose" is not found as "Docker".
    names = sorted(types, key=lambda name: (-len(name), name))
    pattern = re.compile("|".join(rf"(?<!\w){re.escape(name)}(?!\w)" for name in names))
    for index, (start, end) in enumerate(chunk["sentences"]):
        for match in pattern.finditer(text[start:end]):
            found = Found(match.start(), match.end(), types[match[0]] or "name")
            yield make_mention(text, number, index, start, found)
