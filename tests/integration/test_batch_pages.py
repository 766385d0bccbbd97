"""The code of docs/batches.md and docs/migration.md does what the pages say."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from orchestrator.batches.model import BatchState
from orchestrator.cli.batches_app import batches

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("page", ["batches.md", "migration.md"])
async def test_the_code_runs(page: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("USE_POSTGRES_SAVER", "false")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    assert blocks
    names: dict[str, Any] = {}
    for block in blocks:
        code = compile(block, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        begun = eval(code, names)  # noqa: S307 - our own page
        if inspect.isawaitable(begun):
            await begun


def test_every_state_and_command_is_on_the_page() -> None:
    text = (DOCS / "batches.md").read_text()
    assert [state for state in BatchState if state not in text] == []
    # That they work is seen to by acceptance/test_docs.py.
    told = set(re.findall(r"^ +holdfast batches ([a-z]+)", text, re.MULTILINE))
    assert told == {command.name for command in batches.registered_commands} - {"ls"}
