"""What a process counts for Prometheus, besides what its services count themselves.

One `ProcessMetrics` a process, handed from its top to whoever counts. There is no registry that all know: several
services may share a process, and its one page shows them all (`sd_common.health` serves it). Who is given no metrics
counts where nobody looks.

Labels have few values. Users, sessions and tasks are never among them, and names that users choose only within
`BoundedNames`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import get_args

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, GCCollector, Histogram, ProcessCollector

from sd_common.errors import Unavailable
from sd_common.events import AbortCode, AbortedEvent, FinishedEvent, StoredEvent, TaskTimings

# The time at which each counter was made: half as many numbers again on the page, which no query of ours reads.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # it has no types

#: Upper bounds in seconds, of what is done within a request and of what waits in queues.
SHORT_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
LONG_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)

#: Stands for every name beyond those that have a value of their own.
OTHER = "other"


class BoundedNames:
    """Names that users choose, as values of a label: the first `capacity` have their own, the rest share `other`.

    For the life of the process, so that strangers cannot fill Prometheus with series.
    """

    def __init__(self, capacity: int, names: Iterable[str] = ()) -> None:
        """`names` have their place from the start, whatever the capacity."""
        self._names = set(names)
        self._capacity = max(capacity, len(self._names))

    def label(self, name: str) -> str:
        """The value that stands for `name`."""
        if name not in self._names:
            if len(self._names) >= self._capacity:
                return OTHER
            self._names.add(name)
        return name


class NatsMetrics:
    """Of the connection to NATS."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        errors = Counter(
            "sd_nats_errors_total",
            "Messages that could not be sent to NATS (publish), requests (JetStream's too) that nobody answered in "
            "time (request), and messages that found no room in a stream (store).",
            ["operation"],
            registry=registry,
        )
        self.publish_errors, self.request_errors = errors.labels("publish"), errors.labels("request")
        self.store_errors = errors.labels("store")
        self.disconnects = Counter(
            "sd_nats_disconnects_total", "Connections to NATS that were lost.", registry=registry
        )


class S3Metrics:
    """Of the picture store."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._seconds = Histogram(
            "sd_s3_request_seconds",
            "How long the S3 server took, retries of the client included.",
            ["operation"],
            buckets=SHORT_S,
            registry=registry,
        )
        self._errors = Counter(
            "sd_s3_errors_total", "Calls of the S3 server that failed.", ["operation"], registry=registry
        )

    @contextmanager
    def timed(self, operation: str) -> Iterator[None]:
        """Count what is called inside. `operation` is one of the code's own names."""
        with self._errors.labels(operation).count_exceptions(Unavailable), self._seconds.labels(operation).time():
            yield


class TaskMetrics:
    """Of the task log: every event is counted once, by the process that appended it."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._events = Counter(
            "sd_task_events_total",
            "Events appended to the task log; `code` tells why a task was aborted.",
            ["event_type", "code"],
            registry=registry,
        )
        for event_type in ("pending", "started", "finished"):
            self._events.labels(event_type, "")
        for code in get_args(AbortCode):
            self._events.labels("aborted", code)
        self.conflicts = Counter(
            "sd_task_event_conflicts_total",
            "Appends to the task log that were refused because somebody else was first (compare-and-set).",
            registry=registry,
        )
        self._stage_seconds = Histogram(
            "sd_task_stage_seconds",
            "Where the time of finished tasks went. `load` counts tasks that waited for their model alone.",
            ["stage"],
            buckets=LONG_S,
            registry=registry,
        )
        self._seconds = Histogram(
            "sd_task_seconds",
            "From the submission of finished tasks until their picture was stored.",
            ["kind"],
            buckets=LONG_S,
            registry=registry,
        )

    def appended(self, event: StoredEvent) -> None:
        """Count an event that was appended just now."""
        self._events.labels(event.event_type, event.code if isinstance(event, AbortedEvent) else "").inc()
        if isinstance(event, FinishedEvent) and event.timings is not None:
            self._seconds.labels(event.result.parameters_used.params_type).observe(self._observe(event.timings))

    def _observe(self, timings: TaskTimings) -> float:
        """Count each stage, and return the seconds of all."""
        total_s = 0.0
        for name, seconds in timings:
            total_s += seconds
            if seconds or name != "load_s":
                self._stage_seconds.labels(name.removesuffix("_s")).observe(seconds)
        return total_s


class ProcessMetrics:
    """The registry of a process, and what its services count together."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.nats = NatsMetrics(self.registry)

    @cached_property
    def s3(self) -> S3Metrics:
        """Shown by processes that use it alone, as are `tasks`."""
        return S3Metrics(self.registry)

    @cached_property
    def tasks(self) -> TaskMetrics:
        return TaskMetrics(self.registry)
