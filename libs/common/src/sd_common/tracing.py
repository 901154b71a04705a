"""Trace context (W3C `traceparent`) in the headers of messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import context, propagate


def trace_headers() -> dict[str, str]:
    """Headers that hand the current trace on; empty where there is none."""
    headers: dict[str, str] = {}
    propagate.inject(headers)
    return headers


@contextmanager
def continued_trace(headers: Mapping[str, str] | None) -> Iterator[None]:
    """What happens inside belongs to the trace that `headers` name."""
    token = context.attach(propagate.extract(headers or {}))
    try:
        yield
    finally:
        context.detach(token)
