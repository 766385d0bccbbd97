"""`holdfast transfer`: every kind of place, what it prints, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import sys
from itertools import pairwise
from pathlib import Path

import psycopg
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from psycopg.conninfo import conninfo_to_dict

from checkpointer import CheckpointerError, SchemaError, TransferError
from checkpointer.transfer import transfer_threads
from orchestrator.cli.app import run as cli
from orchestrator.cli.transfer import move_threads
from orchestrator.errors import InvalidRequestError
from tests.checkpoints import at, put
from tests.servers import ROOT
from tests.stateful import run
from tests.threads import LISTED, Part, told


async def fill(path: Path) -> InMemorySaver:
    """Two threads in a SQLite file; what is in it."""
    saver = InMemorySaver(serde=LISTED)
    await run(saver, "sending", "asks", times=1)
    await put(saver, at("has a part"), {"part": Part("a")})
    async with AsyncSqliteSaver.from_conn_string(str(path)) as sqlite:
        sqlite.serde = LISTED
        await transfer_threads(saver, sqlite)
    return saver


def uri_of(dsn: str) -> str:
    parts = conninfo_to_dict(dsn)
    return f"postgresql://{parts['user']}@/{parts['dbname']}?host={parts['host']}&port={parts['port']}"


async def move(source: object, target: object, *names: str, overwrite: bool = False, as_json: bool = False) -> int:
    return await move_threads(str(source), str(target), names, overwrite=overwrite, as_json=as_json)


async def test_through_every_kind_of_place(
    postgres_dsn: str,
    empty_dsn: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("POSTGRES_CONNECTION_STRING", postgres_dsn)
    monkeypatch.setenv("CHECKPOINT_ALLOWED_MODULES", "tests.threads:Part")
    first = await fill(tmp_path / "a.db")
    uri = uri_of(empty_dsn)
    async with AsyncPostgresSaver.from_conn_string(empty_dsn) as stock:
        await stock.setup()
    way = [
        f"sqlite:{tmp_path / 'a.db'}",
        "postgres",
        f"file:{tmp_path / 'a.jsonl.zst'}",
        uri,
        f"sqlite:{tmp_path}/b.db",
    ]
    for source, target in pairwise(way):
        assert await move(source, target) == 0
        assert "2 threads copied" in capsys.readouterr().out
    assert await move(way[1], way[3], as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["equal"] == 2
    with psycopg.connect(empty_dsn) as conn:  # LangGraph's own tables were used, and none added
        assert conn.execute("SELECT count(DISTINCT thread_id) FROM checkpoints").fetchone() == (2,)
        assert conn.execute("SELECT to_regnamespace('workflow_checkpoints')").fetchone() == (None,)
    last = InMemorySaver(serde=LISTED)
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "b.db")) as sqlite:
        sqlite.serde = LISTED
        await transfer_threads(sqlite, last)
    for name in ("asks", "has a part"):
        assert await told(last, name) == await told(first, name)


async def test_a_type_off_the_list_refuses_its_thread_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(tmp_path / "a.db")
    places = f"sqlite:{tmp_path / 'a.db'}", f"sqlite:{tmp_path / 'b.db'}"
    assert await move(*places, as_json=True) == 1
    shown = json.loads(capsys.readouterr().out)
    assert (shown["threads"], shown["copied"]) == (2, 1)
    assert shown["refused"][0]["threadId"] == "has a part"
    assert "CHECKPOINT_ALLOWED_MODULES=tests.threads.Part" in shown["refused"][0]["reason"]
    assert await move(*places) == 1
    assert "refused: thread 'has a part'" in capsys.readouterr().out
    monkeypatch.setenv("CHECKPOINT_ALLOWED_MODULES", "tests.threads:Part")
    assert await move(*places, "has a part") == 0
    assert await move(*places, "has no such") == 1
    with pytest.raises(TransferError, match="has no such"):
        await move(places[0], f"file:{tmp_path / 'a.jsonl'}", "has no such")
    assert not (tmp_path / "a.jsonl").exists()


async def test_an_empty_database_is_set_up_as_a_target_and_refused_as_a_source(empty_dsn: str, tmp_path: Path) -> None:
    await fill(tmp_path / "a.db")
    with pytest.raises(SchemaError, match="holds no threads"):
        await move(empty_dsn, f"sqlite:{tmp_path / 'b.db'}")
    assert await move(f"sqlite:{tmp_path / 'a.db'}", empty_dsn, "asks") == 0
    with psycopg.connect(empty_dsn) as conn:
        rows = conn.execute("SELECT DISTINCT thread_id FROM workflow_checkpoints.checkpoints").fetchall()
    assert rows == [("asks",)]


@pytest.mark.parametrize(
    ("source", "target", "error", "says"),
    [
        ("sqlite:none.db", "sqlite:b.db", InvalidRequestError, "none.db does not exist"),
        ("sqlite:no.db", "sqlite:no/b.db", InvalidRequestError, "no does not exist"),
        ("sqlite:a.db", "sqlite:a.db", InvalidRequestError, "name two places"),
        ("sqlite:text.db", "sqlite:b.db", CheckpointerError, "not a database"),
        ("file:a.txt", "sqlite:b.db", InvalidRequestError, "takes postgres"),
        ("file:a.jsonl", "file:b.jsonl", InvalidRequestError, "copy the file"),
        ("file:none.jsonl", "sqlite:b.db", CheckpointerError, "can't be read"),
        ("mysql://me:hidden@there/db", "sqlite:b.db", InvalidRequestError, "is no place"),
        ("sqlite:a.db", "postgresql://me:hid@den@there/db", CheckpointerError, "connection string"),
    ],
    ids=str,
)
async def test_what_can_not_be_a_place_is_said(
    tmp_path: Path, source: str, target: str, error: type[Exception], says: str
) -> None:
    (tmp_path / "a.db").touch()
    (tmp_path / "text.db").write_text("hello, this is no database at all" * 200)
    with pytest.raises(error, match=says) as caught:
        await move(source, target)
    assert "hid" not in str(caught.value)


async def test_without_the_package_for_sqlite_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "langgraph.checkpoint.sqlite.aio", None)
    with pytest.raises(CheckpointerError, match="pip install langgraph-checkpoint-sqlite"):
        await move("sqlite:a.db", f"file:{tmp_path / 'a.jsonl'}")


def test_the_commands_of_the_page_do_what_it_says(
    postgres_dsn: str, empty_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test's directory is the working directory."""

    async def prepare() -> None:
        saver = await fill(tmp_path / "old.db")
        await put(saver, at("customer-7"), {"n": 1})
        async with AsyncPostgresSaver.from_conn_string(empty_dsn) as stock:
            await stock.setup()
            await transfer_threads(saver, stock)

    asyncio.run(prepare())
    monkeypatch.setenv("POSTGRES_CONNECTION_STRING", postgres_dsn)
    monkeypatch.setenv("CHECKPOINT_ALLOWED_MODULES", "tests.threads:Part")
    page = (ROOT / "docs" / "transfer.md").read_text()
    commands = [line for line in re.findall(r"^    holdfast (transfer .*)$", page, re.MULTILINE) if "PLACE" not in line]
    assert len(commands) == 8
    for command in commands:
        arguments = shlex.split(command.replace("postgresql://claude@db.example:5432/agents", uri_of(empty_dsn)))
        with pytest.raises(SystemExit) as end:
            cli(arguments)
        assert end.value.code == 0, command
    assert (tmp_path / "one.jsonl").read_text().count('"threadId":"customer-7"') == 1
