"""Tables for people's eyes."""

from __future__ import annotations

import pytest
from rich.console import Console
from rich.text import Text

from orchestrator.cli import tables

ID = "01a1fa08-9003-710e-9446-fb7add013379"


def test_a_narrow_terminal_shows_the_whole_id(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tables, "terminal", lambda: Console(width=60))
    columns = {name: lambda row, name=name: Text(row[name]) for name in ("merge", "reason")}
    tables.print_table(columns, [{"merge": ID, "reason": "they are spelled alike, " * 5}], "nothing")
    [_, line] = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{ID}  they are")
    assert len(line) <= 60
    tables.print_table(columns, [], "nothing")
    assert capsys.readouterr().out == "nothing\n"
