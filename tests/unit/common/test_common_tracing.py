"""Trace context, handed on in the headers of messages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

from sd_common.tracing import continued_trace, record_span, span, trace_headers, wall_time
from support.spans import kept_spans

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


@pytest.mark.parametrize(
    "headers",
    [
        None,
        {},
        {"Nats-Msg-Id": "t1"},
        {"traceparent": "nonsense"},
        {"traceparent": "\udcff"},
        {"baggage": "user=ada"},
        {"baggage": "\udcff"},
    ],
)
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


@pytest.fixture
def ended() -> Iterator[Callable[[], Sequence[ReadableSpan]]]:
    """What has ended of the spans that the test makes."""
    with kept_spans() as exporter:
        yield exporter.get_finished_spans


def test_a_span_that_an_error_leaves_tells_its_kind_and_not_what_it_says(
    ended: Callable[[], Sequence[ReadableSpan]],
) -> None:
    with pytest.raises(ValueError, match="private"), span("work"):
        raise ValueError("a private prompt")
    [failed] = ended()
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.attributes == {"error.type": "ValueError"}
    assert "private" not in failed.to_json()


def test_a_span_of_what_is_over_stands_where_it_was_in_time(ended: Callable[[], Sequence[ReadableSpan]]) -> None:
    now_s = time.time()
    then = wall_time(time.perf_counter() - 5)
    with span("around"):
        record_span("before", then, then + 2)
    before, around = ended()
    assert before.parent is not None
    assert around.context is not None
    assert before.parent.span_id == around.context.span_id
    assert before.start_time == pytest.approx((now_s - 5) * 1e9, abs=1e9)
    assert before.end_time == pytest.approx((now_s - 3) * 1e9, abs=1e9)


def test_no_span_is_made_once_tracing_has_ended() -> None:
    with kept_spans(), span("work") as traced:
        assert traced.is_recording()
    with span("work") as untraced:
        assert not untraced.is_recording()
        assert trace_headers() == {}
