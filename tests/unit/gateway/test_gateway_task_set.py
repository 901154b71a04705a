"""Tasks of several sessions of a user, some of which are called the same."""

from __future__ import annotations

from sd_common.subjects import TaskRef
from sd_gateway.task_set import TaskSet

_HERE, _THERE, _ELSEWHERE = (TaskRef("alice", session, "invoice-17") for session in ("here", "there", "elsewhere"))


def test_of_tasks_with_the_same_id_the_one_that_came_last_and_is_still_there_is_found() -> None:
    tasks = TaskSet()
    for ref in (_HERE, _THERE, _ELSEWHERE):
        tasks.add(ref)
    tasks.add(_HERE)  # an event of it, and it came first still
    found = []
    for _ in range(3):
        last = tasks.find("alice", "invoice-17")
        assert last is not None
        found.append(last)
        tasks.discard(last)
    assert found == [_ELSEWHERE, _THERE, _HERE]
    assert tasks.find("alice", "invoice-17") is None


def test_a_task_is_found_whichever_of_the_others_with_its_id_goes_away() -> None:
    tasks = TaskSet()
    for ref in (_HERE, _THERE):
        tasks.add(ref)
    tasks.discard(_HERE)
    tasks.discard(_HERE)  # once more, and one that never was there
    tasks.discard(_ELSEWHERE)
    assert tasks.find("alice", "invoice-17") == _THERE
    assert tasks.find("bob", "invoice-17") is None
    assert tasks.find("alice", "invoice-18") is None


def test_what_went_away_leaves_nothing_behind() -> None:
    """A gateway sees millions of tasks."""
    tasks = TaskSet()
    tasks.add(_HERE)
    tasks.discard(_HERE)
    tasks.discard(_THERE)
    assert (len(tasks), tasks._of_holder, tasks._by_id) == (0, {}, {})
