"""Jobs and events: version 1, unknown fields ignored, and which events end a task."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from pydantic import ValidationError

from sd_common.events import (
    TERMINAL_TYPES,
    AbortedEvent,
    FinishedEvent,
    PendingEvent,
    ProgressEvent,
    StartedEvent,
    TaskResult,
    stored_event_adapter,
)
from sd_common.jobs import Job
from sd_common.logged_event import LoggedEvent
from sd_common.parameters import Txt2ImgParameters
from sd_common.subjects import TaskRef

_BLOB_ID = "abcdefghijklmnopqrstuvwx"
_JOB: dict[str, Any] = {
    "task_id": "t1",
    "user": "alice",
    "session": "s1",
    "blob_id": _BLOB_ID,
    "parameters": {"params_type": "txt2img", "prompt": "corgi"},
}
_RESULT = TaskResult(blob_url=f"http://localhost/blob/{_BLOB_ID}", parameters_used=Txt2ImgParameters(prompt="corgi"))
_EVENTS: list[PendingEvent | StartedEvent | FinishedEvent | AbortedEvent] = [
    PendingEvent(task_id="t1", job_sequence=7),
    StartedEvent(task_id="t1", attempt=1, worker="w"),
    FinishedEvent(task_id="t1", attempt=2, worker="w", result=_RESULT),
    AbortedEvent(task_id="t1", reason="out of memory", code="out_of_memory"),
]


@pytest.mark.parametrize("event", _EVENTS, ids=lambda event: event.event_type)
def test_a_stored_event_survives_json(event: PendingEvent | StartedEvent | FinishedEvent | AbortedEvent) -> None:
    assert stored_event_adapter.validate_json(event.model_dump_json()) == event


@pytest.mark.parametrize("event", _EVENTS, ids=lambda event: event.event_type)
def test_every_event_says_its_version(event: PendingEvent | StartedEvent | FinishedEvent | AbortedEvent) -> None:
    assert json.loads(event.model_dump_json())["v"] == 1


def test_finished_and_aborted_end_a_task_and_nothing_else_does() -> None:
    assert [event.event_type in TERMINAL_TYPES for event in _EVENTS] == [False, False, True, True]


@pytest.mark.parametrize("event", _EVENTS, ids=lambda event: event.event_type)
def test_fields_that_a_reader_does_not_know_are_ignored(
    event: PendingEvent | StartedEvent | FinishedEvent | AbortedEvent,
) -> None:
    message = {**json.loads(event.model_dump_json()), "added_later": {"a": 1}}
    assert stored_event_adapter.validate_json(json.dumps(message)) == event
    job = Job.model_validate({**_JOB, "priority": "high"})
    assert job.ref == TaskRef("alice", "s1", "t1")
    assert not hasattr(job, "priority")


def test_another_version_is_not_read_as_this_one() -> None:
    with pytest.raises(ValidationError):
        Job.model_validate({**_JOB, "v": 2})
    message = {**json.loads(_EVENTS[0].model_dump_json()), "v": 2}
    with pytest.raises(ValidationError):
        stored_event_adapter.validate_python(message)


def test_progress_is_not_a_stored_event() -> None:
    progress = ProgressEvent(task_id="t1", stage="denoising", step=1, steps=20)
    with pytest.raises(ValidationError):
        stored_event_adapter.validate_json(progress.model_dump_json())


@pytest.mark.parametrize("name", ["task_id", "user", "session"])
@pytest.mark.parametrize("value", ["", "a.b", "*", ">", "a b", "a\n", "a" * 65, None, 1])
def test_a_job_whose_names_are_no_subject_tokens_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValidationError) as raised:
        Job.model_validate({**_JOB, name: value})
    assert [error["loc"] for error in raised.value.errors()] == [(name,)]


@pytest.mark.parametrize("blob_id", ["", "short", "../../../../etc/passwd", "a" * 65, "a" * 15 + "\n", "a" * 20 + "/b"])
def test_a_job_whose_blob_id_is_none_is_refused(blob_id: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Job.model_validate({**_JOB, "blob_id": blob_id})
    assert [error["loc"] for error in raised.value.errors()] == [("blob_id",)]


def test_a_job_needs_no_more_than_its_names_and_parameters() -> None:
    job = Job.model_validate(_JOB)
    assert job.v == 1
    assert datetime.now(UTC) - job.submitted_at < timedelta(minutes=1)
    assert Job.model_validate_json(job.model_dump_json()) == job


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValidationError):
        Job.model_validate({**_JOB, "submitted_at": "2026-01-02T03:04:05"})
    job = Job.model_validate({**_JOB, "submitted_at": "2026-01-02T03:04:05+02:00"})
    assert job.submitted_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2)))


def test_an_event_is_shown_as_it_is_stored_with_its_sequence() -> None:
    stored = _EVENTS[0].model_dump_json().encode()
    logged = LoggedEvent(TaskRef("alice", "s1", "t1"), 42, b" \n" + stored)
    assert json.loads(logged.shown()) == {"sequence": 42, **json.loads(stored)}
    assert logged.event == _EVENTS[0]
