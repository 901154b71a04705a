"""Where the spans of a process go: to an OpenTelemetry collector, over OTLP/HTTP, if there is one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Annotated, Literal

from pydantic import Field

from sd_common.settings import Settings, matching
from sd_common.tracing import tracing_with

#: For what is left when a service stops. A collector that is away must not hold it up for longer.
_FLUSH_WITHIN_S = 5.0

_URL = matching("https?://[^/]+.*", "must be a URL such as http://collector:4318")


class TraceSettings(Settings):
    """Where traces go. OpenTelemetry names these, and reads more (`OTEL_…`) from the environment alone."""

    otel_exporter_otlp_endpoint: Annotated[str, _URL] | None = Field(
        default=None,
        description="URL of an OpenTelemetry collector that takes OTLP over HTTP. Empty: nothing is traced.",
    )
    otel_traces_sampler: Literal[
        "always_on",
        "always_off",
        "traceidratio",
        "parentbased_always_on",
        "parentbased_always_off",
        "parentbased_traceidratio",
    ] = Field(
        default="parentbased_always_on",
        description="Which traces are kept; with `parentbased_…`, clients that send a `traceparent` decide for theirs.",
    )
    otel_traces_sampler_arg: float = Field(default=1.0, ge=0, le=1, description="The share that `…traceidratio` keeps.")


@contextmanager
def exporting_traces(settings: TraceSettings, service: str) -> Iterator[None]:
    """Send the spans of the process while inside, and what is left of them at the end."""
    if settings.otel_exporter_otlp_endpoint is None:
        yield
        return
    # Only now: it takes 0.1 s and 6 MB, for nothing where nobody traces.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider, sampling
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    share = sampling.TraceIdRatioBased(settings.otel_traces_sampler_arg)
    samplers: dict[str, sampling.Sampler] = {
        "always_on": sampling.ALWAYS_ON,
        "always_off": sampling.ALWAYS_OFF,
        "traceidratio": share,
        "parentbased_always_on": sampling.ParentBased(sampling.ALWAYS_ON),
        "parentbased_always_off": sampling.ParentBased(sampling.ALWAYS_OFF),
        "parentbased_traceidratio": sampling.ParentBased(share),
    }
    name = f"sd-{service}"
    ours = Resource.create({"service.name": name, "service.version": version(name)})
    provider = TracerProvider(
        sampler=samplers[settings.otel_traces_sampler],
        resource=ours.merge(OTELResourceDetector().detect()),  # what the operator says counts
        shutdown_on_exit=False,
    )
    endpoint = f"{settings.otel_exporter_otlp_endpoint.rstrip('/')}/v1/traces"
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    try:
        with tracing_with(provider.get_tracer("sd_common", version("sd-common"))):
            yield
    finally:
        sending = threading.Thread(target=provider.shutdown, name="flush-traces", daemon=True)
        sending.start()
        sending.join(_FLUSH_WITHIN_S)
