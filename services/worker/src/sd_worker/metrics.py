"""What a worker counts for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

from prometheus_client import Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from sd_common.lanes import LANES, Lane
from sd_common.metrics import LONG_S, SHORT_S, ProcessMetrics
from sd_common.parameters import TaskKind
from sd_worker.endings import Ending
from sd_worker.engine.reports import ModelChange, ModelLoad, PassMade
from sd_worker.engine.tasks import Stage
from sd_worker.engine_bridge import EngineBridge


class WorkerMetrics(Collector):
    """Counters of jobs and of the engine; how the engine stands is looked up for each page.

    Workers of one process share it: their figures add up.
    """

    def __init__(self, process: ProcessMetrics | None = None) -> None:
        self.process = process or ProcessMetrics()
        registry = self.process.registry
        self._engines: list[EngineBridge] = []
        self._jobs = Counter(
            "sd_jobs_total",
            "Jobs that workers took, by what became of them: `finished`, `aborted`, `had_ended` (its task), "
            "`handed_back`, `lost` (to another worker), `given_up`.",
            ["kind", "ending"],
            registry=registry,
        )
        for kind in get_args(TaskKind):
            for ending in get_args(Ending):
                self._jobs.labels(kind, ending)
        self.unreadable_jobs = Counter(
            "sd_unreadable_jobs_total", "Messages in the queue that were no jobs.", registry=registry
        )
        self._redeliveries = Counter(
            "sd_job_redeliveries_total",
            "Jobs that NATS gave out again: handed back, or of a worker that fell silent.",
            registry=registry,
        )
        self._queue_wait_seconds = Histogram(
            "sd_queue_wait_seconds",
            "From a task's submission until a worker took its job, the first time.",
            ["lane"],
            buckets=LONG_S,
            registry=registry,
        )
        for lane in LANES:
            self._queue_wait_seconds.labels(lane)
        pass_seconds = Histogram(
            "sd_pass_seconds",
            "How long forward passes took; one of the stage `denoise` is a step of all that share it.",
            ["stage"],
            buckets=SHORT_S,
            registry=registry,
        )
        pass_rows = Counter(
            "sd_pass_rows_total",
            "Rows of forward passes. Guidance takes two a picture.",
            ["stage"],
            registry=registry,
        )
        pass_max_rows = Counter(
            "sd_pass_max_rows_total",
            "Rows that these passes could have had: the share that was used is the occupancy of batches.",
            ["stage"],
            registry=registry,
        )
        self._passes = {
            stage: (pass_seconds.labels(stage), pass_rows.labels(stage), pass_max_rows.labels(stage))
            for stage in get_args(Stage)
        }
        self._model_load_seconds = Histogram(
            "sd_model_load_seconds",
            "How long models took to come to the device, downloads included.",
            buckets=LONG_S,
            registry=registry,
        )
        self._failed_model_loads = Counter(
            "sd_model_load_failures_total", "Models that could not be loaded.", registry=registry
        )
        self._dropped_models = Counter(
            "sd_models_dropped_total",
            "Models that were dropped: for another one, to free memory, or after an error.",
            registry=registry,
        )
        registry.register(self)

    def job_taken(self, lane: Lane, num_delivered: int, waited_s: float) -> None:
        """Count a job that came, `waited_s` seconds after its submission."""
        if num_delivered > 1:
            self._redeliveries.inc()
        else:
            self._queue_wait_seconds.labels(lane).observe(max(0.0, waited_s))  # clocks of two machines may differ

    def job_ended(self, kind: TaskKind, ending: Ending) -> None:
        """Count what became of a job."""
        self._jobs.labels(kind, ending).inc()

    def pass_made(self, made: PassMade) -> None:
        """Count a forward pass. Called in the engine's thread."""
        seconds, rows, max_rows = self._passes[made.stage]
        seconds.observe(made.seconds)
        rows.inc(made.num_rows)
        max_rows.inc(made.max_rows)

    def model_changed(self, change: ModelChange) -> None:
        """Count a load or a drop. Called in the engine's thread."""
        match change:
            case ModelLoad(has_come=True):
                self._model_load_seconds.observe(change.seconds)
            case ModelLoad():
                self._failed_model_loads.inc()
            case _:
                self._dropped_models.inc()

    @contextmanager
    def watched(self, engine: EngineBridge) -> Iterator[None]:
        """Show how the engine stands while inside."""
        self._engines.append(engine)
        try:
            yield
        finally:
            self._engines.remove(engine)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        samples, waiting, models, models_bytes, gpu_used, gpu_total = self.describe()
        engines = list(self._engines)
        samples.add_metric([], sum(engine.workload.num_samples for engine in engines))
        waiting.add_metric([], sum(engine.workload.num_waiting for engine in engines))
        memory = [engine.memory() for engine in engines]
        models.add_metric([], sum(each.num_models for each in memory))
        models_bytes.add_metric([], sum(each.models_bytes for each in memory))
        # Workers of one process share their GPU.
        for family, values in (
            (gpu_used, [each.gpu_used_bytes for each in memory]),
            (gpu_total, [each.gpu_total_bytes for each in memory]),
        ):
            if known := [value for value in values if value is not None]:
                family.add_metric([], max(known))
        yield from (samples, waiting, models, models_bytes, gpu_used, gpu_total)

    def describe(self) -> tuple[GaugeMetricFamily, ...]:
        """The metrics without their values."""
        return (
            GaugeMetricFamily("sd_samples", "Tasks in flight inside the engine."),
            GaugeMetricFamily("sd_waiting_tasks", "Tasks that the engine has but has not begun."),
            GaugeMetricFamily("sd_models", "Models in memory."),
            GaugeMetricFamily("sd_models_bytes", "Bytes of their weights."),
            GaugeMetricFamily("sd_gpu_memory_used_bytes", "Used memory of the GPU, whoever uses it."),
            GaugeMetricFamily("sd_gpu_memory_bytes", "Memory that the GPU has."),
        )
