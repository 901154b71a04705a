"""Liveness, readiness and metrics over HTTP, on a port for operators alone.

The server runs in threads of its own and asks the event loop: a loop that hangs is told as such, instead of silence.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import socket
import socketserver
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Annotated, Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry
from pydantic import BeforeValidator, Field

#: Seconds within which a sound event loop answers, and within which the parts tell whether they are ready.
ALIVE_WITHIN_S = 1.0
READY_WITHIN_S = 3.0

#: Parts by name, each with the reason why it is not ready, or None where it is.
Parts = dict[str, str | None]


def _parse_port(value: Any) -> Any:
    return None if value == "off" else value


#: Types of settings. The default port is each service's own.
HealthHost = Annotated[
    str,
    Field(
        description="Address of `/healthz`, `/readyz` and `/metrics`, for operators alone; `0.0.0.0` in a container."
    ),
]
HealthPort = Annotated[
    Annotated[int, Field(ge=0, le=65_535)] | None,
    BeforeValidator(_parse_port),
    Field(description="Port of `/healthz`, `/readyz` and `/metrics`; 0 for any that is free, `off` for none."),
]


class HealthServer:
    """`GET /healthz` (the event loop answers) and `GET /readyz` (every part is ready): 200, or 503 with the reasons.
    `GET /metrics`: what `registry` has, for Prometheus, and which parts are ready."""

    def __init__(
        self,
        host: str,
        port: int,
        readiness: Callable[[], Awaitable[Parts]],
        loop: asyncio.AbstractEventLoop,
        registry: CollectorRegistry,
    ) -> None:
        self._readiness = readiness
        self._registry = registry
        self._loop = loop
        try:
            self._server = _Server(host, port, self)
        except OSError as error:
            problem = f"cannot serve health on {host}:{port} (HEALTH_HOST, HEALTH_PORT): {error.strerror}"
            raise OSError(error.errno, problem) from error
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="health", daemon=True)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    async def stop(self) -> None:
        """Close the port."""
        if self._thread.is_alive():
            await asyncio.to_thread(self._server.shutdown)
        self._server.server_close()

    def missing(self, path: str) -> Parts | None:
        """What `path` finds missing; None where there is no such path. Called in the server's threads."""
        match path:
            case "/healthz":
                return self._ask(self._answer(), ALIVE_WITHIN_S)
            case "/readyz":
                return self._ask(self._check(), READY_WITHIN_S)
        return None

    def metrics(self, accept: str) -> tuple[bytes, str]:
        """The page for Prometheus in the format that `accept` asks for, and its content type. Called in the server's
        threads: a loop that hangs shows in it."""
        encode, content_type = choose_encoder(accept)
        return encode(_Page(self._registry, self._ask(self._check_all(), READY_WITHIN_S))), content_type

    async def _answer(self) -> Parts:
        return {}

    async def _check(self) -> Parts:
        return {name: reason for name, reason in (await self._readiness()).items() if reason is not None}

    async def _check_all(self) -> Parts:
        return {"event_loop": None, **await self._readiness()}

    def _ask(self, question: Coroutine[Any, Any, Parts], within_s: float) -> Parts:
        try:
            future = asyncio.run_coroutine_threadsafe(question, self._loop)
        except RuntimeError:  # the loop is closed
            question.close()
            return {"event_loop": "closed"}
        try:
            return future.result(within_s)
        except concurrent.futures.TimeoutError:
            future.cancel()
            return {"event_loop": f"no answer within {within_s:g} s"}
        except (Exception, concurrent.futures.CancelledError) as error:
            return {"readiness": f"the check failed: {type(error).__name__}"}


@contextlib.asynccontextmanager
async def serving_health(
    host: str, port: int | None, readiness: Callable[[], Awaitable[Parts]], registry: CollectorRegistry
) -> AsyncIterator[int | None]:
    """Serve while inside, and yield the port; None: nothing is served."""
    if port is None:
        yield None
        return
    server = HealthServer(host, port, readiness, asyncio.get_running_loop(), registry)
    server.start()
    try:
        yield server.port
    finally:
        await server.stop()


def parts_metric() -> GaugeMetricFamily:
    """The metric of which parts are ready, without its values."""
    return GaugeMetricFamily(
        "sd_part_ready", "Whether a part that the service needs is ready (1), as `/readyz` tells.", labels=["part"]
    )


class _Page(Collector):
    """What one answer shows."""

    def __init__(self, registry: CollectorRegistry, parts: Parts) -> None:
        self._registry = registry
        self._parts = parts

    def collect(self) -> Iterator[Metric]:
        ready = parts_metric()
        for part, reason in self._parts.items():
            ready.add_metric([part], float(reason is None))
        yield ready
        yield from self._registry.collect()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, host: str, port: int, health: HealthServer) -> None:
        self.health = health
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        # HTTPServer's own asks DNS for the host's name: it can take seconds, and only CGI needs it.
        socketserver.TCPServer.server_bind(self)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 5.0  # seconds for a client to send its request

    def do_GET(self) -> None:
        if self.path == "/metrics":
            self._respond(HTTPStatus.OK, *self.server.health.metrics(self.headers.get("Accept", "")))
            return
        missing = self.server.health.missing(self.path)
        answer: dict[str, Any]
        if missing is None:
            status, answer = HTTPStatus.NOT_FOUND, {"status": "not found"}
        elif missing:
            status, answer = HTTPStatus.SERVICE_UNAVAILABLE, {"status": "unavailable", "missing": missing}
        else:
            status, answer = HTTPStatus.OK, {"status": "ok"}
        self._respond(status, json.dumps(answer).encode(), "application/json")

    def _respond(self, status: HTTPStatus, body: bytes, content_type: str) -> None:
        with contextlib.suppress(ConnectionError):  # a probe that gave up
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Probes come every few seconds: not worth a line."""
