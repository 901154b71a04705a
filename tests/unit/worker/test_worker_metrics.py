"""What a process with several workers shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from sd_worker.engine.reports import MemoryUse, ModelDropped, ModelLoad, PassMade, Workload
from sd_worker.engine_bridge import EngineBridge
from sd_worker.metrics import WorkerMetrics
from support.metrics import Page


@dataclass
class _Engine:
    """Stands as the test says."""

    workload: Workload
    use: MemoryUse

    def memory(self) -> MemoryUse:
        return self.use


def _page(metrics: WorkerMetrics) -> Page:
    return Page.of(metrics.process.registry)


def test_workers_add_up_but_for_the_gpu_that_they_share() -> None:
    metrics = WorkerMetrics()
    one = _Engine(Workload(num_samples=2, num_waiting=1), MemoryUse(1, 100, gpu_used_bytes=700, gpu_total_bytes=1000))
    two = _Engine(Workload(num_samples=3), MemoryUse(2, 250, gpu_used_bytes=710, gpu_total_bytes=1000))
    with metrics.watched(cast(EngineBridge, one)), metrics.watched(cast(EngineBridge, two)):
        page = _page(metrics)
    assert (page.value("sd_samples"), page.value("sd_waiting_tasks")) == (5, 1)
    assert (page.value("sd_models"), page.value("sd_models_bytes")) == (3, 350)
    assert page.value("sd_gpu_memory_used_bytes") == 710
    assert page.value("sd_gpu_memory_bytes") == 1000
    assert _page(metrics).value("sd_samples") == 0


def test_without_a_gpu_none_is_shown() -> None:
    metrics = WorkerMetrics()
    with metrics.watched(cast(EngineBridge, _Engine(Workload(), MemoryUse(0, 0)))):
        page = _page(metrics)
    assert page.labels("sd_models") == {frozenset()}
    assert not page.labels("sd_gpu_memory_used_bytes") | page.labels("sd_gpu_memory_bytes")


def test_what_engines_tell_is_counted() -> None:
    metrics = WorkerMetrics()
    metrics.pass_made(PassMade("denoise", num_rows=6, max_rows=8, seconds=0.5))
    metrics.pass_made(PassMade("denoise", num_rows=8, max_rows=8, seconds=0.25))
    metrics.model_changed(ModelLoad("a", has_come=True, seconds=2.0))
    metrics.model_changed(ModelLoad("b", has_come=False, seconds=1.0))
    metrics.model_changed(ModelDropped("a"))
    page = _page(metrics)
    assert page.value("sd_pass_seconds_sum", stage="denoise") == 0.75
    assert page.value("sd_pass_rows_total", stage="denoise") == 14
    assert page.value("sd_pass_max_rows_total", stage="denoise") == 16
    assert page.value("sd_model_load_seconds_sum") == 2.0
    assert page.value("sd_model_load_failures_total") == page.value("sd_models_dropped_total") == 1


def test_the_wait_of_a_job_is_counted_when_it_comes_for_the_first_time() -> None:
    metrics = WorkerMetrics()
    metrics.job_taken("first", num_delivered=1, waited_s=-0.5)  # its gateway's clock is ahead
    metrics.job_taken("first", num_delivered=2, waited_s=40.0)
    page = _page(metrics)
    assert page.value("sd_queue_wait_seconds_count", lane="first") == 1
    assert page.value("sd_queue_wait_seconds_sum", lane="first") == 0
    assert page.value("sd_job_redeliveries_total") == 1
