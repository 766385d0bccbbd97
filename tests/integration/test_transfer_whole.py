"""A transfer that fails leaves no file behind, and what was there before as it was."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from checkpointer import CheckpointerError, ThreadFileError, transfer
from checkpointer.thread_file import ThreadFileWriter, verify_thread_file
from checkpointer.transfer import export_threads, transfer_threads
from orchestrator.cli import transfer as command
from orchestrator.cli.transfer import move_threads
from orchestrator.errors import InvalidRequestError
from tests.stateful import run
from tests.threads import LISTED


async def _filled(path: Path) -> InMemorySaver:
    saver = InMemorySaver(serde=LISTED)
    await run(saver, "sending", "asks", times=1)
    async with AsyncSqliteSaver.from_conn_string(str(path)) as sqlite:
        sqlite.serde = LISTED
        await transfer_threads(saver, sqlite)
    return saver


def _files(directory: Path) -> list[str]:
    return sorted(each.name for each in directory.iterdir())


async def _moved(source: str, target: Path, *names: str) -> int:
    return await move_threads(source, f"sqlite:{target}", names, overwrite=False, as_json=True)


@pytest.mark.parametrize(
    "source",
    [
        "sqlite:{0}/none.db",
        "sqlite:{0}/text.db",
        "sqlite:{0}/folder",
        "file:{0}/none.jsonl",
        "file:{0}/cut.jsonl",
        "postgresql://127.0.0.1:1/none",
    ],
)
async def test_a_source_that_is_bad_leaves_no_target(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTGRES_CONNECT_ATTEMPTS", "1")
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.db").write_text("no database" * 1000)
    (tmp_path / "cut.jsonl").write_text('{"kind":"header","format":"holdfast-threads","version":1}\n')
    before = _files(tmp_path)
    with pytest.raises((CheckpointerError, InvalidRequestError)):
        await _moved(source.format(tmp_path), tmp_path / "new.db")
    assert _files(tmp_path) == before


async def test_neither_does_one_that_fails_half_way_or_gives_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _filled(tmp_path / "a.db")
    source, new = f"sqlite:{tmp_path / 'a.db'}", tmp_path / "new.db"
    assert await _moved(source, new, "no such thread") == 1
    assert _files(tmp_path) == ["a.db"]

    async def fails(*args: Any, **kwargs: Any) -> Any:
        await transfer_threads(*args, **kwargs)
        assert (tmp_path / "new.db.partial").exists()
        raise sqlite3.OperationalError("disk I/O error")

    (tmp_path / "new.db.partial").write_text("what a transfer that was killed has left")
    monkeypatch.setattr(command, "transfer_threads", fails)
    with pytest.raises(CheckpointerError, match="disk I/O error"):
        await _moved(source, new)
    assert _files(tmp_path) == ["a.db"]
    monkeypatch.undo()
    assert await _moved(source, new) == 0
    assert _files(tmp_path) == ["a.db", "new.db"]


async def test_a_target_that_was_there_keeps_what_it_has(tmp_path: Path) -> None:
    await _filled(tmp_path / "a.db")
    assert await _moved(f"sqlite:{tmp_path / 'a.db'}", tmp_path / "b.db") == 0
    with pytest.raises((CheckpointerError, InvalidRequestError)):
        await _moved(f"sqlite:{tmp_path / 'none.db'}", tmp_path / "b.db")
    assert await _moved(f"sqlite:{tmp_path / 'a.db'}", tmp_path / "b.db") == 0
    # SQLite itself makes an empty file of what is about to be one; it stays what it is.
    (tmp_path / "empty.db").touch()
    assert await _moved(f"sqlite:{tmp_path / 'a.db'}", tmp_path / "empty.db", "no such thread") == 1
    assert (tmp_path / "empty.db").exists()


async def test_an_export_that_can_not_have_its_name_leaves_nothing(tmp_path: Path) -> None:
    saver = await _filled(tmp_path / "a.db")
    (tmp_path / "taken.jsonl").mkdir()
    with pytest.raises(ThreadFileError, match="can't be written"):
        await export_threads(saver, tmp_path / "taken.jsonl")
    assert _files(tmp_path) == ["a.db", "taken.jsonl"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.zst"])
async def test_an_export_is_read_again_before_it_takes_the_place_of_another(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver = await _filled(tmp_path / "a.db")
    path = tmp_path / name
    await export_threads(saver, path)
    sound = path.read_bytes()

    class Damaging(ThreadFileWriter):
        """Its disk loses a line."""

        def _put_end(self) -> None:
            self.counts["checkpoint"] += 1
            super()._put_end()

    monkeypatch.setattr(transfer, "ThreadFileWriter", Damaging)
    with pytest.raises(ThreadFileError, match="do not match its checksum"):
        await export_threads(saver, path)
    assert path.read_bytes() == sound
    assert verify_thread_file(path).threads
    assert _files(tmp_path) == ["a.db", name]
