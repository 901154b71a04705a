"""What the auth service counts for Prometheus."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

from sd_common.metrics import SHORT_S, ProcessMetrics


class AuthMetrics:
    """Counters of requests."""

    def __init__(self, process: ProcessMetrics | None = None) -> None:
        self.process = process or ProcessMetrics()
        self._requests = Counter(
            "sd_auth_requests_total",
            "Requests to the auth service, by their `outcome`: `ok`, `refused` for what they ask, `failed` (a part is "
            "away or full, too many at once, or a defect), `unanswered`.",
            ["operation", "outcome"],
            registry=self.process.registry,
        )
        self._request_seconds = Histogram(
            "sd_auth_request_seconds",
            "How long its answers took, hashing included.",
            ["operation"],
            buckets=SHORT_S,
            registry=self.process.registry,
        )

    def answered(self, operation: str, outcome: str, seconds: float) -> None:
        """Count a request. `operation` is one of the service's own names."""
        self._requests.labels(operation, outcome).inc()
        self._request_seconds.labels(operation).observe(seconds)
