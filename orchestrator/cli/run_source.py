"""Where the commands find runs: on a server, by its API, or straight in the database. Both answer as the API does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias
from urllib.parse import quote

from orchestrator.api.views import activity_view, run_detail, run_status, signals_view
from orchestrator.cli.following import EventView, server_events, stored_events
from orchestrator.cli.http import get_json, post_json
from orchestrator.errors import DatabaseUnavailableError, InvalidRequestError, RemoteError
from orchestrator.logs import setup_logging
from orchestrator.opening import open_run_store
from orchestrator.runs.jsonable import check_payload
from orchestrator.runs.model import Json, Run, RunStatus, check_identifier, parse_run_id
from orchestrator.runs.signals import RESUME_SIGNAL, NewSignal
from orchestrator.runs.store import Cursor, RunFilter, RunStore
from orchestrator.settings import OrchestratorSettings

__all__ = ["RunSource", "RunView", "accept", "open_runs"]

RunView: TypeAlias = dict[str, Any]


class RunSource(Protocol):
    """Runs to look at and to tell what to do. Ids and names are checked; raises `OrchestratorError`s."""

    async def page(
        self, statuses: Sequence[str], workflow: str | None, limit: int, cursor: str | None
    ) -> dict[str, Any]:
        """A page of runs, newest first, and the cursor of the next."""

    async def get(self, run_id: str) -> RunView:
        """One run with its input and signals."""

    async def look(self, run_id: str) -> RunView | None:
        """`get`, or None where there is no answer at the moment."""

    def events(self, run_id: str) -> AsyncIterator[EventView]:
        """The run's events, those that were and those that come, also after its end: who has seen enough leaves."""

    async def activities(self, run_id: str) -> dict[str, Any]:
        """What the run went through."""

    async def history(self, run_id: str, limit: int) -> dict[str, Any]:
        """The run's checkpoints."""

    async def interrupt(self, run_id: str) -> RunView:
        """Pause at the next checkpoint."""

    async def cancel(self, run_id: str) -> RunView:
        """End the run."""

    async def resume(self, run_id: str, payload: Json) -> RunView:
        """Go on."""

    async def signal(self, run_id: str, name: str, payload: Json, key: str | None) -> RunView:
        """Send a signal."""

    async def fork(self, run_id: str, checkpoint_id: str, payload: Json) -> RunView:
        """Start a run from a checkpoint; the new run."""


@asynccontextmanager
async def open_runs(url: str | None, token: str | None) -> AsyncIterator[RunSource]:
    """The runs of the server at `url`, else those in the database that the settings name."""
    if url:
        yield _ServerRuns(url, token)
        return
    setup_logging(level="ERROR")
    # Nothing is created here, and a database that is not there is said at once.
    settings = OrchestratorSettings(postgres_connect_attempts=1, postgres_setup="verify")
    async with open_run_store(settings) as store:
        yield _StoredRuns(store)


@dataclass(frozen=True, slots=True)
class _ServerRuns:
    url: str
    token: str | None

    async def page(
        self, statuses: Sequence[str], workflow: str | None, limit: int, cursor: str | None
    ) -> dict[str, Any]:
        query = {"status": list(statuses), "workflow": workflow, "limit": limit, "cursor": cursor}
        return accept(*await get_json(self.url, "/api/runs", query, token=self.token))

    async def get(self, run_id: str) -> RunView:
        return accept(*await get_json(self.url, _path(run_id), token=self.token))

    async def look(self, run_id: str) -> RunView | None:
        try:
            status, answer = await get_json(self.url, _path(run_id), token=self.token)
        except RemoteError:
            return None
        return None if status >= 500 else accept(status, answer)

    def events(self, run_id: str) -> AsyncIterator[EventView]:
        return server_events(self.url, _path(run_id, "events"), self.token)

    async def activities(self, run_id: str) -> dict[str, Any]:
        return accept(*await get_json(self.url, _path(run_id, "activities"), token=self.token))

    async def history(self, run_id: str, limit: int) -> dict[str, Any]:
        return accept(*await get_json(self.url, _path(run_id, "history"), {"limit": limit}, token=self.token))

    async def interrupt(self, run_id: str) -> RunView:
        return await self._tell(_path(run_id, "interrupt"))

    async def cancel(self, run_id: str) -> RunView:
        return await self._tell(_path(run_id, "cancel"))

    async def resume(self, run_id: str, payload: Json) -> RunView:
        return await self._tell(_path(run_id, "resume"), payload=payload)

    async def signal(self, run_id: str, name: str, payload: Json, key: str | None) -> RunView:
        return await self._tell(_path(run_id, "signals", name), payload=payload, key=key)

    async def fork(self, run_id: str, checkpoint_id: str, payload: Json) -> RunView:
        return await self._tell(_path(run_id, "fork"), checkpointId=checkpoint_id, payload=payload)

    async def _tell(self, path: str, **body: Json) -> RunView:
        return accept(*await post_json(self.url, path, body, token=self.token))


