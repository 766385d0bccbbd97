"""Spans of a real server, exported to a collector: over a kill, with and without somebody who listens."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.acceptance.test_serve import SLOW_GRAPH
from tests.postgres import free_port
from tests.servers import Server, serving
from tests.waiting import until

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADERS = {"traceparent": f"00-{TRACE}-{CALLER}-01"}


class Collector:
    """What an OTLP collector was sent over HTTP."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.services: set[str] = set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing: the test's output is pytest's."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def take(self, request: ExportTraceServiceRequest) -> None:
        """Keep the spans."""
        for each in request.resource_spans:
            self.services |= {
                item.value.string_value for item in each.resource.attributes if item.key == "service.name"
            }
            self.spans += [span for scope in each.scope_spans for span in scope.spans]

    def named(self, name: str) -> list[Any]:
        """The spans with this name."""
        return [span for span in self.spans if span.name == name]


@contextmanager
def _collecting() -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield collector
    finally:
        collector.server.shutdown()
        thread.join()
        collector.server.server_close()


@pytest.fixture
def graphs(tmp_path: Path) -> str:
    (tmp_path / "slow.py").write_text(SLOW_GRAPH)
    (tmp_path / "langgraph.json").write_text(json.dumps({"dependencies": ["."], "graphs": {"slow": "./slow.py:graph"}}))
    return "langgraph.json"


async def _start(server: Server, gate: Path) -> Any:
    body = {"workflow": "slow", "input": {"gate": str(gate)}}
    answer = await server.client.post("/api/invoke/async", json=body, headers=HEADERS)
    assert answer.status_code == 202
    return answer.json()


async def in_two(server: Server, run: Any) -> bool:
    return bool((await server.get(run["statusUrl"]))["currentActivity"] == "two")


async def test_a_run_stays_in_its_callers_trace_when_its_server_is_killed(
    tmp_path: Path, postgres_dsn: str, graphs: str, conn: psycopg.Connection
) -> None:
    gate = tmp_path / "gate"
    with _collecting() as collector:
        environment = {
            "USE_POSTGRES_SAVER": "true",
            "POSTGRES_CONNECTION_STRING": postgres_dsn,
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        async with serving(tmp_path, environment, "--graphs", graphs) as server:
            await server.start()
            run = await _start(server, gate)
            # Its first step is committed, for `two` has begun and waits at the gate; and its span has gone out.
            await until(lambda: in_two(server, run), what="the second step")
            await until(lambda: collector.named("activity one"), what="the first step's span")
            await server.kill()
            gate.touch()
            await server.start()
            assert (await server.finished(run))["attempt"] == 2
            assert await server.stop() == 0
    assert collector.services == {"holdfast"}
    [attempt] = collector.named("run slow")  # the killed one's span went with its process
    assert attempt.parent_span_id.hex() != ""
    request = [span for span in collector.spans if span.span_id == attempt.parent_span_id]
    caller = request[0].parent_span_id if request else attempt.parent_span_id
    assert caller.hex() == CALLER
    of_run = [span for span in collector.spans if span.name.startswith(("run ", "activity ", "checkpoint save"))]
    assert {span.trace_id.hex() for span in of_run} == {TRACE}
    [one] = collector.named("activity one")
    assert one.parent_span_id != attempt.span_id
    for name in ("activity two", "activity three"):
        [span] = collector.named(name)
        assert span.parent_span_id == attempt.span_id


async def test_a_collector_that_does_not_answer_holds_nothing_up(
    tmp_path: Path, postgres_dsn: str, graphs: str
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    environment = {
        "USE_POSTGRES_SAVER": "true",
        "POSTGRES_CONNECTION_STRING": postgres_dsn,
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}",
    }
    async with serving(tmp_path, environment, "--graphs", graphs) as server:
        await server.start()
        assert (await server.finished(await _start(server, gate)))["status"] == "completed"
        began = time.monotonic()
        assert await server.stop() == 0
        # The exporter by itself would try again for a minute.
        assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "OTEL_EXPORTER_OTLP_PROTOCOL='grpc' takes http/protobuf"),
        ("OTEL_TRACES_EXPORTER", "zipkin", "OTEL_TRACES_EXPORTER='zipkin' takes otlp, console or none"),
        ("OTEL_SDK_DISABLED", "true", ""),
    ],
)
def test_what_is_not_to_be_had_is_said(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from checkpointer import tracing
    from orchestrator.exporting import exporting

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv(name, value)
    with exporting():
        assert tracing.tracer() is None
    assert said in caplog.text
