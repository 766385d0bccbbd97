"""Spans of OpenTelemetry around saves and loads, in a process that has a tracer provider.

Off, nothing of OpenTelemetry is imported, and a traced block costs what entering an empty one does. `enable` switches
spans on for the whole process; opening a saver does so where the program has set a tracer provider before.

    checkpoint save   holdfast.thread.id, .checkpoint.namespace, .save.kind (checkpoint, writes), .save.bytes,
                      .save.batch: how many saves shared its statement
    checkpoint load   holdfast.thread.id, .checkpoint.namespace

Spans name threads and say how large things are; never what is in them.
"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, cast

from langchain_core.runnables import RunnableConfig

from checkpointer.errors import CheckpointerError

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer, TracerProvider

__all__ = ["SaverSpan", "disable", "enable", "inside", "loading", "record_error", "saving", "tracer"]

_tracer: Tracer | None = None
_AROUND = "holdfast-around"


def enable(provider: TracerProvider | None = None) -> bool:
    """Make spans with `provider`, by default the one in use, or else the one that the program has set.

    Where there is none, nothing changes. Returns whether spans are made now.
    """
    global _tracer
    if provider is None and _tracer is None:
        provider = _set_by_the_program()
    if provider is not None:
        _tracer = provider.get_tracer("holdfast", _version())
    return _tracer is not None


def disable() -> None:
    """Make no more spans."""
    global _tracer
    _tracer = None


def tracer() -> Tracer | None:
    """What makes spans; None where they are off."""
    return _tracer


def _set_by_the_program() -> TracerProvider | None:
    # What was never imported can't have been set, and is not imported to find that out.
    api: Any = sys.modules.get("opentelemetry.trace")
    if api is None:
        return None
    provider: TracerProvider = api.get_tracer_provider()
    return None if isinstance(provider, (api.ProxyTracerProvider, api.NoOpTracerProvider)) else provider


def _version() -> str:
    try:
        return version("holdfast")
    except PackageNotFoundError:  # a checkout that is not installed
        return "0"


class SaverSpan:
    """The span of one save or load; a class, as it is entered several times a step."""

    __slots__ = ("_span",)

    def __init__(self, span: Span) -> None:
        self._span = span

    def __enter__(self) -> SaverSpan:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if isinstance(exc, Exception):
            # Messages of ours hold no values; those of others, such as of a type that can't be saved, may.
            record_error(self._span, type(exc).__name__, str(exc) if isinstance(exc, CheckpointerError) else "")
        self._span.end()

    def saved(self, size: int, batch: int) -> None:
        """Say how many bytes were saved, and with how many saves in one statement."""
        self._span.set_attributes({"holdfast.save.bytes": size, "holdfast.save.batch": batch})


class _NoSpan:
    """What a traced block is while spans are off."""

    __slots__ = ()

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        return None


_NO_SPAN = _NoSpan()


def saving(kind: Literal["checkpoint", "writes"], config: RunnableConfig) -> SaverSpan | _NoSpan:
    """The span of a save, to be entered at once."""
    return _NO_SPAN if _tracer is None else _begin(_tracer, "checkpoint save", config, {"holdfast.save.kind": kind})


def loading(config: RunnableConfig) -> SaverSpan | _NoSpan:
    """The span of a load, to be entered at once."""
    return _NO_SPAN if _tracer is None else _begin(_tracer, "checkpoint load", config, {})


def _begin(tracer: Tracer, name: str, config: RunnableConfig, attributes: dict[str, str]) -> SaverSpan:
    from opentelemetry.context import get_current
    from opentelemetry.trace import SpanKind, get_current_span

    around = get_current()
    while not get_current_span(around).is_recording() and _AROUND in around:
        around = cast("Context", around[_AROUND])
    ids = config["configurable"]
    attributes |= {
        "db.system.name": "postgresql",
        "holdfast.thread.id": str(ids["thread_id"]),
        "holdfast.checkpoint.namespace": str(ids.get("checkpoint_ns", "")),
    }
    return SaverSpan(tracer.start_span(name, around, SpanKind.CLIENT, attributes))


def inside(span: Span, around: Context) -> Context:
    """The context in which `span` is current, until it ends: for saves and loads after that, `around` is.

    For a span that begins in a context which nobody is there to put back when it ends.
    """
    from opentelemetry.context import set_value
    from opentelemetry.trace import set_span_in_context

    return set_value(_AROUND, around, set_span_in_context(span, around))


def record_error(span: Span, kind: str, message: str) -> None:
    """Mark a span as failed. `kind` is the error's type; the message must hold no secret."""
    from opentelemetry.trace import StatusCode

    span.set_status(StatusCode.ERROR, message or kind)
    span.set_attribute("error.type", kind)
