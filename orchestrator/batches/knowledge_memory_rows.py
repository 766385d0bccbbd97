"""The rows of knowledge in memory, for one organization."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from orchestrator.batches.knowledge import Merge, UndoneWhy
from orchestrator.batches.knowledge_steps import Document
from orchestrator.batches.reading import AliasRow, EvidenceRow, MentionRow, RelationKey, SpellingKey
from orchestrator.batches.resolution import Link, Spelling
from orchestrator.runs.model import new_run_id

__all__ = ["DocumentRows", "MemoryRows"]


@dataclass(slots=True)
class DocumentRows:
    """What one document brought."""

    aliases: set[AliasRow] = field(default_factory=set)
    mentions: Sequence[MentionRow] = ()
    evidence: Sequence[EvidenceRow] = ()


class MemoryRows:
    """`Rows` in dicts. No method awaits anything, so that each step is atomic on its event loop."""

    def __init__(self, organization: str) -> None:
        self.organization = organization
        self.spellings: dict[str, Spelling] = {}
        self.documents: dict[tuple[str, str], DocumentRows] = {}
        self.relations: dict[RelationKey, str] = {}
        self.merges: dict[str, tuple[Merge, Link]] = {}
        self._by_key: dict[SpellingKey, str] = {}
        self._by_form: defaultdict[str, set[str]] = defaultdict(set)
        self._by_block: defaultdict[int, set[str]] = defaultdict(set)
        self._by_root: defaultdict[str, set[str]] = defaultdict(set)
        self._sightings: defaultdict[str, int] = defaultdict(int)
        self._claims: defaultdict[str, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))

    async def lock(self, keys: Sequence[int]) -> None:
        """Nothing else runs until the step is done."""

    async def with_keys(self, keys: Collection[SpellingKey]) -> list[Spelling]:
        return self._shown(self._by_key[key] for key in keys if key in self._by_key)

    async def with_forms(self, forms: Collection[str]) -> list[Spelling]:
        return self._shown({each for form in forms for each in self._by_form.get(form, ())})

    async def near(self, blocks: Collection[int]) -> list[Spelling]:
        found = {each for block in blocks for each in self._by_block.get(block, ())}
        return self._shown(each for each in found if self._sightings[each])

    async def claims(self, forms: Collection[str]) -> list[tuple[str, Spelling]]:
        claimed = [(form, each) for form in forms for each, times in self._claims[form].items() if times]
        return [(form, self._shown([each])[0]) for form, each in claimed]

    async def members(self, ids: Collection[str]) -> list[Spelling]:
        roots = {self.spellings[each].root_id for each in ids}
        return self._shown(each for root in roots for each in self._by_root[root])

    async def links(self, ids: Collection[str]) -> list[Link]:
        return [
            link
            for merge, link in self.merges.values()
            if merge.undone_at is None and (link.left in ids or link.right in ids)
        ]

    async def apart(self, ids: Collection[str]) -> list[tuple[str, str]]:
        return [
            (link.left, link.right)
            for merge, link in self.merges.values()
            if merge.undone_why == "asked" and (link.left in ids or link.right in ids)
        ]

    async def aliases(self, document: Document) -> set[AliasRow]:
        return set(self._document(document).aliases)

    async def add_spellings(self, spellings: Sequence[Spelling], blocks: Sequence[list[int]]) -> None:
        for one, own in zip(spellings, blocks, strict=True):
            self.spellings[one.entity_id] = one
            self._by_key[one.key] = one.entity_id
            self._by_form[one.normal].add(one.entity_id)
            self._by_root[one.root_id].add(one.entity_id)
            for block in own:
                self._by_block[block].add(one.entity_id)

    async def replace_aliases(self, document: Document, rows: Collection[AliasRow], *, had: bool) -> None:
        mine = self._document(document)
        for sign, group in ((-1, mine.aliases), (1, rows)):
            for row in group:
                self._sightings[row.entity_id] += sign
                if row.spelled_out:
                    self._claims[row.normal][row.entity_id] += sign
        mine.aliases = set(rows)

    async def replace_mentions(self, document: Document, rows: Sequence[MentionRow]) -> None:
        self._document(document).mentions = rows

    async def replace_evidence(
        self, document: Document, relations: Sequence[RelationKey], rows: Sequence[EvidenceRow]
    ) -> None:
        for key in relations:
            if key not in self.relations:
                self.relations[key] = new_run_id()
        self._document(document).evidence = rows

    async def add_links(self, batch_id: str, links: Sequence[Link]) -> None:
        for link in links:
            merge = Merge(
                merge_id=new_run_id(),
                organization_id=self.organization,
                survivor_id=link.survivor,
                absorbed_id=link.absorbed,
                left=self.spellings[link.left].name,
                right=self.spellings[link.right].name,
                score=link.score,
                rule=link.rule,
                reason=link.reason,
                batch_id=batch_id,
                at=datetime.now(UTC),
            )
            self.merges[merge.merge_id] = merge, replace(link, merge_id=merge.merge_id)

    async def end_links(self, merge_ids: Collection[str], why: UndoneWhy) -> None:
        for merge_id in merge_ids:
            merge, link = self.merges[merge_id]
            undone = replace(merge, undone_at=merge.undone_at or datetime.now(UTC), undone_why=why)
            self.merges[merge_id] = undone, link

    async def set_roots(self, roots: Mapping[str, str]) -> None:
        for each, root in roots.items():
            one = self.spellings[each]
            self._by_root[one.root_id].discard(each)
            self._by_root[root].add(each)
            self.spellings[each] = replace(one, root_id=root)

    async def merge(self, merge_id: str) -> tuple[Merge, Link] | None:
        return self.merges.get(merge_id)

    def members_of(self, root: str) -> set[str]:
        """The ids of an entity's spellings."""
        return self._by_root.get(root, set())

    def roots(self) -> list[str]:
        """All entities, by id."""
        return sorted(root for root, members in self._by_root.items() if members)

    def _document(self, document: Document) -> DocumentRows:
        return self.documents.setdefault((document.batch_id, document.key), DocumentRows())

    def _shown(self, ids: Iterable[str]) -> list[Spelling]:
        return [replace(self.spellings[each], seen=self._sightings[each] > 0) for each in ids]
