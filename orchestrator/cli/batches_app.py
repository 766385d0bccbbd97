"""The commands of `holdfast batches` and their options. What they do is imported when one is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import AsJson, Token, Url, finish

__all__ = ["batches"]

batches = typer.Typer(
    help="Look at batches of documents: a server's with --url, else those in the database that the settings name.",
    no_args_is_help=True,
)

BatchId = Annotated[str, typer.Argument(help="A batch's id.")]


@batches.command("ls")
def list_batches(
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many at most.")] = 20,
    cursor: Annotated[str | None, typer.Option(help="Go on where an earlier list ended (nextCursor).")] = None,
    url: Url = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """List batches, newest first."""
    from orchestrator.cli.batches import show_batches

    finish(show_batches(limit, cursor, url=url, token=token, as_json=as_json))


@batches.command("show")
def show(batch_id: BatchId, url: Url = None, token: Token = None, as_json: AsJson = False) -> None:
    """Show one batch: its state, its counts, and every document that failed."""
    from orchestrator.cli.batches import show_batch

    finish(show_batch(batch_id, url=url, token=token, as_json=as_json))


@batches.command("watch")
def watch(batch_id: BatchId, url: Url = None, token: Token = None, as_json: AsJson = False) -> None:
    """Follow a batch until it is over. Exit code 0: complete, 1: failed or cancelled."""
    from orchestrator.cli.batches import watch_batch

    finish(watch_batch(batch_id, url=url, token=token, as_json=as_json))


@batches.command("merges")
def merges(
    some_id: Annotated[str, typer.Argument(metavar="BATCH|ENTITY", help="A batch's id, or an entity's.")],
    url: Url = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Show which spellings a batch made one entity of, or which an entity is made of, and why."""
    from orchestrator.cli.merges import show_merges

    finish(show_merges(some_id, url=url, token=token, as_json=as_json))


@batches.command("unmerge")
def unmerge(
    merge_ids: Annotated[list[str], typer.Argument(metavar="MERGE", help="Ids that `batches merges` shows.")],
    url: Url = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Part what merges have joined, for good: no batch joins them again. Can be repeated."""
    from orchestrator.cli.merges import undo_merges

    finish(undo_merges(merge_ids, url=url, token=token, as_json=as_json))


@batches.command("export")
def export(
    batch_id: BatchId,
    out: Annotated[Path, typer.Option("--out", help="Where to write: a .jsonld, .graphml or .svg file.")],
    url: Url = None,
    token: Token = None,
) -> None:
    """Write the entities and relations of a batch to a file. One that is there stays until the new one is whole."""
    from orchestrator.cli.batches import export_batch

    finish(export_batch(batch_id, out, url=url, token=token))


@batches.command("retry")
def retry(batch_id: BatchId, url: Url = None, token: Token = None, as_json: AsJson = False) -> None:
    """Try the documents of a batch that failed again, as a batch of their own: on the server, or here."""
    from orchestrator.cli.batches import retry_failed

    finish(retry_failed(batch_id, url=url, token=token, as_json=as_json))
