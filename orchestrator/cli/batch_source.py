"""Where the commands find batches: on a server, by its API, or straight in the database. Both answer as the API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

from orchestrator.api.views import batch_view, document_view, entity_view, merge_view, run_status
from orchestrator.batches.flow import BATCH
from orchestrator.batches.service import BatchNotFoundError, find_batch, list_documents, view_batch
from orchestrator.batches.stores import require_support, stores_of
from orchestrator.cli.http import get_json, get_parts, post_json
from orchestrator.cli.run_source import accept
from orchestrator.errors import DatabaseUnavailableError, OrchestratorError, RemoteError
from orchestrator.logs import setup_logging
from orchestrator.opening import open_run_store
from orchestrator.runs.store import Cursor, RunFilter, RunStore
from orchestrator.settings import OrchestratorSettings

if TYPE_CHECKING:
    from orchestrator.batches.knowledge import KnowledgeStore

__all__ = ["BatchSource", "ServerBatches", "StoredBatches", "open_batches", "stored_settings"]

_PAGE = 500


class BatchSource(Protocol):
    """Batches to look at. Raises `OrchestratorError`s."""

    async def page(self, limit: int, cursor: str | None) -> dict[str, Any]:
        """A page of the runs of batches, newest first, and the cursor of the next."""

    async def get(self, batch_id: str) -> dict[str, Any]:
        """One batch."""

    async def look(self, batch_id: str) -> dict[str, Any] | None:
        """`get`, or None where there is no answer at the moment."""

    async def documents(self, batch_id: str, *, after: int, failed: bool) -> dict[str, Any]:
        """A page of the batch's documents."""

    async def merges(self, batch_id: str, *, after: str | None) -> dict[str, Any] | None:
        """A page of the merges that the batch made; None where there is no such batch."""

    async def entity(self, entity_id: str) -> dict[str, Any] | None:
        """An entity with its spellings and merges; None where there is no such entity."""

    async def undo(self, merge_id: str) -> dict[str, Any]:
        """Part what a merge joined, and return it."""


def stored_settings() -> OrchestratorSettings:
    """The database to look at: nothing is created there, and one that is not there is said at once."""
    return OrchestratorSettings(postgres_connect_attempts=1, postgres_setup="verify")


@asynccontextmanager
async def open_batches(url: str | None, token: str | None) -> AsyncIterator[BatchSource]:
    """The batches of the server at `url`, else those in the database that the settings name."""
    if url:
        yield ServerBatches(url, token)
        return
    setup_logging(level="ERROR")
    async with open_run_store(stored_settings()) as store:
        yield StoredBatches(store)


@dataclass(frozen=True, slots=True)
class ServerBatches:
    """Those of a server."""

    url: str
    token: str | None

    async def page(self, limit: int, cursor: str | None) -> dict[str, Any]:
        query = {"workflow": BATCH, "limit": limit, "cursor": cursor}
        return accept(*await get_json(self.url, "/api/runs", query, token=self.token))

    async def get(self, batch_id: str) -> dict[str, Any]:
        return accept(*await get_json(self.url, _path(batch_id), token=self.token))

    async def look(self, batch_id: str) -> dict[str, Any] | None:
        try:
            status, answer = await get_json(self.url, _path(batch_id), token=self.token)
        except RemoteError:
            return None
        return None if status >= 500 else accept(status, answer)

    async def documents(self, batch_id: str, *, after: int, failed: bool) -> dict[str, Any]:
        query = {"after": after, "failed": failed, "limit": _PAGE}
        return accept(*await get_json(self.url, f"{_path(batch_id)}/documents", query, token=self.token))

    async def merges(self, batch_id: str, *, after: str | None) -> dict[str, Any] | None:
        query = {"after": after, "limit": _PAGE}
        status, answer = await get_json(self.url, f"{_path(batch_id)}/merges", query, token=self.token)
        return None if status == 404 else accept(status, answer)

    async def entity(self, entity_id: str) -> dict[str, Any] | None:
        status, answer = await get_json(self.url, f"/api/entities/{_quoted(entity_id)}", token=self.token)
        return None if status == 404 else accept(status, answer)

    async def undo(self, merge_id: str) -> dict[str, Any]:
        return accept(*await post_json(self.url, f"/api/merges/{_quoted(merge_id)}/undo", {}, token=self.token))

    async def exported(self, batch_id: str, format_: str) -> AsyncIterator[bytes]:
        """The batch's export in parts. Raises `RemoteError`, also where it breaks off."""
        path = f"{_path(batch_id)}/export?format={format_}"
        async for part in get_parts(self.url, path, token=self.token):
            yield part

    async def retry(self, batch_id: str) -> dict[str, Any]:
        """Start a batch of the documents that failed."""
        return accept(*await post_json(self.url, f"{_path(batch_id)}/retry", {}, token=self.token))


@dataclass(frozen=True, slots=True)
class StoredBatches:
    """Those beside a store of runs."""

    store: RunStore

    async def page(self, limit: int, cursor: str | None) -> dict[str, Any]:
        after = Cursor.decode(cursor) if cursor else None
        page = await self.store.list_runs(RunFilter(workflow=BATCH), limit=limit, after=after)
        return {
            "runs": [run_status(run) for run in page.runs],
            "nextCursor": page.next.encode() if page.next else None,
        }

    async def get(self, batch_id: str) -> dict[str, Any]:
        run = await find_batch(self.store, batch_id)
        failed = await list_documents(self.store, run.run_id, only_failed=True)
        return batch_view(await view_batch(self.store, run), run, failed)

    async def look(self, batch_id: str) -> dict[str, Any] | None:
        try:
            return await self.get(batch_id)
        except DatabaseUnavailableError:
            return None

    async def documents(self, batch_id: str, *, after: int, failed: bool) -> dict[str, Any]:
        run = await find_batch(self.store, batch_id)
        rows = await list_documents(self.store, run.run_id, only_failed=failed, after=after, limit=_PAGE)
        more = rows[-1].position if len(rows) == _PAGE else None
        return {"documents": [document_view(row) for row in rows], "nextAfter": more}

    async def merges(self, batch_id: str, *, after: str | None) -> dict[str, Any] | None:
        try:
            run = await find_batch(self.store, batch_id)
        except BatchNotFoundError:
            return None
        found = await self._knowledge.merges(run.organization_id, run.run_id, after=after, limit=_PAGE)
        more = found[-1].merge_id if len(found) == _PAGE else None
        return {"merges": [merge_view(merge) for merge in found], "nextAfter": more}

    async def entity(self, entity_id: str) -> dict[str, Any] | None:
        try:
            return entity_view(await self._knowledge.explain(entity_id))
        except OrchestratorError as exc:
            if exc.status != 404:
                raise
            return None

    async def undo(self, merge_id: str) -> dict[str, Any]:
        return merge_view(await self._knowledge.undo_merge(merge_id))

    @property
    def _knowledge(self) -> KnowledgeStore:
        require_support()
        return stores_of(self.store).knowledge


def _path(batch_id: str) -> str:
    return f"/api/batches/{_quoted(batch_id)}"


def _quoted(text: str) -> str:
    return quote(text, safe="", errors="replace")
