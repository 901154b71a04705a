"""How many models workers load, and how long tasks wait: the rule against first come first served, simulated.

Two workers that hold one model each and run one task at a time; three models; 300 tasks, of the models in turn.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from sd_worker.admission import Candidate, Memory, admission_order

_MODELS = ("a", "b", "c")
_NUM_TASKS = 300
_TASK_S, _LOAD_S, _SWAP_AFTER_S = 2.0, 10.0, 30.0
_LOOK_S = 0.25


@dataclass
class _Worker:
    number: int
    free_at_s: float = 0.0
    held: tuple[str, ...] = ()
    loaded_at_s: float = -1e6


@dataclass
class _Outcome:
    num_loads: int = 0
    longest_wait_s: float = 0.0
    #: For how long a model had jobs of which none was taken.
    longest_neglect_s: float = 0.0
    ended_at_s: float = 0.0


_Choose = Callable[[Sequence[Candidate], _Worker, float], str | None]
_Arrivals = list[tuple[float, str]]


def _by_the_rule(candidates: Sequence[Candidate], worker: _Worker, now_s: float) -> str | None:
    memory = Memory(worker.held, loaded_ago_s=now_s - worker.loaded_at_s)
    return next(iter(admission_order(candidates, memory, _SWAP_AFTER_S)), None)


def _first_come(candidates: Sequence[Candidate], worker: _Worker, now_s: float) -> str | None:
    oldest = max(candidates, key=lambda each: each.oldest_wait_s, default=None)
    return oldest.model_key if oldest is not None else None


def _in_turn(interval_s: float) -> _Arrivals:
    return [(number * interval_s, _MODELS[number % len(_MODELS)]) for number in range(_NUM_TASKS)]


def _shuffled(interval_s: float) -> _Arrivals:
    models = [model for _, model in _in_turn(interval_s)]
    random.Random(1).shuffle(models)
    return [(number * interval_s, model) for number, model in enumerate(models)]


def _candidates(waiting: _Arrivals, worker: _Worker, workers: list[_Worker], now_s: float) -> list[Candidate]:
    elsewhere = {model for each in workers if each is not worker for model in each.held}
    jobs = {model: [at_s for at_s, each in waiting if each == model] for model in {model for _, model in waiting}}
    return [
        Candidate(model, len(since), now_s - min(since), model in elsewhere) for model, since in sorted(jobs.items())
    ]


def _simulate(choose: _Choose, arrivals: _Arrivals) -> _Outcome:
    queued = sorted(arrivals)
    workers = [_Worker(0), _Worker(1)]
    taken_at_s = dict.fromkeys(_MODELS, 0.0)
    outcome = _Outcome()
    while queued:
        worker = min(workers, key=lambda each: (each.free_at_s, each.number))
        now_s = worker.free_at_s
        waiting = [job for job in queued if job[0] <= now_s]
        model = choose(_candidates(waiting, worker, workers, now_s), worker, now_s)
        if model is None:
            worker.free_at_s += _LOOK_S
            continue
        job = min(each for each in waiting if each[1] == model)
        queued.remove(job)
        outcome.longest_wait_s = max(outcome.longest_wait_s, now_s - job[0])
        outcome.longest_neglect_s = max(outcome.longest_neglect_s, now_s - max(job[0], taken_at_s[model]))
        taken_at_s[model] = now_s
        if model not in worker.held:
            outcome.num_loads += 1
            worker.held, worker.loaded_at_s = (model,), now_s + _LOAD_S
            worker.free_at_s = worker.loaded_at_s
        worker.free_at_s += _TASK_S
        outcome.ended_at_s = max(outcome.ended_at_s, worker.free_at_s)
    return outcome


#: What a model may have to wait for: to be overdue; another's load and turn; the task that the turn's end falls into.
_BOUND_S = _SWAP_AFTER_S + _LOAD_S + _SWAP_AFTER_S + _TASK_S


@pytest.mark.parametrize("interval_s", [0.01, 0.8, 1.25, 1.6], ids=["at once", "too many", "many", "enough"])
@pytest.mark.parametrize("arrivals", [_in_turn, _shuffled])
def test_busy_workers_load_a_fifth_of_what_first_come_first_served_does_and_no_model_starves(
    arrivals: Callable[[float], _Arrivals], interval_s: float
) -> None:
    ours, theirs = (_simulate(choose, arrivals(interval_s)) for choose in (_by_the_rule, _first_come))
    assert ours.num_loads <= 0.2 * theirs.num_loads
    assert ours.longest_neglect_s <= _BOUND_S
    assert ours.longest_wait_s < theirs.longest_wait_s
    assert ours.ended_at_s < theirs.ended_at_s


@pytest.mark.parametrize("arrivals", [_in_turn, _shuffled])
def test_idle_workers_load_rather_than_let_a_task_wait(arrivals: Callable[[float], _Arrivals]) -> None:
    outcome = _simulate(_by_the_rule, arrivals(2.5))
    assert outcome.longest_wait_s < _SWAP_AFTER_S
