"""NATS subjects: built, taken apart again, and refused where a name is not one token."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sd_common import subjects
from sd_common.errors import SubjectError
from sd_common.lanes import LANES, Lane
from sd_common.subjects import ModelLane, TaskRef

tokens = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
refs = st.builds(TaskRef, tokens, tokens, tokens)


@given(refs)
def test_a_task_is_found_again_in_its_subjects(ref: TaskRef) -> None:
    assert subjects.parse_task_subject(ref.events) == ("events", ref)
    assert subjects.parse_task_subject(ref.progress) == ("progress", ref)
    assert subjects.parse_task_subject(f"feed.{ref.events.removeprefix('events.')}") == ("feed", ref)
    assert subjects.task_id_of_cancel(ref.cancels) == ref.task_id


@given(refs)
def test_filters_match_the_task(ref: TaskRef) -> None:
    _, user, session, task_id = ref.events.split(".")
    assert subjects.events_of_task(ref.user, ref.task_id).split(".") == ["events", user, "*", task_id]
    assert subjects.events_of_session(ref.user, ref.session).split(".") == ["events", user, session, "*"]
    assert subjects.events_of_user(ref.user).split(".") == ["events", user, "*", "*"]
    assert subjects.progress_of_session(ref.user, ref.session).split(".") == ["progress", user, session, "*"]


@given(tokens, st.sampled_from(LANES))
def test_a_lane_is_found_again_in_the_subject_of_its_jobs(key: str, name: Lane) -> None:
    lane = ModelLane(key, name)
    assert subjects.parse_jobs_subject(lane.jobs) == lane


_WRONG = ["", "*", ">", "a.b", "a b", "a\tb", "a\n", "\n", "é", "a" * 65, "$SYS", "a*", "\x00", "\udcff"]


@pytest.mark.parametrize("name", _WRONG)
def test_a_name_that_is_not_one_token_is_refused_everywhere(name: str) -> None:
    attempts: list[Callable[[], object]] = [
        lambda: subjects.check_token(name),
        lambda: TaskRef(name, "session", "task"),
        lambda: TaskRef("user", name, "task"),
        lambda: TaskRef("user", "session", name),
        lambda: ModelLane(name, "rest"),
        lambda: subjects.parse_jobs_subject(f"jobs.{name}"),
        lambda: subjects.parse_jobs_subject(f"jobs.{name}.first"),
        lambda: subjects.events_of_task(name, "task"),
        lambda: subjects.events_of_task("user", name),
        lambda: subjects.events_of_session(name, "session"),
        lambda: subjects.events_of_session("user", name),
        lambda: subjects.events_of_user(name),
        lambda: subjects.progress_of_session(name, "session"),
        lambda: subjects.progress_of_session("user", name),
        lambda: subjects.task_id_of_cancel(f"cancels.{name}"),
    ]
    for attempt in attempts:
        with pytest.raises(SubjectError):
            attempt()


@pytest.mark.parametrize(
    "subject",
    ["", "events", "events.u.s", "events.u.s.t.x", "events.u..t", "events.u.*.t", "jobs.u.s.t", "EVENTS.u.s.t", "..."],
)
def test_what_is_not_the_subject_of_a_task_is_refused(subject: str) -> None:
    with pytest.raises(SubjectError):
        subjects.parse_task_subject(subject)


@pytest.mark.parametrize("subject", ["", "jobs", "cancels", "jobs.", "events.a", "cancels.a.b", "jobs.a.rest"])
def test_what_is_no_subject_of_jobs_or_cancels_is_refused(subject: str) -> None:
    with pytest.raises(SubjectError):
        subjects.parse_jobs_subject(subject)
    with pytest.raises(SubjectError):
        subjects.task_id_of_cancel(subject)


@pytest.mark.parametrize("worker", ["gpu-1-4711-0042", "node.example.org-1-ab12", "a worker > all *", "é" * 200])
def test_announcements_of_any_worker_are_heard(worker: str) -> None:
    subject = subjects.announcements_of(worker)
    assert re.fullmatch(subjects.WORKERS.replace(".*", r"\.[A-Za-z0-9_-]+"), subject)
    assert subject != subjects.announcements_of(f"{worker}.")


_texts = st.text(max_size=40) | st.text(st.sampled_from("ajobsevntfdcl.*> \n"), max_size=40)


@given(_texts | st.builds("{}.{}".format, st.sampled_from(["jobs", "events", "feed", "progress", "cancels"]), _texts))
def test_any_text_is_a_subject_that_is_built_the_same_again_or_is_refused(subject: str) -> None:
    with contextlib.suppress(SubjectError):
        assert subjects.parse_jobs_subject(subject).jobs == subject
    with contextlib.suppress(SubjectError):
        prefix, ref = subjects.parse_task_subject(subject)
        assert f"{prefix}.{ref.events.removeprefix('events.')}" == subject
    with contextlib.suppress(SubjectError):
        assert f"cancels.{subjects.task_id_of_cancel(subject)}" == subject
