"""Which model's jobs a worker takes next."""

from __future__ import annotations

from sd_worker.admission import SWAP_GRACE_S, Candidate, Memory, admission_order

_SWAP_AFTER_S = 30.0


def _order(
    *candidates: Candidate,
    held: tuple[str, ...] = (),
    fetching: tuple[str, ...] = (),
    is_loading: bool = False,
    ago_s: float = 1e6,
    only: tuple[str, ...] | None = None,
) -> list[str]:
    return admission_order(candidates, Memory(held, fetching, is_loading, ago_s, only), _SWAP_AFTER_S)


def test_of_the_models_in_memory_the_one_whose_job_waited_longest_comes_first() -> None:
    candidates = [Candidate("latest", 9, 1.0), Candidate("older", 1, 3.0), Candidate("oldest", 1, 2.0)]
    assert _order(*candidates, held=("oldest", "older", "latest")) == ["older", "oldest", "latest"]


def test_of_equal_waits_the_model_used_last_comes_first() -> None:
    assert _order(Candidate("a", 1, 0.0), Candidate("b", 1, 0.0), held=("a", "b")) == ["b", "a"]


def test_models_in_memory_come_before_those_to_be_loaded() -> None:
    candidates = [Candidate("cold", 9, 20.0), Candidate("held", 1, 0.0), Candidate("colder", 1, 25.0)]
    assert _order(*candidates, held=("held",)) == ["held", "cold", "colder"]


def test_a_job_that_waited_too_long_comes_before_models_in_memory_the_longest_wait_first() -> None:
    candidates = [Candidate("held", 100, 99.0), Candidate("cold", 1, 31.0), Candidate("colder", 1, 45.0)]
    assert _order(*candidates, held=("held",)) == ["colder", "cold", "held"]


def test_a_model_that_was_loaded_has_its_turn_before_the_next_is() -> None:
    candidates = [Candidate("held", 100, 99.0), Candidate("cold", 1, 31.0)]
    assert _order(*candidates, held=("held",), ago_s=29.9) == ["held", "cold"]
    assert _order(*candidates, held=("held",), ago_s=30.0) == ["cold", "held"]


def test_a_turn_ends_with_the_jobs_of_the_model_and_overdue_ones_are_next() -> None:
    assert _order(Candidate("long", 50, 10.0), Candidate("overdue", 1, 31.0), ago_s=1.0) == ["overdue", "long"]


def test_while_a_model_is_loaded_no_other_is() -> None:
    candidates = [Candidate("loading", 1, 0.0), Candidate("cold", 9, 99.0)]
    assert _order(*candidates, held=("loading",), is_loading=True) == ["loading"]


def test_while_a_model_is_fetched_others_are_taken_and_no_second_job_of_it() -> None:
    candidates = [Candidate("fetched", 9, 99.0), Candidate("cold", 1, 0.0), Candidate("held", 1, 1.0)]
    assert _order(*candidates, held=("held", "fetched"), fetching=("fetched",)) == ["held", "cold"]


def test_while_as_many_are_fetched_as_may_be_only_models_at_hand_are_loaded() -> None:
    candidates = [Candidate("cold", 9, 99.0), Candidate("at-hand", 1, 0.0), Candidate("held", 1, 1.0)]
    assert _order(*candidates, held=("held",), only=("at-hand",)) == ["held", "at-hand"]


def test_jobs_of_a_model_that_is_fetched_count_as_no_wait_of_those_in_memory() -> None:
    candidates = [Candidate("fetched", 1, 99.0), Candidate("theirs", 1, 31.0, is_held_elsewhere=True)]
    held = Candidate("held", 1, 0.0)
    assert _order(*candidates, held, held=("held", "fetched"), fetching=("fetched",)) == ["theirs", "held"]


def test_a_young_job_is_left_to_workers_that_hold_its_model() -> None:
    young = Candidate("theirs", 1, SWAP_GRACE_S - 0.01, is_held_elsewhere=True)
    assert _order(young) == []
    assert _order(Candidate("nobodys", 1, 0.0)) == ["nobodys"]
    assert _order(Candidate("theirs", 1, SWAP_GRACE_S, is_held_elsewhere=True)) == ["theirs"]


def test_a_model_that_nobody_holds_is_loaded_before_one_that_others_hold() -> None:
    assert _order(Candidate("theirs", 99, 29.0, is_held_elsewhere=True), Candidate("nobodys", 1, 0.0)) == [
        "nobodys",
        "theirs",
    ]


def test_a_model_that_others_hold_comes_first_only_where_it_waits_much_longer_than_our_own() -> None:
    """Else two workers with long backlogs would change places for ever."""
    ours = Candidate("ours", 50, 100.0)
    assert _order(ours, Candidate("theirs", 50, 129.0, is_held_elsewhere=True), held=("ours",)) == ["ours", "theirs"]
    assert _order(ours, Candidate("theirs", 50, 131.0, is_held_elsewhere=True), held=("ours",)) == ["theirs", "ours"]


def test_models_without_jobs_are_left_out() -> None:
    assert _order(Candidate("held", 0, 0.0), held=("held",)) == []


def test_a_worker_that_holds_nothing_takes_the_longest_backlog_first_then_the_longest_wait() -> None:
    assert _order(Candidate("a", 1, 1.0), Candidate("b", 1, 2.0), Candidate("c", 2, 0.0)) == ["c", "b", "a"]
