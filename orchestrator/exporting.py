"""Where the spans of `holdfast serve` and `holdfast worker` go: to what OpenTelemetry's own variables say.

The SDK reads OTEL_* from the environment itself (not from `.env`): endpoint, headers, sampler, batches, resource. Here
it is only decided whether it is to be set up: where an endpoint or an exporter is named. A program that sets a tracer
provider of its own, or is started by `opentelemetry-instrument`, keeps that one.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from checkpointer import tracing

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

__all__ = ["exporting", "stop_exporting"]

_log = logging.getLogger(__name__)
_NEEDED = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
_STOP_WITHIN_S = 3.0
_provider: TracerProvider | None = None


@contextmanager
def exporting() -> Iterator[None]:
    """Export spans while inside, where the environment says where to; what is left goes out at the end."""
    global _provider
    if not tracing.enable() and (exporter := _wanted()) is not None and _is_possible():
        _provider = _made(exporter)
        tracing.enable(_provider)
    try:
        yield
    finally:
        stop_exporting()


def stop_exporting() -> None:
    """Send what is left, for at most a few seconds, and make no more spans. For a process that is about to end."""
    global _provider
    provider, _provider = _provider, None
    if provider is None:
        return
    tracing.disable()
    # In a thread that may be left behind: with a collector that does not answer, the SDK goes on trying.
    stopping = threading.Thread(target=provider.shutdown, name="last spans", daemon=True)
    stopping.start()
    stopping.join(_STOP_WITHIN_S)
    if stopping.is_alive():
        _log.warning("[WorkflowOrchestrator] the last spans could not be exported within %g s", _STOP_WITHIN_S)


def _wanted() -> str | None:
    """`otlp` or `console`; None where the environment asks for no spans, or for an exporter that is not here."""
    named = _variable("OTEL_TRACES_EXPORTER").lower()
    has_endpoint = _variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or _variable("OTEL_EXPORTER_OTLP_ENDPOINT")
    if _variable("OTEL_SDK_DISABLED").lower() == "true" or named == "none" or not (named or has_endpoint):
        return None
    protocol = _variable("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or _variable("OTEL_EXPORTER_OTLP_PROTOCOL")
    if named not in ("", "otlp", "console"):
        _log.warning("[WorkflowOrchestrator] no spans: OTEL_TRACES_EXPORTER=%r takes otlp, console or none", named)
        return None
    if named != "console" and protocol not in ("", "http/protobuf"):
        _log.warning(
            "[WorkflowOrchestrator] no spans: OTEL_EXPORTER_OTLP_PROTOCOL=%r takes http/protobuf, as a rule on port "
            "4318; for another one start holdfast by opentelemetry-instrument",
            protocol,
        )
        return None
    return named or "otlp"


def _variable(name: str) -> str:
    return os.environ.get(name, "").strip()


def _is_possible() -> bool:
    if all(_is_installed(name) for name in _NEEDED):
        return True
    _log.warning("[WorkflowOrchestrator] no spans: OTEL_* asks for them, and pip install 'holdfast[otel]' is missing")
    return False


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # of a package above it
        return False


def _made(kind: str) -> TracerProvider:
    """The SDK's provider, set as the process's, so that what nodes call finds it too."""
    from opentelemetry import trace
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create()
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "holdfast"}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(_exporter(kind)))
    trace.set_tracer_provider(provider)
    _log.info("[WorkflowOrchestrator] spans are exported (%s)", kind)
    return provider


def _exporter(kind: str) -> Any:
    if kind == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()
