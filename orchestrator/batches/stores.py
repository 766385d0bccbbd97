"""The stores of batches and of knowledge that go with a store of runs: where the runs are, they are."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, proxy

from orchestrator.batches.rows.memory import MemoryBatchStore
from orchestrator.batches.rows.postgres import PostgresBatchStore
from orchestrator.batches.rows.store import BatchStore
from orchestrator.errors import OrchestratorError
from orchestrator.runs.postgres import PostgresRunStore
from orchestrator.runs.store import RunStore

if TYPE_CHECKING:
    from orchestrator.batches.knowledge import KnowledgeStore

__all__ = ["BatchSupportError", "Stores", "require_support", "stores_of"]

_PACKAGES = ("rapidfuzz", "networkx")

# The same ones each time: what is in memory lasts as long as its runs.
_batches: WeakKeyDictionary[RunStore, BatchStore] = WeakKeyDictionary()
_knowledge: WeakKeyDictionary[RunStore, KnowledgeStore] = WeakKeyDictionary()


class BatchSupportError(OrchestratorError):
    """What batches need is not installed."""

    status = 501
    code = "not_installed"


@dataclass(frozen=True, slots=True)
class Stores:
    """What a batch is kept in."""

    runs: RunStore
    batches: BatchStore

    @property
    def knowledge(self) -> KnowledgeStore:
        """Where what was found is kept. Needs the extra `batches`."""
        if self.runs not in _knowledge:
            _knowledge[self.runs] = _knowledge_of(self.runs)
        return _knowledge[self.runs]


def stores_of(runs: RunStore) -> Stores:
    """The stores beside `runs`."""
    if runs not in _batches:
        if isinstance(runs, PostgresRunStore):
            _batches[runs] = PostgresBatchStore(runs.sender.pool, runs.sender.schema)
        else:
            _batches[runs] = MemoryBatchStore(proxy(runs))
    return Stores(runs, _batches[runs])


def require_support() -> None:
    """Raise `BatchSupportError` where a batch could not be brought to its end here."""
    if missing := [package for package in _PACKAGES if not find_spec(package)]:
        raise BatchSupportError(f"batches need {' and '.join(missing)}: pip install 'holdfast[batches]'")


def _knowledge_of(runs: RunStore) -> KnowledgeStore:
    # Imported late: a server that runs no batches does without the packages that these need.
    from orchestrator.batches.knowledge_memory import MemoryKnowledgeStore
    from orchestrator.batches.knowledge_postgres import PostgresKnowledgeStore

    if isinstance(runs, PostgresRunStore):
        return PostgresKnowledgeStore(runs.sender.pool, runs.sender.schema)
    return MemoryKnowledgeStore()
