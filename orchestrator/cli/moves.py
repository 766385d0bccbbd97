"""`holdfast runs export|import|reclaim|verify`: runs that move between PostgreSQL and the memory of a server."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from checkpointer import PooledPostgresSaver
from checkpointer.factory import open_postgres
from orchestrator.cli.comparing import Compared, compare, shown_runs
from orchestrator.cli.http import get_parts
from orchestrator.cli.tables import print_json
from orchestrator.logs import setup_logging
from orchestrator.migrations import ALL_MIGRATIONS
from orchestrator.moves.arriving import Arrived, marked, reclaim
from orchestrator.moves.exporting import Exported, Progress, export_active
from orchestrator.moves.file import Summary, runs_in, summary_of
from orchestrator.moves.importing import import_runs
from orchestrator.moves.leaving import could_go, exclusive, moves_sender
from orchestrator.opening import session_conninfo
from orchestrator.settings import OrchestratorSettings

__all__ = ["count_exportable", "export_runs", "import_file", "reclaim_runs", "verify_file"]

_NAMED = 5
_SHOWN_DIFFERENCES = 20
_RUNS = re.compile(r'^orchestrator_runs\{status="(\w+)"\} (\S+)$', re.MULTILINE)


async def export_runs(path: Path, *, leaves: bool, as_json: bool) -> int:
    """Write the unfinished runs to a file; with `leaves` they leave PostgreSQL. Exit code 0."""
    async with _moving() as saver:
        with _progress("Exporting runs") as on_progress:
            exported = await export_active(saver, path, leaves=leaves, on_progress=on_progress)
    if as_json:
        print_json(_exported_view(exported, path, leaves))
        return 0
    print(f"{_states(exported.runs)} written to {path}, with {exported.checkpoints} checkpoints")
    if leaves:
        print(f"newly taken out of PostgreSQL: {_states(exported.marked)}")
    if exported.stayed:
        print(f"{exported.stayed} runs of batches stay in PostgreSQL{' until the file is imported' * leaves}")
    if exported.elsewhere:
        print(f"{exported.elsewhere} runs were left alone: their checkpoints are in the memory of a server")
    return 0


async def count_exportable(*, as_json: bool) -> int:
    """Say what an export would take along, and what has left already. Exit code 0."""
    async with _moving() as saver:
        sender = moves_sender(saver)
        there, left = await could_go(sender), await marked(sender)
    if as_json:
        print_json({"dryRun": True, "runs": there, "left": left})
        return 0
    print(f"{_states(there)} would be exported")
    if left:
        print(f"{_states(left)} have left PostgreSQL already")
    return 0


def _exported_view(exported: Exported, path: Path, leaves: bool) -> dict[str, Any]:
    return {
        "file": str(path),
        "left": leaves,
        "runs": exported.runs,
        "newlyLeft": exported.marked,
        "staying": exported.stayed,
        "elsewhere": exported.elsewhere,
        "threads": exported.threads,
        "checkpoints": exported.checkpoints,
    }


async def import_file(path: Path, *, retires: bool, as_json: bool) -> int:
    """Bring the runs of a file into PostgreSQL. Exit code 1 where one could not come in."""
    async with _moving() as saver:
        with _progress("Importing runs") as on_progress:
            arrived = await import_runs(saver, path, on_progress=on_progress)
        whole = not (arrived.busy or arrived.outdated)
        retired = _retire(path) if retires and whole else None
    if as_json:
        print_json(_arrived_view(arrived, path) | {"retired": None if retired is None else str(retired)})
    else:
        for line in _arrived_lines(arrived):
            print(line)
        if retired is not None:
            print(f"the file is now {retired}: delete it when all is well, for anyone who gets it can read it")
    return 0 if whole else 1


def _retire(path: Path) -> Path:
    return path.replace(path.with_name(path.name + ".imported"))


def _arrived_view(arrived: Arrived, path: Path) -> dict[str, Any]:
    return {
        "file": str(path),
        "back": arrived.back,
        "new": arrived.new,
        "here": arrived.here,
        "outdated": arrived.outdated,
        "stayed": arrived.stayed,
        "threads": arrived.threads,
        "busy": arrived.busy,
        "withoutKey": arrived.without_key,
        "movedOn": arrived.moved_on,
    }


def _arrived_lines(arrived: Arrived) -> Iterator[str]:
    yield f"back in PostgreSQL: {_states(arrived.back)}"
    yield f"begun elsewhere and new here: {_states(arrived.new)}"
    if arrived.here:
        yield f"here already, not touched: {arrived.here}"
    if arrived.stayed:
        yield f"runs of batches that had stayed go on: {arrived.stayed}"
    if arrived.threads:
        yield f"threads without runs: {arrived.threads}"
    if arrived.outdated:
        yield f"NOT imported: {arrived.outdated} runs have left again since this file was written; use the newer file"
    if arrived.busy:
        yield f"NOT imported, for another run is under way on the thread (import again later): {_names(arrived.busy)}"
    if arrived.without_key:
        yield f"their idempotency keys belong to other runs here, so they came without: {_names(arrived.without_key)}"
    if arrived.moved_on:
        yield f"threads without runs that have moved on here, not touched: {_names(arrived.moved_on)}"


async def reclaim_runs(*, dry_run: bool, as_json: bool) -> int:
    """Let the runs that left and are in no file go on from what they left with."""
    async with _moving() as saver:
        sender = moves_sender(saver)
        found = await (marked(sender) if dry_run else reclaim(sender))
    if as_json:
        print_json({"dryRun": dry_run, "runs": found})
        return 0
    if not found:
        print("0 runs have left and are not back")
        return 0
    verb = "would go on" if dry_run else "go on"
    print(
        f"{_states(found)} {verb} in PostgreSQL from where they left; what they did elsewhere since is not known here "
        "and is done again"
    )
    return 0


def _is_missing(path: Path) -> bool:
    return not os.path.lexists(path)


async def verify_file(path: Path, url: str | None = None, *, token: str | None = None, as_json: bool) -> int:
    """Check a file from its first line to its checksum, and say what it holds.

    With `url` also that the server there has its runs (`comparing.py`). Exit code 1 where one differs, or there are
    fewer in all.
    """
    setup_logging("text", "WARNING")
    if as_json and _is_missing(path):
        print_json({"file": str(path), "missing": True})
        return 1
    summary = await asyncio.to_thread(summary_of, path)
    if not as_json:
        for line in _summary_lines(summary, path):
            print(line)
    if url is None:
        if as_json:
            print_json(_summary_view(summary, path))
        return 0
    return await _verify_server(path, summary, url, token, as_json=as_json)


async def _verify_server(path: Path, summary: Summary, url: str, token: str | None, *, as_json: bool) -> int:
    there = await runs_on(url)
    with Console(stderr=True).status("Comparing runs"):
        shown = await shown_runs(url, token)
        runs = (each.run for each in runs_in(path))
        compared = await asyncio.to_thread(compare, runs, shown, by_token=token is not None)
    enough = sum(there.values()) >= summary.total
    if as_json:
        print_json(_summary_view(summary, path) | {"server": there, "compared": compared.as_json()})
    else:
        print(f"{url} has {_states(there)}{'' if enough else f': too few, it has not started on {path}'}")
        for line in _compared_lines(compared, asks_for_token=shown is None):
            print(line)
    return 0 if enough and not compared.differing else 1


def _compared_lines(compared: Compared, *, asks_for_token: bool) -> Iterator[str]:
    yield f"{compared.same} as in the file, {compared.went_on} further than that, {len(compared.differing)} differ"
    if compared.unseen:
        why = "it asks for a token, see --token" if asks_for_token else "they are another organization's"
        yield f"{compared.unseen} were counted only: {why}"
    for each in compared.differing[:_SHOWN_DIFFERENCES]:
        yield f"DIFFERS: run {each.run_id} {each.reason}"
    if len(compared.differing) > _SHOWN_DIFFERENCES:
        yield f"and {len(compared.differing) - _SHOWN_DIFFERENCES} more; --json lists all"


def _summary_view(summary: Summary, path: Path) -> dict[str, Any]:
    return {
        "file": str(path),
        "missing": False,
        "from": summary.origin or None,
        "left": summary.left,
        "runs": dict(summary.runs),
        "staying": summary.stays,
        "threads": summary.threads,
        "checkpoints": summary.checkpoints,
    }


def _summary_lines(summary: Summary, path: Path) -> Iterator[str]:
    written = {"postgres": "an export from PostgreSQL", "memory": "a memory server at its stop"}
    yield f"{path} is sound; written by {written.get(summary.origin, 'something that knows no runs')}"
    yield f"{_states(summary.runs)}; {summary.threads} threads with {summary.checkpoints} checkpoints"
    if summary.stays:
        yield f"{summary.stays} runs of batches stay in PostgreSQL until the file is imported"


async def runs_on(url: str) -> dict[str, int]:
    """How many runs a server has, of all organizations, by state; from its metrics. Raises `RemoteError`."""
    text = b"".join([part async for part in get_parts(url, "/metrics", token=None)]).decode()
    return {state: int(float(count)) for state, count in _RUNS.findall(text) if float(count)}


@asynccontextmanager
async def _moving() -> AsyncIterator[PooledPostgresSaver]:
    """The database that the settings name, whatever the flag says, with no other move under way."""
    settings = OrchestratorSettings(use_postgres_saver=True)
    setup_logging(settings.log_format, "ERROR")
    async with (
        open_postgres(settings, migrations=ALL_MIGRATIONS) as saver,
        exclusive(session_conninfo(saver, settings), saver.schema),
    ):
        yield saver


@contextmanager
def _progress(what: str) -> Iterator[Progress]:
    with Console(stderr=True).status(what) as status:
        yield lambda done, of: status.update(f"{what}: {done} of {of}")


def _states(runs: Mapping[str, int]) -> str:
    total = sum(runs.values())
    parts = ", ".join(f"{count} {state}" for state, count in sorted(runs.items()))
    return f"{total} {'run' if total == 1 else 'runs'}{f' ({parts})' if parts else ''}"


def _names(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return ", ".join(ids[:_NAMED]) + more
