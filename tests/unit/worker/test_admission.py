"""Which model's jobs a worker takes next."""

from __future__ import annotations

from sd_worker.admission import Backlog, admission_order

_SWAP_AFTER_S = 30.0


def _order(*backlogs: Backlog, resident: tuple[str, ...]) -> list[str]:
    return admission_order(backlogs, resident, _SWAP_AFTER_S)


def test_the_model_used_last_comes_first_then_other_resident_models_then_the_rest() -> None:
    backlogs = [
        Backlog("cold", 9, 20.0),
        Backlog("older", 1, 0.0),
        Backlog("latest", 1, 0.0),
        Backlog("colder", 1, 25.0),
    ]
    assert _order(*backlogs, resident=("older", "latest")) == ["latest", "older", "cold", "colder"]


def test_a_job_that_waited_too_long_comes_before_resident_models() -> None:
    backlogs = [Backlog("latest", 100, 0.0), Backlog("cold", 1, 31.0), Backlog("colder", 1, 45.0)]
    assert _order(*backlogs, resident=("latest",)) == ["colder", "cold", "latest"]


def test_a_resident_model_does_not_starve_behind_the_one_used_last() -> None:
    backlogs = [Backlog("latest", 100, 50.0), Backlog("older", 1, 31.0)]
    assert _order(*backlogs, resident=("older", "latest")) == ["older", "latest"]


def test_the_model_used_last_is_never_overdue_itself() -> None:
    backlogs = [Backlog("older", 1, 31.0), Backlog("latest", 100, 9999.0)]
    assert _order(*backlogs, resident=("older", "latest")) == ["older", "latest"]


def test_models_without_jobs_are_left_out() -> None:
    assert _order(Backlog("cold", 0, 0.0), resident=("cold",)) == []


def test_a_worker_that_holds_nothing_takes_the_longest_backlog_first_then_the_longest_wait() -> None:
    assert _order(Backlog("a", 1, 1.0), Backlog("b", 1, 2.0), Backlog("c", 2, 0.0), resident=()) == ["c", "b", "a"]
