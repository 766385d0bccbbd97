"""Options that several commands take, and how a command ends."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Annotated, Any

import typer

__all__ = ["AsJson", "RunId", "Token", "Url", "finish"]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
Url = Annotated[
    str | None, typer.Option("--url", help="Ask the server at this address, such as http://127.0.0.1:3456.")
]
Token = Annotated[
    str | None,
    typer.Option("--token", envvar="HOLDFAST_TOKEN", help="With --url: a token from the server's API_TOKENS."),
]
RunId = Annotated[str, typer.Argument(help="A run's id.")]


def finish(work: Coroutine[Any, Any, int]) -> None:
    """Do the work of a command and exit with the code it returns."""
    raise typer.Exit(asyncio.run(work))
