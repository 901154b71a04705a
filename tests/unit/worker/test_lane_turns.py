"""Which lane of a model is taken from next."""

from __future__ import annotations

from collections import Counter

import pytest

from sd_common.lanes import LANES, Lane, lane_of
from sd_common.subjects import ModelLane
from sd_worker.lane_turns import LaneTurns


def _taken(turns: LaneTurns, waiting: Counter[Lane], num_jobs: int, key: str = "m") -> list[Lane]:
    """The lanes of the next jobs that a worker takes."""
    taken: list[Lane] = []
    while len(taken) < num_jobs and waiting.total():
        lane = next(lane for lane in turns.order(key) if waiting[lane.lane])
        waiting[lane.lane] -= 1
        turns.took(lane)
        taken.append(lane.lane)
    return taken


def test_a_users_lane_goes_by_the_tasks_that_have_not_ended() -> None:
    assert [lane_of(number) for number in (0, 1, 7, 8, 500)] == ["first", "next", "next", "rest", "rest"]


def test_where_all_lanes_have_jobs_the_earlier_ones_go_twice() -> None:
    waiting = Counter[Lane](dict.fromkeys(LANES, 100))
    taken = _taken(LaneTurns(), waiting, 18)
    assert taken[:9] == ["first", "first", "next", "first", "first", "next", "first", "first", "rest"]
    assert taken[9:] == taken[:9]


@pytest.mark.parametrize("lane", LANES)
def test_a_lane_that_alone_has_jobs_is_always_taken_from(lane: Lane) -> None:
    assert _taken(LaneTurns(), Counter({lane: 5}), 9) == [lane] * 5


@pytest.mark.parametrize("before", [[], ["first"], ["first"] * 9, ["rest"] * 9, ["next"], ["next", "first", "first"]])
def test_two_first_tasks_are_among_the_next_three_whatever_was_taken_before(before: list[Lane]) -> None:
    turns = LaneTurns()
    for lane in before:
        turns.took(ModelLane("m", lane))
    assert _taken(turns, Counter({"first": 2, "next": 50, "rest": 500}), 3).count("first") == 2


def test_models_have_turns_of_their_own() -> None:
    turns = LaneTurns()
    assert _taken(turns, Counter({"first": 2}), 2, "a") == ["first", "first"]
    assert turns.order("a")[0].lane == "next"
    assert turns.order("b")[0].lane == "first"
