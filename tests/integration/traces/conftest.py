"""Gateways, auth and workers in this process, and the spans that they make."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
import pytest_asyncio
from integration.gateway.conftest import StartGateway, auth, secret_key, start_auth, start_gateway
from integration.worker.conftest import StartWorker, create_worker, model_dir, start_worker, tasks
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from support.spans import kept_spans
from support.waiting import until

__all__ = [
    "auth",
    "create_worker",
    "model_dir",
    "secret_key",
    "start_auth",
    "start_gateway",
    "start_worker",
    "tasks",
]


class Spans:
    """What has ended so far."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    def all(self) -> list[ReadableSpan]:
        """In the order in which they began."""
        return sorted(self._exporter.get_finished_spans(), key=lambda each: each.start_time or 0)

    def of_trace(self, trace_id: int) -> list[ReadableSpan]:
        return [each for each in self.all() if trace_id_of(each) == trace_id]

    async def until(self, trace_id: int, is_there: Callable[[Sequence[ReadableSpan]], bool]) -> list[ReadableSpan]:
        """The trace, once it is like this."""
        await until(lambda: is_there(self.of_trace(trace_id)))
        return self.of_trace(trace_id)

    async def named(self, name: str) -> list[ReadableSpan]:
        """Those of this name, once there is one."""
        await until(lambda: any(each.name == name for each in self.all()))
        return [each for each in self.all() if each.name == name]


@pytest_asyncio.fixture
async def gateway_url(start_gateway: StartGateway) -> str:
    """Of one that runs."""
    _, url = await start_gateway()
    return url


@pytest_asyncio.fixture
async def service_url(gateway_url: str, start_worker: StartWorker) -> str:
    """The same, with a worker behind it."""
    await start_worker()
    return gateway_url


@pytest.fixture
def spans() -> Iterator[Spans]:
    with kept_spans() as exporter:
        yield Spans(exporter)


def trace_id_of(span: ReadableSpan) -> int:
    assert span.context is not None
    trace_id: int = span.context.trace_id
    return trace_id
