"""The verdict sees what it is there to see: each promise, broken in events made up for it."""

from __future__ import annotations

import base64
import random
from collections.abc import Iterable
from typing import Any

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from chaos.asked import AskedTask, ask
from chaos.balanced_client import BalancedClient, wrong_refusal
from chaos.disturbances import Disturbance, Happened, plan
from chaos.evidence import Bucket, Leftovers, Told
from chaos.followers import Follower, broken_promises_of_feeds, wrong_close
from chaos.load import Load
from chaos.memory import Growth, MemoryWatch
from chaos.parts import PartKind
from chaos.takeovers import takeover_times_s
from chaos.verdict import (
    MAX_GROWTH_MB,
    MAX_TAKEOVER_S,
    broken_promises_of_keys,
    broken_promises_of_leftovers,
    broken_promises_of_load,
    broken_promises_of_memory,
    broken_promises_of_pictures,
    broken_promises_of_takeovers,
    broken_promises_of_tasks,
    findings,
)
from support.client import Answered

TASK = "one"
SEED = 7


def told(*types: str, task_id: str = TASK, seed: int = SEED, attempts: Iterable[int] = (1, 2, 3)) -> list[Told]:
    """A task's events, a second apart. `attempts` are those of its starts; it is finished by the last."""
    numbers = iter(attempts)
    attempt = 0
    events = []
    for sequence, event_type in enumerate(types, start=1):
        body: dict[str, Any] = {"event_type": event_type, "worker": "w"}
        if event_type == "started":
            attempt = next(numbers)
        body["attempt"] = attempt
        body["code"] = "cancelled"
        body["result"] = {"blob_url": f"http://x/blob/{task_id}", "parameters_used": {"seed": seed}}
        events.append(Told(sequence, float(sequence), "session", task_id, body))
    return events


def accepted(**changes: Any) -> AskedTask:
    task = ask(SEED, random.Random(0))
    task.manner = "follows"
    task.task_id, task.accepted_at_s = TASK, 1.0
    for name, value in changes.items():
        setattr(task, name, value)
    return task


def broken(events: list[Told], **changes: Any) -> list[str]:
    return list(broken_promises_of_tasks([accepted(**changes)], events))


@pytest.mark.parametrize(
    "events",
    [
        told("pending", "started", "finished"),
        told("pending", "started", "started", "finished"),
        told("pending", "started", "pending", "started", "finished", attempts=(1, 1)),
    ],
)
def test_a_task_that_ended_once_breaks_no_promise(events: list[Told]) -> None:
    assert broken(events) == []


def test_a_deleted_task_may_be_aborted() -> None:
    assert broken(told("pending", "aborted"), manner="deletes", deleted_at_s=3.0) == []


@pytest.mark.parametrize(
    ("events", "changes", "sentence"),
    [
        ([], {}, "lost"),
        (told("pending", "started"), {}, "lost"),
        (told("pending", "started", "finished", "aborted"), {}, "2 terminal events"),
        (told("started", "finished"), {}, "out of order"),
        (told("pending", "started", "finished", "started"), {}, "out of order"),
        (told("pending", "started", "started", "finished", attempts=(1, 3)), {}, "attempts"),
        (told("pending", "started", "finished"), {"accepted_at_s": -200.0}, "took longer"),
        (told("pending", "aborted"), {}, "aborted though nobody asked"),
        (told("pending", "aborted"), {"manner": "deletes", "deleted_at_s": 1.5}, "not ended when that was answered"),
        (told("pending", "started", "finished"), {"blob_url": "http://x/blob/other"}, "no finished task"),
    ],
)
def test_a_broken_promise_is_told(events: list[Told], changes: dict[str, Any], sentence: str) -> None:
    assert any(sentence in told_of for told_of in broken(events, **changes))


def test_an_abort_for_any_reason_but_that_somebody_asked_for_it_is_told() -> None:
    events = told("pending", "aborted")
    events[-1].body["code"] = "internal"
    assert any("aborted with ['internal']" in sentence for sentence in broken(events, manner="deletes"))


@pytest.mark.parametrize(("num_accepted", "num_broken"), [(0, 1), (199, 1), (200, 0)])
def test_a_run_that_has_asked_for_little_is_told(num_accepted: int, num_broken: int) -> None:
    assert len(list(broken_promises_of_load(num_accepted, 60.0))) == num_broken


def test_a_late_takeover_is_told() -> None:
    assert len(list(broken_promises_of_takeovers([MAX_TAKEOVER_S - 0.1, MAX_TAKEOVER_S + 0.1]))) == 1


@pytest.mark.parametrize(("code", "is_right"), [(1001, True), (1006, True), (1013, True), (1008, False), (1011, False)])
def test_a_websocket_that_was_closed_for_a_reason_of_its_client_or_by_a_defect_is_told(
    code: int, is_right: bool
) -> None:
    assert (wrong_close(code) is None) == is_right


