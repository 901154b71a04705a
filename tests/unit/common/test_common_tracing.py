"""Trace context, handed on in the headers of messages."""

from __future__ import annotations

import asyncio

import pytest
from opentelemetry import trace

from sd_common.tracing import continued_trace, trace_headers

_HEADERS = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "vendor=value"}


def test_without_a_trace_there_are_no_headers() -> None:
    assert trace_headers() == {}


def test_headers_come_out_as_they_went_in() -> None:
    with continued_trace(_HEADERS):
        assert trace_headers() == _HEADERS
    assert trace_headers() == {}


def test_the_trace_inside_is_that_of_the_headers() -> None:
    with continued_trace(_HEADERS):
        span = trace.get_current_span().get_span_context()
        assert trace.format_trace_id(span.trace_id) == "0af7651916cd43dd8448eb211c80319c"
        assert span.is_remote


@pytest.mark.parametrize("headers", [None, {}, {"Nats-Msg-Id": "t1"}, {"traceparent": "nonsense"}])
def test_headers_without_a_trace_are_no_error(headers: dict[str, str] | None) -> None:
    with continued_trace(headers):
        assert trace_headers() == {}


def test_the_trace_ends_when_what_is_inside_fails() -> None:
    with pytest.raises(RuntimeError), continued_trace(_HEADERS):
        raise RuntimeError
    assert trace_headers() == {}


async def test_tasks_at_once_keep_their_own_traces() -> None:
    def headers(number: int) -> dict[str, str]:
        return {"traceparent": f"00-{number:032x}-b7ad6b7169203331-01"}

    everybody_is_inside = asyncio.Barrier(10)

    async def work(number: int) -> None:
        with continued_trace(headers(number)):
            await everybody_is_inside.wait()
            assert trace_headers() == headers(number)

    await asyncio.gather(*map(work, range(1, 11)))
