"""What docs/workers.md shows is what there is."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

from orchestrator import Schedule
from orchestrator.engine.graph_file import GraphFile
from tests.queues import EXAMPLE

PAGE = (EXAMPLE.parents[1] / "workers.md").read_text()


def test_the_page_shows_the_example_as_it_is() -> None:
    code = EXAMPLE.read_text()
    assert f"```python\n{code}```" in PAGE
    assert len(code.splitlines()) <= 40


def test_the_schedule_of_the_page_is_one(tmp_path: Path) -> None:
    [text] = [text for text in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL) if "schedules" in text]
    file = tmp_path / "langgraph.json"
    file.write_text(text)
    [schedule] = GraphFile.read(file).schedules
    assert schedule == Schedule(**json.loads(text)["schedules"][0])
    schedule.check({"reports": None})


def test_every_value_of_a_schedule_is_explained() -> None:
    assert [field.name for field in fields(Schedule) if f"`{field.name}`" not in PAGE] == []
