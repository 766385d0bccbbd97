"""`holdfast batches merges` and `holdfast batches unmerge`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.text import Text

from orchestrator.cli.batch_source import BatchSource, open_batches
from orchestrator.cli.tables import Row, moment, print_json, print_table, terminal
from orchestrator.errors import OrchestratorError

__all__ = ["show_merges", "undo_merges"]

_UNDONE = {"asked": "for good", "ambiguous": "the rule no longer held"}


async def show_merges(some_id: str, *, url: str | None, token: str | None, as_json: bool) -> int:
    """Print the merges that a batch made, or an entity and those that made it."""
    async with open_batches(url, token) as batches:
        found = await _of_batch(batches, some_id) or await batches.entity(some_id)
    if found is None:
        raise OrchestratorError(f"there is no batch and no entity {some_id!r}")
    (print_json if as_json else _print_found)(found)
    return 0


async def undo_merges(merge_ids: Sequence[str], *, url: str | None, token: str | None, as_json: bool) -> int:
    """Undo each merge and print it as it is then. One that is not there ends it; those before it are undone."""
    undone = []
    async with open_batches(url, token) as batches:
        for merge_id in merge_ids:
            merge = await batches.undo(merge_id)
            undone.append(merge)
            if not as_json:
                print(f"{merge['left']!r} and {merge['right']!r} are two entities, for good")
    if as_json:
        print_json({"merges": undone})
    return 0


async def _of_batch(batches: BatchSource, batch_id: str) -> dict[str, Any] | None:
    page = await batches.merges(batch_id, after=None)
    if page is None:
        return None
    merges = list(page["merges"])
    while page is not None and page["nextAfter"] is not None:
        page = await batches.merges(batch_id, after=page["nextAfter"])
        merges += page["merges"] if page else ()
    return {"batchId": batch_id, "merges": merges}


def _print_found(found: Mapping[str, Any]) -> None:
    is_entity = "entityId" in found
    if is_entity:
        console = terminal()
        console.print(Text(f"entity {found['entityId']}: {found['name']} ({found['type']})"), soft_wrap=True)
        for spelling in found["spellings"]:
            count = spelling["documents"]
            told = f"{count} document{'' if count == 1 else 's'}{', spelled out' if spelling['spelledOut'] else ''}"
            console.print(Text(f"  {spelling['text']!r} in {told}"), soft_wrap=True)
    columns: dict[str, Callable[[Row], Text]] = {
        "merge": lambda row: Text(row["mergeId"]),
        "spelling": lambda row: Text(row["left"]),
        "is": lambda row: Text(row["right"]),
        "rule": lambda row: Text(row["rule"]),
        "score": lambda row: Text(f"{row['score']:.1f}"),
        "merged (UTC)": lambda row: moment(row["createdAt"]),
        **({"batch": lambda row: Text(row["batchId"])} if is_entity else {}),
        "undone (UTC)": lambda row: _undone(row),
        "reason": lambda row: Text(row["reason"]),
    }
    print_table(columns, found["merges"], "no merges")


def _undone(merge: Row) -> Text:
    if merge["undoneAt"] is None:
        return Text("")
    return Text.assemble(moment(merge["undoneAt"]), f", {_UNDONE[merge['undoneWhy']]}")
