"""Pages for Prometheus: what they may show, and what one shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, cast

import aiohttp
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

from sd_auth.metrics import AuthMetrics
from sd_common.health import parts_metric
from sd_common.metrics import ProcessMetrics
from sd_gateway.fleet_metrics import FleetMetrics
from sd_gateway.metrics import GatewayMetrics
from sd_worker.metrics import WorkerMetrics
from support.waiting import once


@dataclass(frozen=True)
class Declared:
    """A metric as the code has it."""

    name: str
    type: str
    labels: tuple[str, ...]
    help: str

    @property
    def series(self) -> set[str]:
        """The names that queries may use."""
        if self.type == "histogram":
            return {f"{self.name}_{suffix}" for suffix in ("bucket", "sum", "count")}
        return {self.name}


def declared() -> dict[str, list[Declared]]:
    """All metrics of ours, by who shows them."""
    process = ProcessMetrics()
    groups = {"Every service": [_family(parts_metric()), *_of(process.registry)]}

    def note(title: str) -> None:
        known = [metric for group in groups.values() for metric in group]
        groups[title] = [metric for metric in _of(process.registry) if metric not in known]

    _ = process.s3, process.tasks
    note("Gateway and worker")
    GatewayMetrics(process)
    nothing: Any = None
    process.registry.register(FleetMetrics(nothing, nothing, nothing, ()))
    note("Gateway")
    AuthMetrics(process)
    note("Auth")
    WorkerMetrics(process)
    note("Worker")
    return groups


def _of(registry: CollectorRegistry) -> list[Declared]:
    found = []
    for collector in registry._collector_to_names:
        if isinstance(collector, MetricWrapperBase):
            suffix = "_total" if collector._type == "counter" else ""
            labels = tuple(collector._labelnames)
            name, kind = f"{collector._name}{suffix}", str(collector._type)
            found.append(Declared(name, kind, labels, collector._documentation))
        elif isinstance(collector, FleetMetrics | WorkerMetrics):
            found += map(_family, collector.describe())
    return found


def _family(family: GaugeMetricFamily) -> Declared:
    return Declared(family.name, family.type, tuple(cast(Any, family)._labelnames), family.documentation)


Labels = frozenset[tuple[str, str]]


class Page:
    """The samples of one page."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = list(text_string_to_metric_families(text))
        self._values = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families
            for sample in family.samples
        }

    @classmethod
    def of(cls, registry: CollectorRegistry) -> Self:
        """What it shows now."""
        return cls(generate_latest(registry).decode())

    def value(self, name: str, **labels: str) -> float:
        """One sample; 0 where it is not there. An empty label is as good as none."""
        key = frozenset(labels.items())
        return next(
            (
                value
                for (sample, its), value in self._values.items()
                if sample == name and frozenset((n, v) for n, v in its if v) == key
            ),
            0.0,
        )

    def labels(self, name: str) -> set[Labels]:
        """The labels of all samples of a name."""
        return {labels for sample, labels in self._values if sample == name}


async def scrape(url: str) -> Page:
    """The page at `url`."""
    async with aiohttp.ClientSession() as http, http.get(url) as response:
        assert response.status == 200
        return Page(await response.text())


async def scrape_until(url: str, holds: Callable[[Page], bool]) -> Page:
    """The first page for which `holds` does: some counters move after their event was told."""
    return await once(lambda: scrape(url), holds)
