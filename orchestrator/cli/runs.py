"""`holdfast runs ls`, `show`, `activities`, `history`: look at runs."""

from __future__ import annotations

from orchestrator.cli.run_source import open_runs
from orchestrator.cli.tables import print_activities, print_history, print_json, print_page, print_run

__all__ = ["show_activities", "show_history", "show_one_run", "show_runs"]


async def show_runs(
    statuses: list[str],
    workflow: str | None,
    limit: int,
    cursor: str | None,
    *,
    url: str | None,
    token: str | None,
    as_json: bool,
) -> int:
    """Print a page of runs."""
    async with open_runs(url, token) as runs:
        page = await runs.page(statuses, workflow, limit, cursor)
    (print_json if as_json else print_page)(page)
    return 0


async def show_one_run(run_id: str, *, url: str | None, token: str | None, as_json: bool) -> int:
    """Print one run."""
    async with open_runs(url, token) as runs:
        run = await runs.get(run_id)
    (print_json if as_json else print_run)(run)
    return 0


async def show_activities(run_id: str, *, url: str | None, token: str | None, as_json: bool) -> int:
    """Print what a run went through."""
    async with open_runs(url, token) as runs:
        activities = await runs.activities(run_id)
    (print_json if as_json else print_activities)(activities)
    return 0


async def show_history(run_id: str, limit: int, *, url: str | None, token: str | None, as_json: bool) -> int:
    """Print a run's checkpoints."""
    async with open_runs(url, token) as runs:
        checkpoints = await runs.history(run_id, limit)
    (print_json if as_json else print_history)(checkpoints)
    return 0
