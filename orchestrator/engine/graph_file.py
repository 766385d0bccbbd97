"""Reads a standard `langgraph.json`, so that an existing LangGraph app runs unchanged.

    {"dependencies": ["."], "graphs": {"agent": "./agent.py:graph"}, "env": ".env"}

- `graphs`: name → `./file.py:variable` or `package.module:variable` (or `{"path": …}` around it).
- `dependencies`: local directories are put on `sys.path`; names of packages are taken to be installed.
- `env`: a file, or an object of variables. What the environment has already wins.
- `schedules`, which is Holdfast's own: recurring runs, each with the values of a `Schedule` by their names.

Every error is a `GraphFileError` that names the file and the key.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any

from dotenv import dotenv_values

from orchestrator.engine.schedules import Schedule
from orchestrator.errors import GraphFileError

__all__ = ["GraphFile"]

_EXAMPLE = '{"name": "report", "cron": "0 6 * * *", "workflow": "reports", "payload": {}}'
_TYPES: Mapping[str, type | tuple[type, ...]] = {"priority": int, "grace_s": (int, float)}
_NAMES = {"priority": "a whole number", "grace_s": "a number of seconds"}


@dataclass(frozen=True, slots=True)
class GraphFile:
    """A `langgraph.json` that was read, its graphs not yet imported."""

    path: Path
    graphs: Mapping[str, str]
    dependencies: tuple[str, ...]
    env: Mapping[str, str]
    schedules: tuple[Schedule, ...] = ()

    @classmethod
    def read(cls, path: Path) -> GraphFile:
        """Read and check the file; imports nothing."""
        content = _content(path)
        return cls(
            path,
            graphs=_graphs(path, content.get("graphs")),
            dependencies=_dependencies(path, content.get("dependencies", [])),
            env=_env(path, content.get("env", {})),
            schedules=_schedules(path, content.get("schedules", [])),
        )

    def apply_environment(self) -> None:
        """Set the variables of `env` that the environment does not have yet."""
        for name, value in self.env.items():
            os.environ.setdefault(name, value)

    def load(self) -> dict[str, Any]:
        """Import every graph: name → the object its variable holds."""
        for dependency in reversed(self.dependencies):
            if dependency not in sys.path:
                sys.path.insert(0, dependency)
        return {name: self._load_one(name, target) for name, target in self.graphs.items()}

    def _load_one(self, name: str, target: str) -> Any:
        key = f"graphs.{name}"
        where, _, variable = target.rpartition(":")
        try:
            module = self._import(where)
        except FileNotFoundError as exc:
            raise GraphFileError(self.path, key, f"there is no file {exc.filename}") from exc
        except (Exception, SystemExit) as exc:
            problem = f"{type(exc).__name__}: {exc}"
            raise GraphFileError(self.path, key, f"importing {where} failed with {problem}") from exc
        try:
            return getattr(module, variable)
        except AttributeError:
            raise GraphFileError(self.path, key, f"{where} has no variable {variable!r}") from None

    def _import(self, where: str) -> ModuleType:
        if not (where.endswith(".py") or "/" in where):
            return importlib.import_module(where)
        file = (self.path.parent / where).resolve()
        if not file.is_file():
            raise FileNotFoundError(2, "no such file", str(file))
        return _import_file(file)


def _import_file(file: Path) -> ModuleType:
    """Import a file: as part of its package where it is in one, so that its relative imports work."""
    parts = [file.stem]
    root = file.parent
    while (root / "__init__.py").is_file():
        parts.insert(0, root.name)
        root = root.parent
    if len(parts) > 1:
        if str(root) not in sys.path:
            sys.path.insert(0, str(root))
        return importlib.import_module(".".join(parts))
    # Named after its whole path: two graphs may both live in a file called agent.py.
    name = "graph_file_" + "_".join(part for part in file.with_suffix("").parts if part != file.anchor)
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    # Before it runs: dataclasses and pickled types look their module up by name.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _content(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise GraphFileError(path, "the file", "does not exist") from None
    except OSError as exc:
        raise GraphFileError(path, "the file", f"can't be read: {exc.strerror}") from exc
    except (ValueError, RecursionError) as exc:
        raise GraphFileError(path, "the file", f"is not JSON: {exc}") from exc
    if not isinstance(content, dict):
        raise GraphFileError(path, "the file", "takes a JSON object with `graphs`")
    return content


def _graphs(path: Path, value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not value:
        raise GraphFileError(path, "graphs", 'takes at least one graph, such as {"agent": "./agent.py:graph"}')
    return {name: _target(path, name, target) for name, target in value.items()}


def _target(path: Path, name: str, value: object) -> str:
    key = f"graphs.{name}"
    if not 0 < len(name) <= 100 or not name.isprintable():
        raise GraphFileError(path, key, "takes a name of 1 to 100 printable characters")
    target = value.get("path") if isinstance(value, dict) else value
    if not isinstance(target, str):
        raise GraphFileError(path, key, f"takes ./file.py:variable or package.module:variable, not {target!r}")
    where, _, variable = target.rpartition(":")
    if where.endswith((".js", ".ts", ".mjs", ".cjs", ".tsx", ".jsx")):
        raise GraphFileError(path, key, f"{where} is not Python; only Python graphs can be served")
    if not where or not variable.isidentifier():
        raise GraphFileError(path, key, f"takes ./file.py:variable or package.module:variable, not {target!r}")
    return target


def _dependencies(path: Path, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise GraphFileError(path, "dependencies", 'takes a list of paths and package names, such as ["."]')
    local = [item for item in value if item.startswith((".", "/"))]
    found = []
    for item in local:
        directory = (path.parent / item).resolve()
        if not directory.is_dir():
            raise GraphFileError(path, "dependencies", f"{item} is not a directory")
        found.append(str(directory))
    return tuple(found)


def _env(path: Path, value: object) -> dict[str, str]:
    if isinstance(value, dict):
        return {name: str(item) for name, item in value.items()}
    if not isinstance(value, str):
        raise GraphFileError(path, "env", "takes the path of an env file, or an object of variables")
    file = path.parent / value
    if not file.is_file():
        raise GraphFileError(path, "env", f"there is no file {file}")
    return {name: item for name, item in dotenv_values(file).items() if item is not None}


def _schedules(path: Path, value: object) -> tuple[Schedule, ...]:
    """The schedules, with values of the right types; what they mean is checked where they are used."""
    if not isinstance(value, list):
        raise GraphFileError(path, "schedules", "takes a list of objects")
    return tuple(_schedule(path, f"schedules[{number}]", item) for number, item in enumerate(value))


def _schedule(path: Path, key: str, value: object) -> Schedule:
    if not isinstance(value, dict):
        raise GraphFileError(path, key, f"takes an object such as {_EXAMPLE}")
    known = {field.name: field for field in fields(Schedule)}
    required = [name for name, field in known.items() if field.default is MISSING]
    if wrong := [name for name in required if name not in value]:
        raise GraphFileError(path, key, f"{wrong[0]} is missing; it takes an object such as {_EXAMPLE}")
    if wrong := [name for name in value if name not in known]:
        raise GraphFileError(path, key, f"{wrong[0]} is not known; known: {', '.join(known)}")
    for name, item in value.items():
        takes = _TYPES.get(name, str)
        is_unset = item is None and known[name].default is None
        if not is_unset and (not isinstance(item, takes) or isinstance(item, bool)) and name != "payload":
            raise GraphFileError(path, f"{key}.{name}", f"takes {_NAMES.get(name, 'a text')}, not {item!r}")
    return Schedule(**value)
