"""A stand-in of an OpenTelemetry collector: takes OTLP over HTTP and keeps the spans."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass(frozen=True)
class ExportedSpan:
    """A span, with what its service says of itself."""

    resource: dict[str, str]
    span: Span

    @property
    def service(self) -> str:
        return self.resource["service.name"]


@dataclass
class Collector:
    """What it was sent."""

    url: str
    spans: list[ExportedSpan] = field(default_factory=list)

    def take(self, body: bytes) -> None:
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = _texts(of_resource.resource.attributes)
            for of_scope in of_resource.scope_spans:
                self.spans += [ExportedSpan(resource, span) for span in of_scope.spans]

    def of_trace(self, trace_id: str) -> list[ExportedSpan]:
        """`trace_id`: in hex."""
        return [each for each in self.spans if each.span.trace_id.hex() == trace_id]


@contextmanager
def serve_collector() -> Iterator[Collector]:
    """A collector on a free port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/v1/traces":
                collector.take(body)
            self.send_response(200 if self.path == "/v1/traces" else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector = Collector(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()


def _texts(attributes: list[KeyValue]) -> dict[str, str]:
    return {each.key: each.value.string_value for each in attributes}
