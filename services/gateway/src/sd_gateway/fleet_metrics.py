"""What the gateway knows of workers, tasks and queues, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from sd_common.allowed_models import exact_names
from sd_common.metrics import BoundedNames
from sd_common.model_names import model_key
from sd_gateway.heard_backlog import HeardBacklog
from sd_gateway.served_models import ServedModels
from sd_gateway.unfinished_tasks import UnfinishedTasks

#: Models whose backlog is shown by name, besides those that ALLOWED_MODELS names in full.
_MAX_MODELS = 50


class FleetMetrics(Collector):
    """What this gateway knows of workers, tasks and queues, looked up for each page. Every gateway shows the same."""

    def __init__(
        self,
        served_models: ServedModels,
        unfinished_tasks: UnfinishedTasks,
        backlog: HeardBacklog,
        allowed_models: Sequence[str],
    ) -> None:
        self._served_models = served_models
        self._unfinished_tasks = unfinished_tasks
        self._backlog = backlog
        self._names = BoundedNames(_MAX_MODELS, map(model_key, exact_names(allowed_models)))

    def collect(self) -> Iterator[GaugeMetricFamily]:
        workers, unfinished, jobs, waiting, oldest = self.describe()
        workers.add_metric([], self._served_models.num_workers())
        unfinished.add_metric([], self._unfinished_tasks.num_tasks())
        for (key, lane), (num_jobs, num_waiting, oldest_wait_s) in self._lanes().items():
            jobs.add_metric([key, lane], num_jobs)
            waiting.add_metric([key, lane], num_waiting)
            oldest.add_metric([key, lane], oldest_wait_s)
        yield from (workers, unfinished, jobs, waiting, oldest)

    def describe(self) -> tuple[GaugeMetricFamily, ...]:
        """The metrics without their values."""
        of_lane = ["model_key", "lane"]
        return (
            GaugeMetricFamily("sd_workers", "Workers that have announced themselves within the last 30 s."),
            GaugeMetricFamily("sd_unfinished_tasks", "Tasks that are queued or running, of all users."),
            GaugeMetricFamily(
                "sd_backlog_jobs",
                "Jobs in the queue: waiting, running, or handed back. None where no worker has told for 15 s.",
                labels=of_lane,
            ),
            GaugeMetricFamily("sd_backlog_waiting_jobs", "Those of them that no worker was given yet.", labels=of_lane),
            GaugeMetricFamily(
                "sd_backlog_oldest_wait_seconds", "For how long the oldest of these has waited.", labels=of_lane
            ),
        )

    def _lanes(self) -> dict[tuple[str, str], tuple[int, int, float]]:
        lanes: dict[tuple[str, str], tuple[int, int, float]] = {}
        for lane in self._backlog.current() or ():
            label = (self._names.label(lane.model_key), lane.lane)
            num_jobs, num_waiting, oldest_wait_s = lanes.get(label, (0, 0, 0.0))
            lanes[label] = (
                num_jobs + lane.num_jobs,
                num_waiting + lane.num_waiting,
                max(oldest_wait_s, lane.oldest_wait_s),
            )
        return lanes
