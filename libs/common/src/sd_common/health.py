"""Liveness and readiness over HTTP, for services that speak no HTTP otherwise.

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
from collections.abc import Awaitable, Callable, Coroutine
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

#: Seconds within which a sound event loop answers, and within which the parts tell whether they are ready.
ALIVE_WITHIN_S = 1.0
READY_WITHIN_S = 3.0

#: Parts by name, each with the reason why it is not ready, or None where it is.
Parts = dict[str, str | None]


def _parse_port(value: Any) -> Any:
    return None if value == "off" else value


#: The type of a setting: a port, 0 for any that is free, `off` for none.
HealthPort = Annotated[Annotated[int, Field(ge=0, le=65_535)] | None, BeforeValidator(_parse_port)]


class HealthServer:
    """`GET /healthz` (the event loop answers) and `GET /readyz` (every part is ready): 200, or 503 with the reasons."""

    def __init__(
        self, host: str, port: int, readiness: Callable[[], Awaitable[Parts]], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._readiness = readiness
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

    async def _answer(self) -> Parts:
        return {}

    async def _check(self) -> Parts:
        return {name: reason for name, reason in (await self._readiness()).items() if reason is not None}

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
        missing = self.server.health.missing(self.path)
        answer: dict[str, Any]
        if missing is None:
            status, answer = HTTPStatus.NOT_FOUND, {"status": "not found"}
        elif missing:
            status, answer = HTTPStatus.SERVICE_UNAVAILABLE, {"status": "unavailable", "missing": missing}
        else:
            status, answer = HTTPStatus.OK, {"status": "ok"}
        body = json.dumps(answer).encode()
        with contextlib.suppress(ConnectionError):  # a probe that gave up
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Probes come every few seconds: not worth a line."""
