"""The five stages in a row, without LangGraph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from orchestrator.workflows.extraction.assemble import assemble
from orchestrator.workflows.extraction.chunks import chunk_document
from orchestrator.workflows.extraction.document import check_text, load_document
from orchestrator.workflows.extraction.entities import group_mentions
from orchestrator.workflows.extraction.mentions import find_mentions
from orchestrator.workflows.extraction.records import Chunk, EntityGroup, Extraction, Mention, Relation
from orchestrator.workflows.extraction.relations import find_relations

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

__all__ = ["ExtractionPipeline", "Reader"]


class Reader(Protocol):
    """Who reads the document: rules, or a chat model. Grouping and assembling are the same for both."""

    def mentions(self, text: str, chunks: Sequence[Chunk]) -> list[Mention]: ...

    def relations(
        self, text: str, chunks: Sequence[Chunk], mentions: Sequence[Mention], entities: Sequence[EntityGroup]
    ) -> list[Relation]: ...


class _RuleReader:
    def mentions(self, text: str, chunks: Sequence[Chunk]) -> list[Mention]:
        return find_mentions(text, chunks)

    def relations(
        self, text: str, chunks: Sequence[Chunk], mentions: Sequence[Mention], entities: Sequence[EntityGroup]
    ) -> list[Relation]:
        return find_relations(text, chunks, mentions, entities)


class ExtractionPipeline:
    """Extracts entities and relations from one document.

    Without a model the result depends on nothing but the text: no network, no clock, no chance. `model` is a
    name for LangChain's `init_chat_model` ("provider:model"), or a chat model; it then finds the
    mentions and relations.
    """

    def __init__(self, model: str | BaseChatModel | None = None) -> None:
        self.reader: Reader = _RuleReader()
        if model is not None:
            # Imported late: the offline pipeline needs no part of LangChain.
            from orchestrator.workflows.extraction.model_reader import ModelReader

            self.reader = ModelReader(model)

    def run(self, text: str, title: str | None = None) -> Extraction:
        """Run all stages over `text`; raises a DocumentError where it is empty or no text."""
        document = load_document({"text": text, "title": title})
        chunks = self.chunk(document["text"])
        mentions = self.mentions(text, chunks)
        entities = self.entities(mentions)
        relations = self.relations(text, chunks, mentions, entities)
        return self.assemble(document["title"], text, chunks, mentions, entities, relations)

    def chunk(self, text: str) -> list[Chunk]:
        check_text(text)
        return chunk_document(text)

    def mentions(self, text: str, chunks: Sequence[Chunk]) -> list[Mention]:
        return self.reader.mentions(text, chunks)

    def entities(self, mentions: Sequence[Mention]) -> list[EntityGroup]:
        return group_mentions(mentions)

    def relations(
        self, text: str, chunks: Sequence[Chunk], mentions: Sequence[Mention], entities: Sequence[EntityGroup]
    ) -> list[Relation]:
        return self.reader.relations(text, chunks, mentions, entities)

    def assemble(
        self,
        title: str,
        text: str,
        chunks: Sequence[Chunk],
        mentions: Sequence[Mention],
        entities: Sequence[EntityGroup],
        relations: Sequence[Relation],
    ) -> Extraction:
        return assemble(title, text, chunks, mentions, entities, relations)
