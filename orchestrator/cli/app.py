"""The commands and their options. What they do is in the modules beside, imported when a command needs it:
`--help` and a usage error answer at once."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from checkpointer.errors import CheckpointerError, SettingsError
from orchestrator.errors import InvalidRequestError, OrchestratorError

__all__ = ["run"]

app = typer.Typer(
    help="LangGraph agents that survive restarts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
runs = typer.Typer(help="Look at runs.", no_args_is_help=True)
app.add_typer(runs, name="runs")

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
Url = Annotated[
    str | None, typer.Option("--url", help="Ask the server at this address, such as http://127.0.0.1:3456.")
]
Token = Annotated[
    str | None,
    typer.Option("--token", envvar="HOLDFAST_TOKEN", help="With --url: a token from the server's API_TOKENS."),
]


def run(arguments: Sequence[str]) -> NoReturn:
    """Run a command line and exit with its code; one line on stderr for an error, never a traceback."""
    try:
        app(list(arguments), prog_name="holdfast")
    except (SettingsError, InvalidRequestError) as exc:
        _complain(exc, 2)
    except (CheckpointerError, OrchestratorError) as exc:
        _complain(exc, 1)
    sys.exit(0)


def _complain(error: Exception, code: int) -> NoReturn:
    print(f"holdfast: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(code)


def _finish(work: Coroutine[Any, Any, int]) -> None:
    raise typer.Exit(asyncio.run(work))


def _print_version(wanted: bool) -> None:
    if wanted:
        from orchestrator.api.version import holdfast_version

        typer.echo(f"holdfast {holdfast_version()}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None: ...


@app.command()
def serve(
    graphs: Annotated[Path | None, typer.Option("--graphs", help="A langgraph.json whose graphs to serve too.")] = None,
    host: Annotated[str | None, typer.Option(help="Overrides HOST.")] = None,
    port: Annotated[int | None, typer.Option(help="Overrides PORT; 0 takes any free one.")] = None,
) -> None:
    """Serve the HTTP API and run what it is asked to. SIGTERM stops it in good order."""
    from orchestrator.cli.serve import serve_graphs

    raise typer.Exit(serve_graphs(graphs, host=host, port=port))


@app.command()
def setup(
    sql: Annotated[bool, typer.Option("--sql", help="Print the SQL, for a DBA to run; touch nothing.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Only verify that all tables are there.")] = False,
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage", metavar="whole", help="Also turn shared lists back into what LangGraph's saver reads."
        ),
    ] = None,
) -> None:
    """Create or upgrade the tables in PostgreSQL."""
    from orchestrator.cli.database import check_tables, create_tables, print_sql, store_whole

    if sql + check + (storage is not None) > 1:
        raise typer.BadParameter("--sql, --check and --storage exclude each other")
    if storage not in (None, "whole"):
        raise typer.BadParameter(f"--storage takes whole, not {storage!r}; CHECKPOINT_STORAGE=shared needs no setup")
    if sql:
        print_sql()
        return
    if storage is not None:
        _finish(store_whole())
    _finish(check_tables() if check else create_tables())


@app.command()
def reencrypt(
    off: Annotated[bool, typer.Option("--off", help="Unseal everything, for a return to LangGraph's saver.")] = False,
    as_json: Json = False,
) -> None:
    """Seal every stored value under the first of CHECKPOINT_ENCRYPTION_KEYS. Runs beside live load."""
    from orchestrator.cli.reencrypt import change_encryption

    _finish(change_encryption(off=off, as_json=as_json))


@app.command()
def health(url: Url = None, as_json: Json = False) -> None:
    """Say whether checkpoints can be saved; exit code 1 where not. Without --url, by the settings here."""
    from orchestrator.cli.health import show_health

    _finish(show_health(url, as_json=as_json))


@runs.command("ls")
def list_runs(
    status: Annotated[list[str] | None, typer.Option(help="Only runs in this state; may be repeated.")] = None,
    workflow: Annotated[str | None, typer.Option(help="Only runs of this workflow.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many at most.")] = 20,
    cursor: Annotated[str | None, typer.Option(help="Go on where an earlier list ended (nextCursor).")] = None,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """List runs, newest first: a server's with --url, else those in the database that the settings name."""
    from orchestrator.cli.runs import show_runs

    _finish(show_runs(status or [], workflow, limit, cursor, url=url, token=token, as_json=as_json))


@runs.command("show")
def show_run(
    run_id: Annotated[str, typer.Argument(help="A run's id.")],
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Show one run, with its input, its output and its error."""
    from orchestrator.cli.runs import show_one_run

    _finish(show_one_run(run_id, url=url, token=token, as_json=as_json))
