"""`holdfast backup`, `holdfast restore` and the scripts over them, as an operator runs them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.cli.app import run
from tests.archives import contents, fill_rows, narrow
from tests.forking import fork_holdfast, run_holdfast, write_command
from tests.servers import ROOT
from tests.waiting import until

NOWHERE = "postgresql://someone:secret@127.0.0.1:1/none"


def environment(dsn: str) -> dict[str, str]:
    given = {"POSTGRES_CONNECTION_STRING": dsn, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    return {**os.environ, **given, "POSTGRES_CONNECT_ATTEMPTS": "1"}


def holdfast(dsn: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in the working directory."""
    return run_holdfast(arguments, cwd=Path.cwd(), env=environment(dsn), timeout=120)


def done(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def test_there_and_back(postgres_dsn: str, empty_dsn: str, tmp_path: Path) -> None:
    fill_rows(postgres_dsn)
    said = done(holdfast(postgres_dsn, "backup", "my.backup"))
    assert "my.backup: " in said
    assert "keep it as safe as the database" in said
    assert stat.S_IMODE((tmp_path / "my.backup").stat().st_mode) == 0o600
    # Reading a file needs no database.
    verified = json.loads(done(holdfast(NOWHERE, "backup", "verify", "my.backup", "--json")))
    assert verified["ok"] is True
    tables = {table["name"]: table for table in verified["tables"]}
    assert tables["knowledge_alias"]["rows"] == 7
    assert len(tables["knowledge_alias"]["sha256"]) == 64
    into = ("--database-url", empty_dsn, "--schema", "other")
    restored = json.loads(done(holdfast(postgres_dsn, "restore", "my.backup", *into, "--json")))
    assert (restored["created"], restored["emptied"], restored["rows"]) == (True, [], verified["rows"])
    assert contents(empty_dsn, "other") == contents(postgres_dsn)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[object, str]]:
    """Runs the command in this process; gives its exit code and what it wrote to stderr."""
    monkeypatch.setattr("orchestrator.cli.archive.setup_logging", lambda *_: None)
    monkeypatch.setenv("POSTGRES_CONNECT_ATTEMPTS", "1")

    def call(dsn: str, *arguments: str) -> tuple[object, str]:
        monkeypatch.setenv("POSTGRES_CONNECTION_STRING", dsn)
        with pytest.raises(SystemExit) as ended:
            run(arguments)
        return ended.value.code, capsys.readouterr().err

    return call


def test_every_command_of_the_page_works(
    said: Callable[..., tuple[object, str]], postgres_dsn: str, empty_dsn: str
) -> None:
    fill_rows(postgres_dsn)
    page = (ROOT / "docs" / "backup.md").read_text(encoding="utf-8")
    commands = [shlex.split(line) for line in re.findall(r"^    (\w.*)$", page, re.MULTILINE)]
    assert len(commands) == 8
    for program, *words in commands:
        if program == "holdfast":
            assert said(postgres_dsn if words[0] == "backup" else empty_dsn, *words) == (0, "")
        else:
            subprocess.run([program, *words], check=True, stdout=subprocess.DEVNULL)
    assert contents(empty_dsn) == contents(empty_dsn, "rehearsal") == contents(postgres_dsn)


def test_what_is_wrong_is_said_in_a_line(
    said: Callable[..., tuple[object, str]], postgres_dsn: str, tmp_path: Path
) -> None:
    (tmp_path / "damaged").write_bytes(b"x" * 4000)
    wrong: list[tuple[str, int, str, list[str]]] = [
        (postgres_dsn, 1, "there is no directory", ["backup", "none/my.backup"]),
        (postgres_dsn, 1, "damaged", ["restore", "damaged"]),
        (postgres_dsn, 2, "schema='No'", ["restore", "damaged", "--schema", "No"]),
        (postgres_dsn, 2, "--database-url", ["backup", "my.backup", "--database-url", "postgresql://a:secret@b@c/d"]),
        (NOWHERE, 1, "damaged", ["backup", "verify", "damaged"]),
        (NOWHERE, 1, "No such file", ["backup", "verify", "missing"]),
        (NOWHERE, 1, "127.0.0.1", ["backup", "my.backup"]),
    ]
    for dsn, code, words, arguments in wrong:
        got, line = said(dsn, *arguments)
        assert got == code, (arguments, line)
        assert words in line
        assert line.count("\n") == 1, line
        assert "secret" not in line
    assert [path.name for path in tmp_path.iterdir()] == ["damaged"]


