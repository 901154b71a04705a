"""Traces: their context (W3C `traceparent`) in the headers of messages, and spans of what is done.

Spans cost next to nothing until `tracing_with` gives them somewhere to go (`sd_common.trace_export` does); a trace that
a client began is handed on all the same. Names of attributes are those of OpenTelemetry's semantic conventions, and
ours begin with `sd.`. No attribute holds what is secret or private: tokens, queries, paths, prompts, users.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import context
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

Attributes = Mapping[str, str | int | bool]

#: Not OpenTelemetry's global one, which hands on a client's `baggage` too: kilobytes in every message, and an exception
#: where it is no text.
_propagator = TraceContextTextMapPropagator()
_tracer: Tracer | None = None


@contextmanager
def tracing_with(tracer: Tracer) -> Iterator[None]:
    """Spans of this process are `tracer`'s while inside."""
    # Not OpenTelemetry's own global, which can be set once in a process and never be taken back.
    global _tracer
    before, _tracer = _tracer, tracer
    try:
        yield
    finally:
        _tracer = before


@contextmanager
def span(name: str, kind: SpanKind = SpanKind.INTERNAL, attributes: Attributes | None = None) -> Iterator[Span]:
    """What happens inside is a span; it has failed where an exception leaves it."""
    if _tracer is None:  # OpenTelemetry's own way of doing nothing takes four times as long
        yield INVALID_SPAN
        return
    with _tracer.start_as_current_span(
        name,
        kind=kind,
        attributes=attributes,
        record_exception=False,  # messages may hold what a user wrote
        set_status_on_exception=False,
    ) as current:
        try:
            yield current
        except Exception as error:
            current.set_attribute("error.type", type(error).__name__)
            current.set_status(StatusCode.ERROR)
            raise


def record_span(name: str, start_s: float, end_s: float) -> None:
    """A span, below the current one, of what was over before anybody could tell. In seconds since 1970."""
    if _tracer is not None:
        _tracer.start_span(name, start_time=int(start_s * 1e9)).end(int(end_s * 1e9))


def wall_time(monotonic_s: float) -> float:
    """A reading of `time.perf_counter()` as seconds since 1970."""
    return time.time() - time.perf_counter() + monotonic_s


def sent_to(stream: str) -> dict[str, str]:
    """Attributes of a span in which a message is put into a stream."""
    return {
        "messaging.system": "nats",
        "messaging.operation.type": "send",
        "messaging.operation.name": "publish",
        "messaging.destination.name": stream,
    }


def called(subject: str) -> dict[str, str]:
    """Attributes of a span in which a request over NATS is made or answered."""
    return {"rpc.system.name": "nats", "rpc.method": subject}


def trace_headers() -> dict[str, str]:
    """Headers that hand the current trace on; empty where there is none."""
    headers: dict[str, str] = {}
    _propagator.inject(headers)
    return headers


@contextmanager
def continued_trace(headers: Mapping[str, str] | None) -> Iterator[None]:
    """What happens inside belongs to the trace that `headers` name."""
    token = context.attach(_propagator.extract(headers or {}))
    try:
        yield
    finally:
        context.detach(token)
