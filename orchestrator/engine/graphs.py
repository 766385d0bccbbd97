"""Graphs by name, compiled with the saver in use.

A `Graph` is a `StateGraph` builder, a compiled graph, or a callable that makes one of them. A compiled graph that
brings a checkpointer of its own gets ours, by copy: the user's object is left as it is.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, TypeAlias

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph.state import StateGraph
from langgraph.pregel import Pregel

from orchestrator.errors import GraphError, UnknownWorkflowError

__all__ = ["CompiledGraph", "Graph", "GraphRegistry", "compile_graphs"]

CompiledGraph: TypeAlias = Pregel[Any, Any, Any, Any]
Graph: TypeAlias = StateGraph[Any, Any, Any, Any] | CompiledGraph | Callable[..., Any]


class GraphRegistry(Mapping[str, CompiledGraph]):
    """The compiled graphs of this process. Looking up a name that is not there raises `UnknownWorkflowError`."""

    def __init__(self, graphs: Mapping[str, CompiledGraph]) -> None:
        self._graphs = dict(graphs)

    def __getitem__(self, workflow: str) -> CompiledGraph:
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
                compiled[name] = await _compile(graph, saver, stack)
            except Exception as exc:
                raise GraphError(f"graph {name!r} can't be used: {exc}") from exc
        yield GraphRegistry(compiled)


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
