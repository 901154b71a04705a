"""How many requests a second each user may make at this gateway: a bucket of tokens a user, in memory."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from sd_gateway.errors import TooManyRequests

#: A bucket holds this many seconds' worth.
_BURST_S = 10.0
#: Buckets kept before those that are full again are dropped.
_MAX_BUCKETS = 10_000


@dataclass
class _Bucket:
    """What was left at a time, in seconds of the clock."""

    num_tokens: float
    at_s: float


class RequestRates:
    """Counts requests."""

    def __init__(self, requests_per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = requests_per_s
        self._capacity = max(1.0, _BURST_S * requests_per_s)
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}

    def count(self, holder: str) -> None:
        """Count a request of `holder`. Raises `TooManyRequests` where it is one too many."""
        now_s = self._clock()
        bucket = self._buckets.get(holder)
        if bucket is None:
            self._drop_full_buckets(now_s)
            bucket = self._buckets[holder] = _Bucket(self._capacity, now_s)
        bucket.num_tokens, bucket.at_s = self._num_tokens(bucket, now_s), now_s
        if bucket.num_tokens < 1:
            retry_after_s = math.ceil((1 - bucket.num_tokens) / self._per_s)
            raise TooManyRequests(
                f"More than {self._per_s:g} requests a second: make fewer, or follow tasks with the websocket /events",
                retry_after_s,
            )
        bucket.num_tokens -= 1

    def _num_tokens(self, bucket: _Bucket, now_s: float) -> float:
        return min(self._capacity, bucket.num_tokens + self._per_s * (now_s - bucket.at_s))

    def _drop_full_buckets(self, now_s: float) -> None:
        if len(self._buckets) >= _MAX_BUCKETS:
            self._buckets = {
                holder: bucket
                for holder, bucket in self._buckets.items()
                if self._num_tokens(bucket, now_s) < self._capacity
            }
