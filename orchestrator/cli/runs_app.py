"""The commands of `holdfast runs` and their options. What they do is imported when one is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import AsJson, RunId, Token, Url, finish

__all__ = ["runs"]

runs = typer.Typer(
    help="Look at runs and tell them what to do: a server's with --url, else those in the database that the settings "
    "name.",
    no_args_is_help=True,
)

Payload = Annotated[str | None, typer.Option("--payload", metavar="JSON", help="What to answer with.")]


@runs.command("ls")
def list_runs(
    status: Annotated[list[str] | None, typer.Option(help="Only runs in this state; may be repeated.")] = None,
    workflow: Annotated[str | None, typer.Option(help="Only runs of this workflow.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many at most.")] = 20,
    cursor: Annotated[str | None, typer.Option(help="Go on where an earlier list ended (nextCursor).")] = None,
    url: Url = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first."""
    from orchestrator.cli.runs import show_runs

    finish(show_runs(status or [], workflow, limit, cursor, url=url, token=token, as_json=as_json))


@runs.command("show")
def show_run(run_id: RunId, url: Url = None, token: Token = None, as_json: AsJson = False) -> None:
    """Show one run: its input, output and error, what it waits for, and the signals it was sent."""
    from orchestrator.cli.runs import show_one_run

    finish(show_one_run(run_id, url=url, token=token, as_json=as_json))


@runs.command("watch")
def watch_run(run_id: RunId, url: Url = None, token: Token = None, as_json: AsJson = False) -> None:
    """Follow a run until it is over or rests. Exit code 0: completed, 1: failed or cancelled, 3: waiting or paused."""
    from orchestrator.cli.watch import watch

    finish(watch(run_id, url=url, token=token, as_json=as_json))


@runs.command("activities")
def show_activities(run_id: RunId, url: Url = None, token: Token = None, as_json: AsJson = False) -> None:
    """List what a run went through, oldest first."""
    from orchestrator.cli.runs import show_activities

    finish(show_activities(run_id, url=url, token=token, as_json=as_json))


@runs.command("history")
def show_history(
    run_id: RunId,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many at most.")] = 100,
    url: Url = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """List a run's checkpoints, newest first; with --json, each with its state. Needs --url."""
    from orchestrator.cli.runs import show_history

    finish(show_history(run_id, limit, url=url, token=token, as_json=as_json))


@runs.command("interrupt")
def interrupt_run(run_id: RunId, url: Url = None, token: Token = None, as_json: AsJson = False) -> None:
    """Pause a run at its next checkpoint; `resume` lets it go on."""
    from orchestrator.cli.control import interrupt

    finish(interrupt(run_id, url=url, token=token, as_json=as_json))


@runs.command("resume")
def resume_run(
    run_id: RunId, payload: Payload = None, url: Url = None, token: Token = None, as_json: AsJson = False
) -> None:
    """Let a run go on that is waiting, paused, suspended or failed."""
    from orchestrator.cli.control import resume

    finish(resume(run_id, payload, url=url, token=token, as_json=as_json))


@runs.command("signal")
def signal_run(
    run_id: RunId,
    name: Annotated[str, typer.Argument(help="The signal's name, as the run waits for it.")],
    payload: Payload = None,
    key: Annotated[str | None, typer.Option(help="Sent again under the same key, it is the same signal.")] = None,
    url: Url = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Send a run a signal. It is kept where the run does not wait for it yet."""
    from orchestrator.cli.control import send_signal

    finish(send_signal(run_id, name, payload, key, url=url, token=token, as_json=as_json))


@runs.command("cancel")
def cancel_run(run_id: RunId, url: Url = None, token: Token = None, as_json: AsJson = False) -> None:
    """End a run for good."""
    from orchestrator.cli.control import cancel

    finish(cancel(run_id, url=url, token=token, as_json=as_json))


@runs.command("fork")
def fork_run(
    run_id: RunId,
    checkpoint_id: Annotated[str, typer.Argument(help="A checkpoint of the run, as `history` lists them.")],
    payload: Annotated[
        str | None, typer.Option("--payload", metavar="JSON", help="An update of the state to begin with.")
    ] = None,
    url: Url = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Start a run that goes on from a checkpoint of another, on a thread of its own. Needs --url."""
    from orchestrator.cli.control import fork

    finish(fork(run_id, checkpoint_id, payload, url=url, token=token, as_json=as_json))


MovesFile = Annotated[Path, typer.Argument(metavar="FILE", help="A file of runs; compressed where it ends in .zst.")]


@runs.command("export")
def export_runs(
    file: MovesFile,
    active: Annotated[bool, typer.Option("--active", help="Every unfinished run: which ones to export.")] = False,
    leave: Annotated[
        bool, typer.Option("--leave", help="Take them out of PostgreSQL: from then on, only the file drives them.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many; change and write nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write unfinished runs with their threads' checkpoints to a file, for a server with MEMORY_SNAPSHOT=FILE.

    Without --leave it is a copy. With it, workers are locked out of the runs first; killed half-way, run it again.
    """
    from orchestrator.cli.moves import count_exportable
    from orchestrator.cli.moves import export_runs as export

    if not active:
        raise typer.BadParameter("say which runs to export: --active")
    finish(count_exportable(as_json=as_json) if dry_run else export(file, leaves=leave, as_json=as_json))


@runs.command("import")
def import_runs(
    file: MovesFile,
    retire: Annotated[
        bool, typer.Option("--retire", help="Rename it to FILE.imported once all of it is in: no server starts on it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Bring runs into PostgreSQL from a file that an export, or a server with MEMORY_SNAPSHOT, has written.

    Safe to repeat: what is back already is not touched. Exit code 1 where a run could not come in.
    """
    from orchestrator.cli.moves import import_file

    finish(import_file(file, retires=retire, as_json=as_json))


@runs.command("reclaim")
def reclaim_runs(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many.")] = False, as_json: AsJson = False
) -> None:
    """Let runs that left go on in PostgreSQL as they left, where no file has what became of them.

    For when the server that had them in memory was killed. What they did there since is done again.
    """
    from orchestrator.cli.moves import reclaim_runs as reclaim

    finish(reclaim(dry_run=dry_run, as_json=as_json))


@runs.command("verify")
def verify_runs(
    file: MovesFile,
    url: Annotated[
        str | None, typer.Option("--url", help="Also that the server there, which has started on it, has its runs.")
    ] = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Check a file of runs from its first line to its checksum, and say what it holds.

    With --url every run is looked for there too: one that is missing, or not as far as in the file, is named. Exit
    code 1 where there is one.
    """
    from orchestrator.cli.moves import verify_file

    finish(verify_file(file, url, token=token, as_json=as_json))
