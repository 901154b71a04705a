"""The position that is told is the order in which jobs are taken."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from sd_common.lanes import LANES, Lane
from sd_common.queue_position import position
from sd_worker.lane_turns import LaneTurns

waiting_jobs = st.fixed_dictionaries({lane: st.integers(0, 12) for lane in LANES})


def _taken(num_waiting: dict[Lane, int], turns: LaneTurns) -> list[tuple[Lane, int]]:
    """The order in which a worker takes them, as lanes and places in these."""
    left, taken = Counter(num_waiting), list[tuple[Lane, int]]()
    while left.total():
        lane = next(lane for lane in turns.order("m") if left[lane.lane])
        turns.took(lane)
        taken.append((lane.lane, num_waiting[lane.lane] - left[lane.lane] + 1))
        left[lane.lane] -= 1
    return taken


@given(waiting_jobs)
def test_a_position_is_the_place_in_the_order_of_taking(num_waiting: dict[Lane, int]) -> None:
    taken = _taken(num_waiting, LaneTurns())
    assert [position(lane, place, num_waiting) for lane, place in taken] == list(range(1, len(taken) + 1))


@given(waiting_jobs, waiting_jobs)
def test_whatever_turns_a_worker_has_had_it_takes_a_job_at_most_three_later(
    before: dict[Lane, int], num_waiting: dict[Lane, int]
) -> None:
    turns = LaneTurns()
    _taken(before, turns)
    for number, (lane, place) in enumerate(_taken(num_waiting, turns), start=1):
        assert number <= position(lane, place, num_waiting) + 3
