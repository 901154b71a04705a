"""Spans of this process, kept in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from sd_common.tracing import tracing_with


@contextmanager
def kept_spans() -> Iterator[InMemorySpanExporter]:
    """What ends while inside is kept."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with tracing_with(provider.get_tracer("test")):
        yield exporter
    provider.shutdown()
