"""The commands and their options. What they do is in the modules beside, imported when a command needs it:
`--help` and a usage error answer at once."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from checkpointer.errors import CheckpointerError, SettingsError
from orchestrator.cli.batches_app import batches
from orchestrator.cli.options import AsJson, Url, finish
from orchestrator.cli.runs_app import runs
from orchestrator.errors import InvalidRequestError, OrchestratorError

__all__ = ["run"]

app = typer.Typer(
    help="LangGraph agents that survive restarts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(runs, name="runs")
app.add_typer(batches, name="batches")


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


def _print_version(wanted: bool) -> None:
    if wanted:
        from orchestrator.version import holdfast_version

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
    no_worker: Annotated[
        bool, typer.Option("--no-worker", help="Only start runs, and leave driving them to `holdfast worker`.")
    ] = False,
) -> None:
    """Serve the HTTP API and run what it is asked to. SIGTERM stops it in good order."""
    from orchestrator.cli.serve import serve_graphs

    raise typer.Exit(serve_graphs(graphs, host=host, port=port, works=not no_worker))


@app.command()
def worker(
    graphs: Annotated[Path | None, typer.Option("--graphs", help="A langgraph.json whose graphs to run too.")] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="How many runs at once; by default WORKER_CONCURRENCY.")
    ] = None,
    queues: Annotated[
        str, typer.Option(help="The queues to take from, separated by commas; by default flow and step.")
    ] = "",
    app_url: Annotated[
        str | None, typer.Option(help="Overrides APP_URL: hand the work over to the server there, by WORKER_TOKEN.")
    ] = None,
) -> None:
    """Take runs and steps from the queue and work on them. SIGTERM stops it in good order."""
    from orchestrator.cli.worker import work

    raise typer.Exit(work(graphs, concurrency=concurrency, queues=queues, app_url=app_url))


@app.command()
def setup(
    sql: Annotated[bool, typer.Option("--sql", help="Print the SQL, for a DBA to run; touch nothing.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Only verify that all tables are there; exit code 1 where not.")
    ] = False,
    database_url: Annotated[
        str | None,
        typer.Option(
            "--database-url",
            metavar="URL",
            help="The server to set up. Leave the password to POSTGRES_PASSWORD: others can see arguments.",
        ),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage", metavar="whole", help="Only turn shared lists back into what LangGraph's saver reads."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create or upgrade the tables in PostgreSQL. Safe to repeat.

    The server is named by the first of: --database-url, POSTGRES_MIGRATION_CONNECTION_STRING,
    POSTGRES_CONNECTION_STRING, POSTGRES_HOST (with _PORT, _USER, _PASSWORD, _DATABASE), DATABASE_URL; without any, and
    with USE_POSTGRES_SAVER=true, it is the embedded one. The file .env is read too. The tables go into POSTGRES_SCHEMA.
    """
    from orchestrator.cli.database import check_tables, create_tables, print_sql, store_whole

    if sql + check + (storage is not None) > 1:
        raise typer.BadParameter("--sql, --check and --storage exclude each other")
    if storage not in (None, "whole"):
        raise typer.BadParameter(f"--storage takes whole, not {storage!r}; CHECKPOINT_STORAGE=shared needs no setup")
    if (sql or storage is not None) and (as_json or database_url is not None):
        raise typer.BadParameter("--database-url and --json go with setup and --check only")
    if sql:
        print_sql()
        return
    if storage is not None:
        finish(store_whole())
    finish((check_tables if check else create_tables)(database_url, as_json=as_json))


@app.command()
def reencrypt(
    off: Annotated[bool, typer.Option("--off", help="Unseal everything, for a return to LangGraph's saver.")] = False,
    as_json: AsJson = False,
) -> None:
    """Seal every stored value under the first of CHECKPOINT_ENCRYPTION_KEYS. Runs beside live load."""
    from orchestrator.cli.reencrypt import change_encryption

    finish(change_encryption(off=off, as_json=as_json))


@app.command()
def extract(
    paths: Annotated[list[str], typer.Argument(help="Files, and directories with all below them.")],
    policy: Annotated[
        str, typer.Option(help="some: documents that fail are left out; all: one that fails fails the batch.")
    ] = "some",
    title: Annotated[str | None, typer.Option(help="What to call the batch.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where to write what was found: a .jsonld, .graphml or .svg file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Extract entities and relations from documents, without a server and without a network.

    What is found is kept where the settings say; by default in the embedded PostgreSQL, where that is installed.
    """
    from orchestrator.cli.batches import extract as run_batch

    finish(run_batch(paths, policy=policy, title=title, out=out, as_json=as_json))


@app.command()
def health(url: Url = None, as_json: AsJson = False) -> None:
    """Say whether checkpoints can be saved; exit code 1 where not. Without --url, by the settings here."""
    from orchestrator.cli.health import show_health

    finish(show_health(url, as_json=as_json))
