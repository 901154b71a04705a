"""Which model's jobs to take next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Backlog:
    """A model's jobs, and for how many seconds one of them has waited, as far as is known."""

    model_key: str
    num_jobs: int
    oldest_wait_s: float


def admission_order(backlogs: Sequence[Backlog], resident: Sequence[str], swap_after_s: float) -> list[str]:
    """Model keys, the one to take from first.

    `resident` names the keys of the models in memory, the most recently used last. Their jobs come first, the most
    recently used model before the others, since another model costs a load; then those of the longest backlog, which
    make the most of a load. But a model whose job has waited longer than `swap_after_s` comes before them all, the
    longest wait first, so that none starves.
    """
    recency = {key: index for index, key in enumerate(resident)}

    def rank(backlog: Backlog) -> tuple[int, float, float]:
        key = backlog.model_key
        if backlog.oldest_wait_s > swap_after_s and key != (resident[-1] if resident else None):
            return (0, -backlog.oldest_wait_s, 0)
        if key in recency:
            return (1, -recency[key], 0)
        return (2, -backlog.num_jobs, -backlog.oldest_wait_s)

    return [backlog.model_key for backlog in sorted(backlogs, key=rank) if backlog.num_jobs > 0]
