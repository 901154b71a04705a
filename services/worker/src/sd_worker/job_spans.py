"""The spans of a job: its time in the queue, its way through this worker, and the stages of its picture."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind

from sd_common.jobs import Job
from sd_common.streams import JOBS
from sd_common.tracing import Attributes, record_span, span, wall_time
from sd_worker.delivery import Delivery
from sd_worker.endings import Ending
from sd_worker.engine.tasks import Timings


@contextmanager
def job_span(job: Job, delivery: Delivery) -> Iterator[Span]:
    """What happens inside is the job's span. A job that is given out again has another one in the same trace."""
    if delivery.number == 1:
        record_span("queue", job.submitted_at.timestamp(), time.time())
    attributes: Attributes = {
        "messaging.system": "nats",
        "messaging.operation.type": "process",
        "messaging.operation.name": "process",
        "messaging.destination.name": JOBS,
        "messaging.message.id": job.task_id,
        "sd.task_id": job.task_id,
        "sd.kind": job.parameters.params_type,
        "sd.model": job.parameters.model,
        "sd.delivery": delivery.number,
    }
    with span(f"process {JOBS}", SpanKind.CONSUMER, attributes) as current:
        yield current


def tell_ending(ending: Ending) -> None:
    """What became of the job, for its span."""
    trace.get_current_span().set_attribute("sd.ending", ending)


def record_stages(timings: Timings) -> None:
    """The stages of a picture that was made, each where it was in time."""
    if timings.loaded_at is not None:
        loaded_at = wall_time(timings.loaded_at)
        record_span("load", loaded_at - timings.loading_s, loaded_at)
    start = wall_time(timings.began_at)
    for name, seconds in (
        ("encode", timings.encoding_s),
        ("denoise", timings.denoising_s),
        ("decode", timings.decoding_s),
    ):
        record_span(name, start, start + seconds)
        start += seconds