def test_the_part_that_lives_on_is_stopped_and_never_ended() -> None:
    planned = plan(3, 600.0, [("one", "gateway"), ("two", "gateway")], can_be_cut_off=None, lives_on="one")
    deeds = {name: {entry.deed for entry in planned if entry.part == name} for name in ("one", "two")}
    assert deeds == {"one": {"stopped"}, "two": {"killed", "stopped", "restarted"}}


def test_a_zombies_finish_is_told() -> None:
    events = told("pending", "started", "started", "finished")
    events[-1].body["attempt"] = 1
    assert any("finished by attempt" in sentence for sentence in broken(events))


def test_a_task_that_nobody_was_told_of_must_end_too() -> None:
    assert any("0 terminal events" in sentence for sentence in broken_promises_of_tasks([], told("pending")))


def test_a_second_task_for_one_submission_is_told() -> None:
    events = [*told("pending", "started", "finished"), *told("pending", "started", "finished", task_id="two")]
    assert len(list(broken_promises_of_keys([accepted()], events))) == 1


class Pictures(Bucket):
    """A bucket whose pictures all have one size, or which has none."""

    def __init__(self, size: tuple[int, int] | None) -> None:
        self._size = size

    async def size_of(self, blob_url: str) -> tuple[int, int] | None:
        return self._size


@pytest.mark.parametrize(("size", "num_broken"), [((64, 96), 0), ((96, 64), 1), (None, 1)])
async def test_a_finished_task_without_its_picture_is_told(size: tuple[int, int] | None, num_broken: int) -> None:
    """`None`: of a blob that is not there, or no whole PNG."""
    asked = [accepted(width=64, height=96)]
    events = told("pending", "started", "finished")
    assert len(await broken_promises_of_pictures(asked, events, Pictures(size))) == num_broken
    assert await broken_promises_of_pictures(asked, told("pending", "aborted"), Pictures(None)) == []


class Grown(MemoryWatch):
    """What was seen of processes."""

    def __init__(self, *seen: Growth) -> None:
        self._processes = dict(enumerate(seen))


@pytest.mark.parametrize("kind", MAX_GROWTH_MB)
def test_a_process_that_grew_beyond_its_bound_is_told(kind: PartKind) -> None:
    most = MAX_GROWTH_MB[kind] * 1_000_000
    started = 100_000_000
    within, beyond = Growth(kind, started, started + most), Growth(kind, started, started + most + 1)
    assert list(broken_promises_of_memory(Grown())) == []
    assert list(broken_promises_of_memory(Grown(within))) == []
    [sentence] = broken_promises_of_memory(Grown(within, beyond))
    assert sentence.startswith(f"a {kind} grew by")


@pytest.mark.parametrize("status", [429, 503])
def test_a_refusal_that_does_not_say_when_to_come_again_is_told(status: int) -> None:
    def refused(**headers: str) -> Answered:
        return Answered(status, CIMultiDictProxy(CIMultiDict(headers)), b"")

    assert wrong_refusal(refused(**{"retry-after": "1"})) is None
    assert wrong_refusal(refused()) == f"{status} without Retry-After"


def test_an_answer_that_no_client_should_get_is_told() -> None:
    client = BalancedClient({}, set(), random.Random(0))
    load = Load(client, random.Random(0), num_clients=0)
    assert load._is_right(200, 200, "GET /task/one")
    assert client.wrong_answers == []
    assert not load._is_right(500, 200, "GET /task/one")
    assert client.wrong_answers == ["500 and not 200 to GET /task/one"]


@pytest.mark.parametrize("left", [Leftovers(1, {}), Leftovers(0, {"shapes": 1})])
def test_what_is_left_over_is_told(left: Leftovers) -> None:
    assert len(list(broken_promises_of_leftovers(left))) == 1


@pytest.mark.parametrize("sequences", [[1, 3], [1, 2, 2, 3], [2, 1, 3], [1, 2, 3, 4]])
def test_a_websocket_client_that_was_not_told_each_event_once_and_in_order_is_told_of(sequences: list[int]) -> None:
    claims = base64.urlsafe_b64encode(b'{"sid": "session"}').decode()
    follower = Follower(BalancedClient({}, set(), random.Random(0)), f"head.{claims}.signature", random.Random(0))
    events = told("pending", "started", "finished")
    follower.sequences = [1, 2, 3]
    assert list(broken_promises_of_feeds([follower], events)) == []
    follower.sequences = sequences
    assert len(list(broken_promises_of_feeds([follower], events))) == 1


def test_lost_and_doubled_tasks_are_counted() -> None:
    found = findings([accepted(task_id="lost"), accepted()], told("pending", "finished", "finished"))
    assert (len(found.accepted), found.num_lost, found.num_doubled) == (2, 1, 1)


def test_a_takeover_is_timed_from_the_kill_of_the_worker_that_ran_the_task() -> None:
    killed = [Happened(Disturbance(0, worker, "worker", "killed", 0), 2.5) for worker in ("w", "another")]
    assert takeover_times_s(killed, told("pending", "started", "started", "finished")) == [0.5]
