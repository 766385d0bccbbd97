"""Graphs by name, compiled with the saver in use.

A `Graph` is a `StateGraph` builder, a compiled graph, or a callable that makes one of them; a `Workflow` is a graph
with what is to be said about running it. A compiled graph that brings a checkpointer of its own gets ours, by copy:
the user's object is left as it is.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph.state import StateGraph
from langgraph.pregel import Pregel
from langgraph.types import RetryPolicy

from orchestrator.engine.retry import DEFAULT_RETRY
from orchestrator.errors import GraphError, UnknownWorkflowError

__all__ = ["CompiledGraph", "CompiledWorkflow", "Graph", "GraphRegistry", "Upgrade", "Workflow", "compile_graphs"]

CompiledGraph: TypeAlias = Pregel[Any, Any, Any, Any]
Graph: TypeAlias = "StateGraph[Any, Any, Any, Any] | CompiledGraph | Callable[..., Any] | Workflow"


@dataclass(frozen=True, slots=True)
class Upgrade:
    """How the state of a run that was begun under version `old` becomes that of version `new`.

    `change` takes the values of the state by channel and returns all that are to be from then on. It is applied once,
    when such a run goes on, as a checkpoint of its own.
    """

    old: str
    new: str
    change: Callable[[dict[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Workflow:
    """A graph, and how its runs are treated.

    `version` stamps runs and checkpoints; by default it is a hash of the graph's topology. `retry` says which errors
    of an attempt are retried, and when.
    """

    graph: StateGraph[Any, Any, Any, Any] | CompiledGraph | Callable[..., Any]
    version: str | None = None
    retry: RetryPolicy = DEFAULT_RETRY
    upgrades: Sequence[Upgrade] = ()


@dataclass(frozen=True, slots=True)
class CompiledWorkflow:
    """A workflow that can be run."""

    name: str
    graph: CompiledGraph
    version: str
    retry: RetryPolicy = DEFAULT_RETRY
    upgrades: Sequence[Upgrade] = ()

    def saver(self, default: BaseCheckpointSaver[Any]) -> BaseCheckpointSaver[Any]:
        """The graph's saver: the one in use, which may also rebuild the types that the graph's state declares."""
        own = self.graph.checkpointer
        return own if isinstance(own, BaseCheckpointSaver) else default


class GraphRegistry(Mapping[str, CompiledWorkflow]):
    """The workflows of this process. Looking up a name that is not there raises `UnknownWorkflowError`."""

    def __init__(self, workflows: Mapping[str, CompiledWorkflow]) -> None:
        self._graphs = dict(workflows)

    def __getitem__(self, workflow: str) -> CompiledWorkflow:
        try:
            return self._graphs[workflow]
        except KeyError:
            raise UnknownWorkflowError(workflow, sorted(self._graphs)) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._graphs)

    def __len__(self) -> int:
        return len(self._graphs)

    def __contains__(self, workflow: object) -> bool:
        return workflow in self._graphs


@asynccontextmanager
async def compile_graphs(graphs: Mapping[str, Graph], saver: BaseCheckpointSaver[Any]) -> AsyncIterator[GraphRegistry]:
    """Compile every graph with `saver`. Raises `GraphError` naming the graph.

    A factory may be an async context manager; it is left at the end of the block.
    """
    async with AsyncExitStack() as stack:
        compiled = {}
        for name, graph in graphs.items():
            try:
                compiled[name] = await _compile_workflow(name, graph, saver, stack)
            except Exception as exc:
                raise GraphError(f"graph {name!r} can't be used: {exc}") from exc
        yield GraphRegistry(compiled)


async def _compile_workflow(
    name: str, graph: Any, saver: BaseCheckpointSaver[Any], stack: AsyncExitStack
) -> CompiledWorkflow:
    workflow = graph if isinstance(graph, Workflow) else Workflow(graph)
    compiled = await _compile(workflow.graph, saver, stack)
    version = workflow.version or _topology(compiled)
    _check_upgrades(workflow.upgrades)
    return CompiledWorkflow(name, compiled, version, workflow.retry, workflow.upgrades)


def _check_upgrades(upgrades: Sequence[Upgrade]) -> None:
    """Refuse upgrades that leave open which version a state is brought to."""
    following: dict[str, str] = {}
    for upgrade in upgrades:
        if upgrade.old in following:
            raise ValueError(f"two upgrades start at version {upgrade.old!r}")
        following[upgrade.old] = upgrade.new
    for start in following:
        version, passed = start, set[str]()
        while version in following:
            if version in passed:
                raise ValueError(f"the upgrades from version {version!r} lead back to it")
            passed.add(version)
            version = following[version]


def _topology(graph: CompiledGraph) -> str:
    """Twelve hex digits that change when nodes or the edges between them do."""
    parts = [f"{name}<{','.join(sorted(node.triggers))}" for name, node in graph.nodes.items()]
    builder = getattr(graph, "builder", None)
    if isinstance(builder, StateGraph):
        parts += [f"{start}>{end}" for start, end in builder.edges]
        parts += [f"{start}?{name}" for start, branches in builder.branches.items() for name in branches]
    return hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest()[:12]


async def _compile(graph: Any, saver: BaseCheckpointSaver[Any], stack: AsyncExitStack) -> CompiledGraph:
    if isinstance(graph, StateGraph):
        return graph.compile(checkpointer=saver)
    if isinstance(graph, Pregel):
        return _with_saver(graph, saver)
    if callable(graph):
        made = _call(graph, saver)
        if isinstance(made, AbstractAsyncContextManager):
            made = await stack.enter_async_context(made)
        elif inspect.isawaitable(made):
            made = await made
        if isinstance(made, (StateGraph, Pregel)):
            return await _compile(made, saver, stack)
        raise TypeError(f"its factory returned a {type(made).__qualname__}, not a graph")
    raise TypeError(f"it is a {type(graph).__qualname__}, not a StateGraph, a compiled graph or a function")


def _with_saver(graph: CompiledGraph, saver: BaseCheckpointSaver[Any]) -> CompiledGraph:
    copy = graph.copy(update={"checkpointer": saver})
    # copy() drops the types that strict msgpack may rebuild, which compile() had collected from the schemas.
    copy._serde_allowlist = graph._serde_allowlist
    copy.checkpointer = copy._apply_checkpointer_allowlist(saver)
    return copy


def _call(factory: Callable[..., Any], saver: BaseCheckpointSaver[Any]) -> Any:
    """Call a factory with what it takes: nothing, LangGraph's `config`, or the saver."""
    required = [
        parameter
        for parameter in inspect.signature(factory).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    if not required:
        return factory()
    if required[0].name == "config" or "RunnableConfig" in str(required[0].annotation):
        return factory({"configurable": {}})
    return factory(saver)