@dataclass(frozen=True, slots=True)
class _StoredRuns:
    store: RunStore

    async def page(
        self, statuses: Sequence[str], workflow: str | None, limit: int, cursor: str | None
    ) -> dict[str, Any]:
        wanted = RunFilter(
            statuses=[_status(name) for name in statuses] or None,
            workflow=None if workflow is None else check_identifier("workflow", workflow),
        )
        page = await self.store.list_runs(wanted, limit=limit, after=Cursor.decode(cursor) if cursor else None)
        return {
            "runs": [run_status(run) for run in page.runs],
            "nextCursor": page.next.encode() if page.next else None,
        }

    async def get(self, run_id: str) -> RunView:
        run = await self._find(run_id)
        signals = await self.store.signals(run.run_id) if run.signal_count else []
        return run_detail(run) | signals_view(signals)

    async def look(self, run_id: str) -> RunView | None:
        try:
            return await self.get(run_id)
        except DatabaseUnavailableError:
            return None

    def events(self, run_id: str) -> AsyncIterator[EventView]:
        return stored_events(self.store, parse_run_id(run_id))

    async def activities(self, run_id: str) -> dict[str, Any]:
        activities = await self.store.activities((await self._find(run_id)).run_id)
        return {"activities": [activity_view(activity) for activity in activities]}

    async def history(self, run_id: str, limit: int) -> dict[str, Any]:
        raise _needs_graphs("history")

    async def interrupt(self, run_id: str) -> RunView:
        return run_status(await self.store.pause(parse_run_id(run_id)))

    async def cancel(self, run_id: str) -> RunView:
        return run_status(await self.store.cancel(parse_run_id(run_id)))

    async def resume(self, run_id: str, payload: Json) -> RunView:
        signal = NewSignal(RESUME_SIGNAL, _checked(payload))
        return run_status(await self.store.resume(parse_run_id(run_id), signal))

    async def signal(self, run_id: str, name: str, payload: Json, key: str | None) -> RunView:
        signal = NewSignal(
            check_identifier("signal name", name),
            _checked(payload),
            None if key is None else check_identifier("signal key", key),
        )
        return run_status(await self.store.send_signal(parse_run_id(run_id), signal))

    async def fork(self, run_id: str, checkpoint_id: str, payload: Json) -> RunView:
        raise _needs_graphs("fork")

    async def _find(self, run_id: str) -> Run:
        return await self.store.get(parse_run_id(run_id))


def _path(run_id: str, *parts: str) -> str:
    return "/".join(["/api/runs", *(quote(part, safe="", errors="replace") for part in (run_id, *parts))])


def accept(status: int, answer: Any) -> dict[str, Any]:
    """The answer of a server. Raises `RemoteError` with what it says where it refuses."""
    if status in (200, 202) and isinstance(answer, dict):
        return answer
    error = answer.get("error") if isinstance(answer, dict) else None
    raise RemoteError(error["message"] if isinstance(error, dict) else f"the server answered {status}")


def _status(name: str) -> RunStatus:
    try:
        return RunStatus(name)
    except ValueError:
        raise InvalidRequestError(f"--status takes one of {', '.join(RunStatus)}, not {name!r}") from None


def _checked(payload: Json) -> Json:
    return None if payload is None else check_payload(payload)


def _needs_graphs(command: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"runs {command} needs the run's graph, which the database does not hold: ask the server that has it with --url"
    )
