from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langgraph.graph import StateGraph

from orchestrator import GraphFileError, Schedule
from orchestrator.engine.graph_file import GraphFile

GRAPH = """
from typing import TypedDict
from langgraph.graph import START, StateGraph
class State(TypedDict):
    text: str
def node(state: State) -> State:
    return state
graph = StateGraph(State).add_node("node", node).add_edge(START, "node")
"""


@pytest.fixture(autouse=True)
def _imports_are_undone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def _write(directory: Path, content: object) -> Path:
    path = directory / "langgraph.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def _scheduled(**values: object) -> dict[str, Any]:
    known = {"name": "n", "cron": "0 * * * *", "workflow": "a", "payload": True}
    return {"graphs": {"a": "./a.py:b"}, "schedules": [known | values]}


def test_schedules(tmp_path: Path) -> None:
    file = GraphFile.read(_write(tmp_path, _scheduled(thread_id=None, grace_s=5, timezone="Europe/Berlin")))
    expected = Schedule("n", "0 * * * *", "a", True, timezone="Europe/Berlin", grace_s=5)
    assert file.schedules == (expected,)


def test_a_file_a_module_and_a_module_of_a_package(tmp_path: Path) -> None:
    (tmp_path / "my-agent.py").write_text(GRAPH)
    (tmp_path / "single_module.py").write_text(GRAPH)
    package = tmp_path / "src" / "some_package"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "parts.py").write_text(GRAPH)
    (package / "agent.py").write_text("from .parts import graph")
    graphs = {
        "file": "./my-agent.py:graph",
        "object": {"path": "./my-agent.py:graph", "description": "…"},
        "module": "single_module:graph",
        "relative imports": "./src/some_package/agent.py:graph",
        "dotted": "some_package.parts:graph",
    }
    path = _write(tmp_path, {"dependencies": [".", "./src", "langchain"], "graphs": graphs})
    loaded = GraphFile.read(path).load()
    assert list(loaded) == list(graphs)
    assert all(isinstance(graph, StateGraph) for graph in loaded.values())


def test_env_is_applied_and_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELD", "mine")
    monkeypatch.delenv("FROM_FILE", raising=False)
    (tmp_path / "my.env").write_text("HELD=theirs\nFROM_FILE=theirs\n")
    file = GraphFile.read(_write(tmp_path, {"graphs": {"a": "./a.py:b"}, "env": "my.env"}))
    assert "FROM_FILE" not in os.environ
    monkeypatch.setenv("FROM_FILE", "set, so that it is undone")
    monkeypatch.delenv("FROM_FILE")
    file.apply_environment()
    assert (os.environ["HELD"], os.environ["FROM_FILE"]) == ("mine", "theirs")


@pytest.mark.parametrize(
    ("content", "key", "why"),
    [
        ("{", "the file", "is not JSON"),
        ([], "the file", "takes a JSON object"),
        ({}, "graphs", "at least one graph"),
        ({"graphs": {}}, "graphs", "at least one graph"),
        ({"graphs": {"a": 1}}, "graphs.a", "takes ./file.py:variable"),
        ({"graphs": {"a": "./a.py"}}, "graphs.a", "takes ./file.py:variable"),
        ({"graphs": {"a": "./a.ts:graph"}}, "graphs.a", "not Python"),
        ({"graphs": {"a": "./a.py:b"}, "dependencies": "."}, "dependencies", "takes a list"),
        ({"graphs": {"a": "./a.py:b"}, "dependencies": ["./no"]}, "dependencies", "not a directory"),
        ({"graphs": {"a": "./a.py:b"}, "env": "no.env"}, "env", "there is no file"),
        ({"graphs": {"a": "./a.py:b"}, "env": 1}, "env", "takes the path"),
        ({"graphs": {"a": "./a.py:b"}, "schedules": {}}, "schedules", "takes a list"),
        ({"graphs": {"a": "./a.py:b"}, "schedules": ["x"]}, "schedules[0]", "takes an object such as"),
        ({"graphs": {"a": "./a.py:b"}, "schedules": [{"name": "n"}]}, "schedules[0]", "cron is missing"),
        (_scheduled(every=5), "schedules[0]", "every is not known; known: name, cron"),
        (_scheduled(cron=5), "schedules[0].cron", "takes a text, not 5"),
        (_scheduled(priority="high"), "schedules[0].priority", "takes a whole number, not 'high'"),
        (_scheduled(grace_s=True), "schedules[0].grace_s", "takes a number of seconds, not True"),
        (_scheduled(timezone=None), "schedules[0].timezone", "takes a text, not None"),
    ],
)
def test_a_file_that_is_wrong_is_named_with_its_key(tmp_path: Path, content: Any, key: str, why: str) -> None:
    path = _write(tmp_path, content)
    with pytest.raises(GraphFileError) as caught:
        GraphFile.read(path)
    assert str(caught.value).startswith(f"{path}, {key}: ")
    assert why in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(GraphFileError, match="does not exist"):
        GraphFile.read(tmp_path / "langgraph.json")


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("./missing.py:graph", "there is no file"),
        ("no_such_module:graph", "No module named"),
        ("./broken.py:graph", "ZeroDivisionError"),
        ("./exits.py:graph", "SystemExit"),
        ("./good.py:grpah", "no variable 'grpah'"),
    ],
)
def test_a_graph_that_does_not_load_is_named(tmp_path: Path, target: str, why: str) -> None:
    (tmp_path / "broken.py").write_text("1 / 0")
    (tmp_path / "exits.py").write_text("raise SystemExit(3)")
    (tmp_path / "good.py").write_text("graph = 1")
    file = GraphFile.read(_write(tmp_path, {"graphs": {"mine": target}}))
    with pytest.raises(GraphFileError, match=r"langgraph\.json, graphs\.mine: ") as caught:
        file.load()
    assert why in str(caught.value)