@pytest.mark.parametrize("words", [["verify"], ["one", "two"], ["verify", "one", "--dry-run"], []])
def test_wrong_usage_is_told_from_failure(said: Callable[..., tuple[object, str]], words: list[str]) -> None:
    code, lines = said(NOWHERE, "backup", *words)
    assert code == 2
    assert "Usage: holdfast backup" in lines


async def test_killed_half_way_it_leaves_the_file_that_was_there(
    postgres_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, partial = tmp_path / "my.backup", tmp_path / "my.backup.partial"
    await asyncio.to_thread(lambda: done(holdfast(postgres_dsn, "backup", "my.backup")))
    before = path.read_bytes()
    fill_rows(postgres_dsn, blobs=500)
    async with narrow(postgres_dsn, monkeypatch, 3_000_000) as (dsn, _):
        with (tmp_path / "said").open("w") as out:
            command = ["backup", "my.backup"]
            process = fork_holdfast(command, cwd=tmp_path, env=environment(dsn), stdout=out, stderr=out)
        try:
            await until(lambda: _size(partial) > 1_000_000, timeout_s=60, what="half of it is written")
            assert process.poll() is None
        finally:
            process.kill()
            await asyncio.to_thread(process.wait)
    assert path.read_bytes() == before
    done(await asyncio.to_thread(holdfast, postgres_dsn, "backup", "my.backup"))
    done(await asyncio.to_thread(holdfast, NOWHERE, "backup", "verify", "my.backup"))
    assert _size(path) > 5_000_000
    assert not partial.exists()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The scripts in a checkout whose environment is made: this one's."""
    copy = tmp_path / "a checkout"
    binaries = copy / ".venv" / "bin"
    (copy / "scripts").mkdir(parents=True)
    binaries.mkdir(parents=True)
    for name in ("lib.sh", "backup", "restore"):
        shutil.copy(ROOT / "scripts" / name, copy / "scripts" / name)
    (binaries / "python").write_text("#!/bin/sh\nexit 0\n")
    (binaries / "python").chmod(0o755)
    write_command(binaries / "holdfast")
    return copy


def script(checkout: Path, dsn: str, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script in the working directory."""
    settings = {name: value for name, value in environment(dsn).items() if name != "PYTHON"}
    command = [str(checkout / "scripts" / name), *arguments]
    return subprocess.run(command, env=settings, capture_output=True, text=True, check=False, timeout=120)


def test_the_scripts_say_what_they_do_and_how_it_ended(
    checkout: Path, postgres_dsn: str, empty_dsn: str, tmp_path: Path
) -> None:
    fill_rows(postgres_dsn)
    file = tmp_path / "my backup"
    planned = script(checkout, postgres_dsn, "backup", "my backup", "--dry-run")
    assert (planned.returncode, file.exists()) == (0, False)
    assert "would be written to my backup" in planned.stdout
    made = script(checkout, postgres_dsn, "backup", "my backup")
    assert made.stdout.splitlines()[-1] == "==> done: my backup is a good backup", made.stderr
    tried = script(checkout, empty_dsn, "restore", "my backup", "--dry-run")
    assert (tried.returncode, contents(empty_dsn)) == (0, {})
    assert "fits into" in tried.stdout
    restored = script(checkout, empty_dsn, "restore", "my backup")
    assert restored.stdout.splitlines()[-1].startswith("==> done: "), restored.stderr
    assert contents(empty_dsn) == contents(postgres_dsn)
    again = script(checkout, empty_dsn, "restore", "my backup")
    assert again.returncode == 1
    assert "is not empty" in again.stderr
    assert again.stderr.splitlines()[-1] == "error: nothing was changed"
    assert script(checkout, empty_dsn, "restore").returncode == 1
