"""Are the runs of a file on a server, each as far as it was, or further? For `holdfast runs verify --url`.

A server that has started on a file goes on with its runs, so a run may have another state there, and a later last
checkpoint. It differs where it is not there, where its last checkpoint is older, or where its end is another one. A
server shows the runs of one organization: the caller's. Of the others, only their number is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.cli.http import get_json
from orchestrator.cli.run_source import accept
from orchestrator.runs.model import Run, RunStatus
from orchestrator.settings import DEFAULT_ORGANIZATION

__all__ = ["Compared", "compare", "shown_runs"]

_PAGE = 200
_UNAUTHORIZED = 401
# A failed run may be resumed; these are over for good.
_FOR_GOOD = (RunStatus.COMPLETED, RunStatus.CANCELLED)

Shown = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Difference:
    """A run that is not on the server as it is in the file."""

    run_id: str
    reason: str
    file: dict[str, str | None]
    server: dict[str, str | None] | None

    def as_json(self) -> dict[str, Any]:
        return {"runId": self.run_id, "reason": self.reason, "file": self.file, "server": self.server}


@dataclass(slots=True)
class Compared:
    """How many runs are as in the file, how many have gone on, which differ, and how many are not for us to see."""

    same: int = 0
    went_on: int = 0
    unseen: int = 0
    differing: list[Difference] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """As `--json` shows it."""
        return {
            "same": self.same,
            "wentOn": self.went_on,
            "notVisible": self.unseen,
            "differing": [each.as_json() for each in self.differing],
        }


async def shown_runs(url: str, token: str | None) -> dict[str, Shown] | None:
    """The caller's runs on a server, by id; None where it asks for a token. Raises `RemoteError`."""
    found: dict[str, Shown] = {}
    cursor = None
    while True:
        status, answer = await get_json(url, "/api/runs", {"limit": _PAGE, "cursor": cursor}, token=token)
        if status == _UNAUTHORIZED and token is None:
            return None
        page = accept(status, answer)
        found.update({run["runId"]: run for run in page["runs"]})
        if (cursor := page["nextCursor"]) is None:
            return found


def compare(runs: Iterable[Run], shown: Mapping[str, Shown] | None, *, by_token: bool = False) -> Compared:
    """The runs of a file beside what a server shows, to the bearer of a token or to everyone."""
    compared = Compared()
    visible = {run["organizationId"] for run in (shown or {}).values()}
    if not by_token:
        visible.add(DEFAULT_ORGANIZATION)
    for run in runs:
        if run.organization_id not in visible or shown is None:
            compared.unseen += 1
            continue
        there = shown.get(run.run_id)
        if reason := _difference(run, there):
            server = None if there is None else _shown_stand(there)
            compared.differing.append(Difference(run.run_id, reason, _stand(run), server))
        elif there is not None and _shown_stand(there) == _stand(run):
            compared.same += 1
        else:
            compared.went_on += 1
    return compared


def _difference(run: Run, there: Shown | None) -> str | None:
    if there is None:
        return "is not there"
    checkpoint: str | None = there["lastCheckpointId"]
    # Ids of checkpoints rise: the last one of a thread is the highest.
    if run.last_checkpoint_id is not None and (checkpoint is None or checkpoint < run.last_checkpoint_id):
        return f"is behind: its last checkpoint there is {checkpoint}, and {run.last_checkpoint_id} in the file"
    if run.status in _FOR_GOOD and there["status"] != run.status:
        return f"is {there['status']} there, and {run.status} in the file"
    return None


def _stand(run: Run) -> dict[str, str | None]:
    return {"status": str(run.status), "lastCheckpointId": run.last_checkpoint_id}


def _shown_stand(there: Shown) -> dict[str, str | None]:
    return {"status": there["status"], "lastCheckpointId": there["lastCheckpointId"]}
