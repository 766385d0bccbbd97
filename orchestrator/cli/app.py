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
from orchestrator.cli.options import AsJson, Token, Url, finish
from orchestrator.cli.runs_app import runs
from orchestrator.errors import InvalidRequestError, OrchestratorError

__all__ = ["run"]

DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        metavar="URL",
        help="The server; by default the one that the settings name. Leave the password to POSTGRES_PASSWORD.",
    ),
]

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


def _read_environment(file: Path | None) -> None:
    if file is not None:
        from orchestrator.cli.environment import read_environment

        read_environment(file)


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
    env_file: Annotated[
        Path | None,
        typer.Option(
            "--env-file",
            callback=_read_environment,
            metavar="FILE",
            help="Settings to use where the environment has none, before those of .env here.",
        ),
    ] = None,
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
    metrics_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Overrides METRICS_PORT: where to serve /metrics.")
    ] = None,
) -> None:
    """Take runs and steps from the queue and work on them. SIGTERM stops it in good order."""
    from orchestrator.cli.worker import work
    from orchestrator.cli.worker_metrics import metrics_served

    with metrics_served(metrics_port):
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
    roles: Annotated[
        bool, typer.Option("--roles", help="With --sql: print two roles of least privilege instead of the tables.")
    ] = False,
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
    if roles and not sql:
        raise typer.BadParameter("--roles goes with --sql: roles are for a DBA to make, who reads what they run")
    if roles:
        from orchestrator.cli.roles import print_roles

        print_roles()
        return
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
def backup(
    words: Annotated[
        list[str], typer.Argument(metavar="[verify] FILE", help="Where to write it; or `verify` and a file to read.")
    ],
    database_url: DatabaseUrl = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be written.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write all tables to a file, as of one moment, while the system works; or verify such a file.

    What is encrypted in the database is encrypted in the file; everything else is readable in it. Keep it safe. An
    existing file is replaced when the new one is complete.
    """
    from orchestrator.cli.archive import make_backup, verify_backup

    match words:
        case ["verify", file]:
            if dry_run or database_url is not None:
                raise typer.BadParameter("verify reads a file only: --dry-run and --database-url do not go with it")
            finish(verify_backup(Path(file), as_json=as_json))
        case ["verify"]:
            raise typer.BadParameter("verify takes a FILE; to write a file of that name say ./verify")
        case [file]:
            finish(make_backup(Path(file), database_url, dry_run=dry_run, as_json=as_json))
        case _:
            raise typer.BadParameter("takes FILE, or verify FILE")


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="A file that `holdfast backup` wrote.")],
    database_url: DatabaseUrl = None,
    schema: Annotated[str | None, typer.Option(metavar="NAME", help="Overrides POSTGRES_SCHEMA.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Delete every row that is there first.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, and change nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Load a backup into an empty database, all of it or nothing. Tables are made where there are none.

    The whole file is verified before anything is touched. Stop all servers and workers first. Runs that were under way
    go on when one starts: have no other copy of them running elsewhere.
    """
    from orchestrator.cli.archive import restore_backup

    finish(restore_backup(file, database_url, schema, force=force, dry_run=dry_run, as_json=as_json))


@app.command()
def transfer(
    source: Annotated[
        str,
        typer.Option("--from", metavar="PLACE", help="postgres, postgresql://…, sqlite:PATH or file:PATH.jsonl[.zst]"),
    ],
    target: Annotated[str, typer.Option("--to", metavar="PLACE", help="Likewise.")],
    thread: Annotated[
        list[str] | None, typer.Option("--thread", metavar="ID", help="Only this one; may be repeated.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace threads that went on, or are others, at the target.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Copy threads from one saver to another, or to a file and back: whole history, with pending writes.

    `postgres` is the server that the settings name. Safe to stop and to repeat: what is there already is compared.
    Leave passwords to POSTGRES_PASSWORD: others can see arguments. Stop the runs of the threads first.
    """
    from orchestrator.cli.transfer import move_threads

    finish(move_threads(source, target, thread or (), overwrite=overwrite, as_json=as_json))


@app.command()
def prune(
    older_than: Annotated[
        str | None, typer.Option("--older-than", metavar="TIME", help="Remove runs that have been over this long: 30d.")
    ] = None,
    keep_last: Annotated[
        int | None, typer.Option("--keep-last", min=1, help="Keep this many checkpoints of threads at rest.")
    ] = None,
    workflow: Annotated[str | None, typer.Option(help="Only runs of this workflow.")] = None,
    status: Annotated[str | None, typer.Option(help="Only runs that are completed, failed or cancelled.")] = None,
    all_threads: Annotated[
        bool, typer.Option("--all-threads", help="Shorten threads that no run made too, those unused for --older-than.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; change nothing.")] = False,
    vacuum: Annotated[bool, typer.Option("--vacuum", help="Run VACUUM afterwards.")] = False,
    as_json: AsJson = False,
) -> None:
    """Forget runs that are over, and old checkpoints. Without options, what RUN_KEEP_FOR and CHECKPOINT_KEEP_* say.

    Never touches a run that is not over, nor its thread. Works beside live load, and may be stopped and run again.
    """
    from orchestrator.cli.prune import prune as forget

    finish(
        forget(
            older_than=older_than,
            keep_last=keep_last,
            workflow=workflow,
            status=status,
            all_threads=all_threads,
            dry_run=dry_run,
            vacuum=vacuum,
            as_json=as_json,
        )
    )


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
def health(
    url: Url = None,
    expect: Annotated[
        str | None, typer.Option(metavar="SAVER", help="Also that it is this saver: MemorySaver or PostgresSaver.")
    ] = None,
    wait: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="Ask again for so long, until it is so.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Say whether checkpoints can be saved; exit code 1 where not. Without --url, by the settings here."""
    from orchestrator.cli.health import show_health

    if expect not in (None, "MemorySaver", "PostgresSaver"):
        raise typer.BadParameter(f"--expect takes MemorySaver or PostgresSaver, not {expect!r}")
    finish(show_health(url, expect=expect, wait_s=wait, as_json=as_json))


@app.command()
def doctor(
    url: Url = None,
    token: Token = None,
    graphs: Annotated[Path | None, typer.Option("--graphs", help="A langgraph.json to look at too.")] = None,
    as_json: AsJson = False,
) -> None:
    """Look at everything, from the settings to a checkpoint written, and say what to do; exit code 1 where a check
    fails. Without --url, by the settings here; it leaves nothing behind."""
    from orchestrator.cli.doctor import examine_all

    finish(examine_all(url, token, graphs, as_json=as_json))
