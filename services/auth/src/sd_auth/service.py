"""The NATS micro service (ADR-32): subjects, answers, error codes, and a log line for every request."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version

import nats.errors
import structlog
from nats.micro import add_service
from nats.micro.request import Handler, Request
from nats.micro.service import Service
from opentelemetry.trace import SpanKind, StatusCode

from sd_auth.errors import AuthError, Overloaded
from sd_auth.metrics import AuthMetrics
from sd_auth.operations import Operations
from sd_common.auth_messages import (
    JWKS,
    LINK_TOKEN,
    LOG_IN,
    PUBLIC_TOKEN,
    REVOKE,
    SERVICE_NAME,
    SIGN_UP,
    STORE_FULL_CODE,
)
from sd_common.errors import StoreFull, Unavailable
from sd_common.messages import Message
from sd_common.nats_client import NatsClient
from sd_common.tracing import called, continued_trace, span

log = structlog.get_logger(__name__)

#: At 27 ms a hash, even a single core answers the last of them well before its client gives up (5 s).
MAX_REQUESTS_AT_ONCE = 100
_STOP_WITHIN_S = 5.0
_UNAVAILABLE = "503"
_STORE_FULL = str(STORE_FULL_CODE)
_INTERNAL_ERROR = "500"
_INTERNAL_SENTENCE = "The auth service failed: the operator finds the cause in its log"

Operation = Callable[[bytes], Awaitable[Message]]


class AuthService:
    """Serves the operations on their subjects, as one of a queue group of replicas."""

    def __init__(self, client: NatsClient, operations: Operations, metrics: AuthMetrics) -> None:
        self._client = client
        self._metrics = metrics
        self._operations: dict[str, Operation] = {
            SIGN_UP: operations.sign_up,
            LOG_IN: operations.log_in,
            PUBLIC_TOKEN: operations.public_token,
            LINK_TOKEN: operations.link_token,
            REVOKE: operations.revoke,
            JWKS: operations.jwks,
        }
        self._service: Service | None = None
        self._requests: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Take requests from now on."""
        self._service = await add_service(
            self._client,
            name=SERVICE_NAME,
            version=version("sd-auth"),
            description="Users and tokens",
            queue_group=SERVICE_NAME,
        )
        for subject, operation in self._operations.items():
            name = subject.partition(".")[2]
            await self._service.add_endpoint(name=name, subject=subject, handler=self._handler(name, operation))
        await self._client.flush()  # the server knows the subscriptions

    async def stop(self) -> None:
        """Take no more requests and answer those that were taken."""
        if self._client.is_connected:
            with contextlib.suppress(nats.errors.Error, TimeoutError):  # it was lost just now
                async with asyncio.timeout(_STOP_WITHIN_S):
                    await self._drain()
        if self._requests:
            await asyncio.wait(self._requests, timeout=_STOP_WITHIN_S)

    async def _drain(self) -> None:
        # `Service.stop` unsubscribes, which drops the requests that are on their way; draining takes them.
        if self._service is None:
            return
        for endpoint in self._service._endpoints:
            if endpoint._subscription is not None:
                await endpoint._subscription.drain()
        self._service._endpoints = []
        await self._service.stop()

    def _handler(self, name: str, operation: Operation) -> Handler:
        async def take(request: Request) -> None:
            # Decided on arrival: a burst must not refuse itself as a whole.
            chosen = operation if len(self._requests) < MAX_REQUESTS_AT_ONCE else _refuse_overload
            # A task each: nats-py awaits a handler before it takes the next request of that subject.
            task = asyncio.create_task(self._serve(name, chosen, request), name=f"auth.{name}")
            self._requests.add(task)
            task.add_done_callback(self._requests.discard)

        return take

    async def _serve(self, name: str, operation: Operation, request: Request) -> None:
        started_at = time.perf_counter()
        subject = f"{SERVICE_NAME}.{name}"
        with continued_trace(request.headers), span(subject, SpanKind.SERVER, called(subject)) as current:
            code, answer = await self._answer(operation, request.data)
            is_failure = code is not None and code.startswith("5")
            try:
                if code is None:
                    await request.respond(answer.encode())
                else:
                    await request.respond_error(code, answer)
                outcome = "ok" if code is None else "failed" if is_failure else "refused"
            except (nats.errors.Error, ValueError):  # disconnected, or the request names no reply subject
                outcome = "unanswered"
            if is_failure:
                current.set_attribute("error.type", code)
                current.set_status(StatusCode.ERROR)
            seconds = time.perf_counter() - started_at
            self._metrics.answered(name, outcome, seconds)
            log.info("auth_request", operation=name, outcome=outcome, code=code, ms=round(1000 * seconds, 1))

    async def _answer(self, operation: Operation, data: bytes) -> tuple[str | None, str]:
        """The JSON of the answer, or the code and the sentence of the error."""
        try:
            return None, (await operation(data)).model_dump_json()
        except AuthError as error:
            return str(error.code), str(error)
        except StoreFull as error:
            return _STORE_FULL, str(error)
        except Unavailable as error:
            return _UNAVAILABLE, str(error)
        except Exception:
            log.exception("auth_request_failed")
            return _INTERNAL_ERROR, _INTERNAL_SENTENCE


async def _refuse_overload(_data: bytes) -> Message:
    raise Overloaded
