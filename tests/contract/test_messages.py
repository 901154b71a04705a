"""Messages on NATS against golden files: other versions of the services, and publishers, rely on them.

A change of a golden file is a change of the contract. Version 1 may gain optional fields, nothing else.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import pytest

from sd_common.announcements import AnnouncedModel, WorkerAnnouncement
from sd_common.auth_messages import RevokedToken
from sd_common.backlog import Backlog, HeldModels, LaneBacklog
from sd_common.events import (
    AbortCode,
    AbortedEvent,
    FinishedEvent,
    PendingEvent,
    ProgressEvent,
    StartedEvent,
    StoredEvent,
    TaskResult,
    TaskTimings,
    stored_event_adapter,
)
from sd_common.jobs import Job
from sd_common.messages import Message
from sd_common.parameters import DefaultParameters, Img2ImgParameters, InpaintParameters, Txt2ImgParameters

_GOLDEN = Path(__file__).parent / "golden"
_TIME = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
_TASK_ID = "4f6f3a3e-6c0b-4c62-8d6e-0b7c2f4a9d11"
_BLOB_ID = "Zm9yZXZlci1hbmQtZXZlci0x"
_URL = "http://localhost:8000/blob/"

_TXT2IMG = Txt2ImgParameters(prompt="a corgi in a café", model="shapes", steps=2, seed=2**64 - 1)
_IMG2IMG = Img2ImgParameters(
    prompt="a corgi", negative_prompt="cats", initial_image=f"{_URL}aW5pdGlhbC1pbWFnZS1vbmUt", strength=0.5, seed=42
)
_INPAINT = InpaintParameters(
    prompt="a corgi",
    initial_image=f"{_URL}aW5pdGlhbC1pbWFnZS1vbmUt",
    mask=f"{_URL}bWFzay1vZi10aGUtcGljdHVy",
    guidance=1.0,
    scheduler="euler_a",
    safety_filter=False,
)


def _job(parameters: Txt2ImgParameters | Img2ImgParameters | InpaintParameters) -> Job:
    return Job(
        task_id=_TASK_ID, user="alice", session="s-1", submitted_at=_TIME, blob_id=_BLOB_ID, parameters=parameters
    )


_MESSAGES: dict[str, Message] = {
    "job_txt2img": _job(_TXT2IMG),
    "job_img2img": _job(_IMG2IMG),
    "job_inpaint": _job(_INPAINT),
    "revoked_token": RevokedToken(token_id="Fq0ZyV7m3kqz1S0m2cQ4xA", expires_at=_TIME),
    "event_pending": PendingEvent(task_id=_TASK_ID, time=_TIME, job_sequence=17),
    "event_started": StartedEvent(task_id=_TASK_ID, time=_TIME, attempt=1, worker="gpu-1-4711-0042", delivery=3),
    "event_finished": FinishedEvent(
        task_id=_TASK_ID,
        time=_TIME,
        attempt=2,
        worker="gpu-1-4711-0042",
        result=TaskResult(blob_url=f"{_URL}{_BLOB_ID}", parameters_used=_TXT2IMG, nsfw_content_detected=False),
        timings=TaskTimings(queue_s=0.5, load_s=0.0, encode_s=0.01, denoise_s=2.5, decode_s=0.25, upload_s=0.0625),
    ),
    "event_finished_unchecked": FinishedEvent(
        task_id=_TASK_ID,
        time=_TIME,
        attempt=1,
        worker="gpu-1-4711-0042",
        result=TaskResult(blob_url=f"{_URL}{_BLOB_ID}", parameters_used=_INPAINT),
    ),
    "event_aborted": AbortedEvent(task_id=_TASK_ID, time=_TIME, reason="Task cancelled by user", code="cancelled"),
    "event_progress": ProgressEvent(task_id=_TASK_ID, time=_TIME, stage="denoising", step=3, steps=20),
    "event_progress_downloading": ProgressEvent(
        task_id=_TASK_ID,
        time=_TIME,
        stage="downloading",
        step=0,
        steps=20,
        bytes=1_048_576,
        total_bytes=2_740_000_000,
    ),
    "announcement": WorkerAnnouncement(
        worker="gpu-1-4711-0042",
        models=[
            AnnouncedModel(
                name="shapes",
                kinds=["txt2img", "img2img", "inpaint"],
                default_parameters=DefaultParameters(width=128, height=128, scheduler="ddim"),
                is_resident=True,
            )
        ],
    ),
    "backlog": Backlog(
        worker="gpu-1-4711-0042",
        time=_TIME,
        lanes=[LaneBacklog(model_key="shapes-5f0e1c3a", lane="first", num_jobs=5, num_waiting=3, oldest_wait_s=1.5)],
    ),
    "held_models": HeldModels(worker="gpu-1-4711-0042", model_keys=["shapes-5f0e1c3a"], has_just_come=True),
    "announcement_leaving": WorkerAnnouncement(worker="gpu-1-4711-0042", models=[], is_leaving=True),
}


@pytest.mark.parametrize("name", _MESSAGES)
def test_a_message_is_written_as_its_golden_file(name: str) -> None:
    written = json.dumps(json.loads(_MESSAGES[name].model_dump_json()), indent=2, ensure_ascii=False) + "\n"
    assert written == (_GOLDEN / f"{name}.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", _MESSAGES)
def test_a_golden_file_is_read_as_its_message(name: str) -> None:
    message = _MESSAGES[name]
    assert type(message).model_validate_json((_GOLDEN / f"{name}.json").read_bytes()) == message


@pytest.mark.parametrize(("name", "parameters"), [("txt2img", _TXT2IMG), ("img2img", _IMG2IMG), ("inpaint", _INPAINT)])
def test_a_job_holds_what_was_given_with_its_kind_and_model_and_nothing_else(
    name: str, parameters: Txt2ImgParameters | Img2ImgParameters | InpaintParameters
) -> None:
    """What it leaves out takes the model's own defaults, which spelled-out ones of the API would hide."""
    read = Job.model_validate_json((_GOLDEN / f"job_{name}.json").read_bytes())
    assert read.parameters.model_fields_set == parameters.model_fields_set | {"params_type", "model"}


