"""The scaler's numbers on a simulated clock: workers come as tasks do, and go when these have ended."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from contract.rendered import PRODUCTION, of_kind, seconds_to_start, workloads
from dry_run.autoscaler import Autoscaler, Scaling

#: Of a worker: from its start until it takes jobs, of a task, and how many tasks it runs at once.
START_S = 120
TASK_S = 60
AT_ONCE = 4


@pytest.fixture
def scaling() -> Scaling:
    return Scaling.of(of_kind(PRODUCTION, "ScaledObject")["worker"])


@dataclass
class Seen:
    """What happened, second by second."""

    replicas: list[int] = field(default_factory=list)
    depth: list[int] = field(default_factory=list)


def simulate(scaling: Scaling, arrivals: Sequence[int], for_s: int) -> Seen:
    """Tasks arrive at these seconds. A worker that goes finishes what it runs."""
    autoscaler, seen = Autoscaler(scaling), Seen()
    ready_at: list[int] = []
    waiting, ends_at = 0, list[int]()
    for now_s in range(for_s):
        waiting += arrivals.count(now_s)
        ends_at = [end for end in ends_at if end > now_s]
        num_ready = sum(at <= now_s for at in ready_at)
        num_taken = min(waiting, max(num_ready * AT_ONCE - len(ends_at), 0))
        waiting -= num_taken
        ends_at += [now_s + TASK_S] * num_taken
        depth = waiting + len(ends_at)
        replicas = autoscaler.decide(now_s, depth)
        ready_at = ready_at[:replicas] + [now_s + START_S] * (replicas - len(ready_at))
        seen.replicas.append(replicas)
        seen.depth.append(depth)
    return seen


def test_a_burst_brings_all_workers_and_they_all_go_again(scaling: Scaling) -> None:
    seen = simulate(scaling, [100] * 200, 5000)
    assert set(seen.replicas[:100]) == {0}
    assert next(at for at, replicas in enumerate(seen.replicas) if replicas) <= 100 + scaling.polling_s
    assert max(seen.replicas) == scaling.max_replicas
    # Not more than four come in a minute.
    assert seen.replicas.index(scaling.max_replicas) <= 100 + 2 * 60 + 15
    empty_at = len(seen.depth) - next(index for index, depth in enumerate(reversed(seen.depth)) if depth)
    none_at = next(at for at, replicas in enumerate(seen.replicas) if at > 100 + scaling.polling_s and replicas == 0)
    assert scaling.cooldown_s <= none_at - empty_at <= scaling.cooldown_s + 2 * scaling.polling_s
    assert set(seen.replicas[none_at:]) == {0}


def test_workers_go_one_a_minute_once_the_queue_has_been_short_for_long(scaling: Scaling) -> None:
    steady = list(range(0, 6000, TASK_S))  # one task runs at a time
    seen = simulate(scaling, [0] * 200 + steady, 6000)
    drops = [at for at in range(1, 6000) if seen.replicas[at] < seen.replicas[at - 1]]
    short_at = len(seen.depth) - next(
        index for index, depth in enumerate(reversed(seen.depth)) if depth > scaling.target * (scaling.max_replicas - 1)
    )
    assert drops[0] - short_at >= scaling.down_window_s - 15
    assert all(seen.replicas[at - 1] - seen.replicas[at] == 1 for at in drops)
    assert all(later - earlier >= scaling.down.period_s for earlier, later in itertools.pairwise(drops))
    assert seen.replicas[-1] == 1


def test_tasks_that_come_now_and_then_find_their_worker_there(scaling: Scaling) -> None:
    """Less than a cooldown apart: the model is loaded once."""
    seen = simulate(scaling, [10, 800, 1600, 2400], 3000)
    assert set(seen.replicas[30:3000]) == {1}


def test_a_worker_that_loads_its_model_for_as_long_as_it_may_is_not_taken_away(scaling: Scaling) -> None:
    assert scaling.cooldown_s >= seconds_to_start(workloads(PRODUCTION)["worker"])
    autoscaler = Autoscaler(scaling)
    for now_s in range(900):
        assert autoscaler.decide(now_s, 1) == 1
