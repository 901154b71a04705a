"""Jobs that end their tasks without a picture: gateways refuse such tasks, others may submit them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from integration.worker.conftest import StartWorker, Tasks

from sd_common import subjects
from sd_common.blob_store import BlobStore
from sd_common.events import AbortedEvent
from sd_common.nats_client import NatsClient


async def test_a_job_that_cannot_be_read_is_taken_off_the_queue_counted_and_its_task_aborted(
    start_worker: StartWorker, tasks: Tasks, nats_client: NatsClient, capsys: pytest.CaptureFixture[str]
) -> None:
    js = nats_client.jetstream()
    await js.publish(subjects.jobs_of("tiny"), b"not json")
    broken = {"v": 1, "task_id": "broken", "user": "u", "session": "s", "parameters": {"params_type": "txt2img"}}
    await js.publish(subjects.jobs_of("tiny"), json.dumps(broken).encode())
    await start_worker()
    aborted = (await tasks.wait_for("broken", "aborted")).event
    assert isinstance(aborted, AbortedEvent)
    assert aborted.code == "invalid_input"
    assert "parameters.txt2img.prompt: Field required" in aborted.reason
    await tasks.wait_until_queue_is_empty()
    assert re.findall(r"not_a_job.*num_refused\S*=\S*([0-9])", capsys.readouterr().out) == ["1", "2"]


async def test_a_job_on_the_subject_of_another_model_is_aborted(
    start_worker: StartWorker, tasks: Tasks, nats_client: NatsClient
) -> None:
    job = await tasks.publish("right")
    astray = job.model_copy(update={"task_id": "astray"})
    await nats_client.jetstream().publish(subjects.jobs_of("other"), astray.model_dump_json().encode())
    await start_worker()
    aborted = (await tasks.wait_for("astray", "aborted")).event
    assert isinstance(aborted, AbortedEvent)
    assert "not that of its model, 'tiny'" in aborted.reason


@pytest.mark.parametrize(
    ("settings", "parameters", "code", "reason"),
    [
        (
            {"allowed_models": ("other",)},
            {},
            "model_unavailable",
            "Model 'tiny' is not allowed here: name one of other",
        ),
        ({"max_steps": 3}, {"steps": 4}, "invalid_input", "steps: Is 4; at most 3 are made here"),
        ({"max_prompt_chars": 3}, {"prompt": "four"}, "invalid_input", "prompt: Has 4 characters; at most 3"),
        ({"max_picture_pixels": 4096}, {"width": 72}, "invalid_input", "width: The picture would be 72×64"),
    ],
)
async def test_a_job_that_a_gateway_would_refuse_is_aborted(
    start_worker: StartWorker,
    tasks: Tasks,
    settings: dict[str, Any],
    parameters: dict[str, Any],
    code: str,
    reason: str,
) -> None:
    await start_worker(**settings)
    await tasks.publish("refused", **parameters)
    aborted = (await tasks.wait_for("refused", "aborted")).event
    assert isinstance(aborted, AbortedEvent)
    assert aborted.code == code
    assert reason in aborted.reason
    await tasks.wait_until_queue_is_empty()


@pytest.mark.parametrize("task_id", ["thief", "victim"])
async def test_a_job_that_names_anothers_picture_is_aborted_and_that_picture_stays(
    start_worker: StartWorker, tasks: Tasks, nats_client: NatsClient, blob_store: BlobStore, task_id: str
) -> None:
    await start_worker()
    job = await tasks.publish("victim", seed=1)
    await tasks.wait_for("victim", "finished")
    before = await blob_store.get(job.blob_id)
    body = json.loads(job.model_dump_json()) | {"task_id": task_id, "user": "stranger"}
    body["parameters"]["seed"] = 2
    await nats_client.jetstream().publish(subjects.jobs_of("tiny"), json.dumps(body).encode())
    aborted = (await tasks.wait_for(task_id, "aborted")).event
    assert isinstance(aborted, AbortedEvent)
    assert (aborted.code, aborted.reason.split(":")[0]) == ("invalid_input", "blob_id")
    assert await blob_store.get(job.blob_id) == before
    await tasks.wait_until_queue_is_empty()


@pytest.mark.parametrize(
    "name", ["../tiny", "/etc", "\\\\host\\share", "//host/share", "C:\\tiny", "tiny\x00", "a/b/c"]
)
async def test_a_job_whose_model_could_leave_the_directory_is_aborted(
    start_worker: StartWorker, tasks: Tasks, nats_client: NatsClient, name: str
) -> None:
    body = {"v": 1, "task_id": "astray", "user": "u", "session": "s", "blob_id": "b" * 32}
    body["parameters"] = {"params_type": "txt2img", "prompt": "x", "model": name}
    await nats_client.jetstream().publish(subjects.jobs_of("tiny"), json.dumps(body).encode())
    await start_worker()
    aborted = (await tasks.wait_for("astray", "aborted")).event
    assert isinstance(aborted, AbortedEvent)
    assert aborted.code == "invalid_input"
    assert "must be a repository id on the hub" in aborted.reason


async def test_where_the_safety_filter_is_required_a_model_without_a_checker_is_refused(
    start_worker: StartWorker, tasks: Tasks
) -> None:
    await start_worker(safety_filter="required")
    await tasks.publish("unchecked", model="tiny")
    aborted = (await tasks.wait_for("unchecked", "aborted")).event
    assert isinstance(aborted, AbortedEvent)
    assert aborted.code == "model_unavailable"
    assert "'tiny' has no safety checker" in aborted.reason
    assert "choose a model that has one, or have the operator set SAFETY_FILTER=optional" in aborted.reason