@pytest.mark.parametrize("name", [name for name in _MESSAGES if "event" in name and "progress" not in name])
def test_a_golden_event_is_recognised_by_its_type(name: str) -> None:
    assert stored_event_adapter.validate_json((_GOLDEN / f"{name}.json").read_bytes()) == _MESSAGES[name]


def test_every_golden_file_is_of_a_message() -> None:
    assert {path.stem for path in _GOLDEN.iterdir()} == set(_MESSAGES)


def test_every_stored_event_has_a_golden_file() -> None:
    union, _ = get_args(StoredEvent)
    assert {type(message) for message in _MESSAGES.values()} >= {*get_args(union), ProgressEvent, Job}


def test_the_reasons_for_programs_are_those_of_version_1() -> None:
    """Clients compare with them: one may be added, none renamed or taken away."""
    assert set(get_args(AbortCode)) >= {
        "cancelled",
        "invalid_input",
        "model_unavailable",
        "out_of_memory",
        "attempts_exhausted",
        "internal",
    }


def test_what_version_1_needs_has_not_grown() -> None:
    """A reader of today must read what a writer of version 1.0 wrote: new fields are optional."""
    needed: dict[type[Message], set[str]] = {
        Job: {"task_id", "user", "session", "blob_id", "parameters"},
        PendingEvent: {"task_id", "job_sequence"},
        StartedEvent: {"task_id", "attempt", "worker"},
        FinishedEvent: {"task_id", "attempt", "worker", "result"},
        AbortedEvent: {"task_id", "reason"},
        ProgressEvent: {"task_id", "stage", "step", "steps"},
        TaskResult: {"blob_url", "parameters_used"},
        WorkerAnnouncement: {"worker", "models"},
        Backlog: {"worker", "time", "lanes"},
        HeldModels: {"worker", "model_keys"},
    }
    for model, names in needed.items():
        assert set(model.model_json_schema().get("required", ())) == names, model
