"""Which model's jobs to take next (ADR 9).

Models in memory cost nothing to use, and share the GPU. Any other costs a load, a swap where memory is full. So:

1. Models in memory come first, the one whose oldest job has waited longest before the others.
2. Where they have no job, another is loaded: first one that no worker holds, then one that another worker holds,
   unless its oldest job is so young that the other is about to take it.
3. A model that no worker holds, whose oldest job has waited longer than `swap_after_s`, comes before those in memory.
   So does one that another worker holds, once its job has waited that much longer than every job of the models in
   memory. But only where the last load is `swap_after_s` old: where all have waited for long, each model gets a turn.
4. While a model is being loaded, no other is. One that is fetched, from the hub to the disk, keeps nobody waiting: of
   it no second job is taken, and where as many are fetched as may be, no job of another that must be.

No model starves. One that nobody holds is taken by the first worker whose turn of `swap_after_s` ends, the longest
wait first. One that a worker holds is taken by that worker, by age; should it stand still, the wait grows until others
come.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

#: A job younger than this many seconds is left to the workers that hold its model. They hear of it within 0.35 s, or
#: have a pull open.
SWAP_GRACE_S = 0.5


@dataclass(frozen=True)
class Candidate:
    """A model that has jobs, and for how many seconds the oldest has waited, as far as is known."""

    model_key: str
    num_jobs: int
    oldest_wait_s: float
    is_held_elsewhere: bool = False


@dataclass(frozen=True)
class Memory:
    """The models that this worker has in memory or that are on their way there, the most recently used last.

    `fetching`: those of them that are not on its disk yet. `only`: of other models only these may be loaded, since as
    many are fetched as may be; None: any.
    """

    held: Sequence[str] = ()
    fetching: Collection[str] = ()
    is_loading: bool = False
    #: Seconds since the last load ended.
    loaded_ago_s: float = math.inf
    only: Collection[str] | None = None


def admission_order(candidates: Sequence[Candidate], memory: Memory, swap_after_s: float) -> list[str]:
    """Model keys to take from, the best first. Those that are better left alone are left out."""
    recency = {key: index for index, key in enumerate(memory.held) if key not in memory.fetching}
    held_wait_s = max((each.oldest_wait_s for each in candidates if each.model_key in recency), default=0.0)
    is_turn_over = memory.loaded_ago_s >= swap_after_s

    def rank(each: Candidate) -> tuple[int, float, float] | None:
        wait_s = each.oldest_wait_s
        if each.model_key in memory.fetching:
            return None
        if each.model_key in recency:
            return 2, -wait_s, -recency[each.model_key]
        if memory.is_loading or (memory.only is not None and each.model_key not in memory.only):
            return None
        if each.is_held_elsewhere:
            if is_turn_over and wait_s > swap_after_s + held_wait_s:
                return 1, -wait_s, 0
            return (5, -each.num_jobs, -wait_s) if wait_s >= SWAP_GRACE_S else None
        if wait_s > swap_after_s:
            return 0 if is_turn_over else 3, -wait_s, 0
        return 4, -each.num_jobs, -wait_s  # the longest backlog makes the most of a load

    ranked = [(rank(each), each.model_key) for each in candidates if each.num_jobs > 0]
    return [key for _, key in sorted((place, key) for place, key in ranked if place is not None)]
