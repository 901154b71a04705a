"""What the gateway counts of its own requests, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import hdrs
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.registry import Collector

from sd_common.metrics import LONG_S, OTHER, ProcessMetrics

#: The route whose requests last for as long as clients listen, also where these then vanish (499).
_WEBSOCKETS = "/events"


class GatewayMetrics:
    """Counters of requests and websockets."""

    def __init__(self, process: ProcessMetrics | None = None) -> None:
        self.process = process or ProcessMetrics()
        registry = self.process.registry
        self._requests = Counter(
            "sd_http_requests_total",
            "Requests that were answered. 499: the client went away; 101: a websocket that has ended.",
            ["method", "route", "status"],
            registry=registry,
        )
        self._request_seconds = Histogram(
            "sd_http_request_seconds",
            "How long answers took, but for websockets; of pictures, with the time that the client took for them. "
            "Requests that wait for a picture are among them.",
            ["route"],
            buckets=LONG_S,
            registry=registry,
        )
        self.websocket_clients = Gauge(
            "sd_websocket_clients", "Websockets that are served, right now.", registry=registry
        )
        self.websocket_closes = Counter(
            "sd_websocket_closes_total",
            "Websockets that the gateway closed: `too_slow`, `part_away`, `refused` (token or query), `too_many` (of a "
            "user, or requests), `stopping`, `failed`.",
            ["reason"],
            registry=registry,
        )
        for reason in ("too_slow", "part_away", "refused", "too_many", "stopping", "failed"):
            self.websocket_closes.labels(reason)
        self.progress_dropped = Counter(
            "sd_websocket_progress_dropped_total",
            "Progress that was not sent since a websocket client read too slowly.",
            registry=registry,
        )

    def answered(self, method: str, route: str | None, status: int, seconds: float) -> None:
        """Count a request. `route` is the pattern of its path."""
        route = route or "unmatched"
        method = method if method in hdrs.METH_ALL else OTHER  # clients may send any word
        self._requests.labels(method, route, status).inc()
        if route != _WEBSOCKETS:
            self._request_seconds.labels(route).observe(seconds)

    @contextmanager
    def showing(self, fleet: Collector) -> Iterator[None]:
        """Show what the gateway knows of others while inside."""
        self.process.registry.register(fleet)
        try:
            yield
        finally:
            self.process.registry.unregister(fleet)
