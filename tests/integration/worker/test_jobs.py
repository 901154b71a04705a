"""What a worker does with jobs, also with those that internal services publish straight onto NATS."""

from __future__ import annotations

import asyncio
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from integration.worker.conftest import BASE_URL, OWN_DEFAULTS, PATIENCE_S, StartWorker, Tasks, worker_settings
from nats.aio.msg import Msg
from PIL import Image

from sd_common import subjects
from sd_common.blob_ids import new_blob_id
from sd_common.blob_store import BlobStore
from sd_common.errors import BlobNotFound
from sd_common.events import AbortedEvent, FinishedEvent, PendingEvent, StartedEvent
from sd_common.logged_event import LoggedEvent
from sd_common.model_names import model_key
from sd_common.nats_client import NatsClient
from sd_common.nats_settings import NatsSettings
from sd_common.picture_bucket import create_bucket
from sd_common.puller import Puller
from sd_common.s3_client import S3Client
from sd_common.streams import JOBS
from sd_common.subjects import ModelLane, jobs_of
from sd_common.task_log import NO_EVENT
from sd_embedded.s3_server import S3Server
from sd_worker.app import WorkerApp
from sd_worker.engine.errors import DeviceUnavailable
from support.jobs import num_jobs
from support.metrics import scrape_until


def _types(events: list[LoggedEvent]) -> list[str]:
    return [event.event.event_type for event in events]


async def test_a_job_published_by_an_internal_service_gets_its_picture_and_all_its_events(
    start_worker: StartWorker, tasks: Tasks, blob_store: BlobStore
) -> None:
    await start_worker()
    job = await tasks.publish("t1", seed=3)
    last = await tasks.wait_for("t1", "finished")
    assert _types(await tasks.events("t1")) == ["pending", "started", "finished"]
    assert last.ref == job.ref
    finished = last.event
    assert isinstance(finished, FinishedEvent)
    assert finished.result.blob_url == f"{BASE_URL}/blob/{job.blob_id}"
    assert finished.result.parameters_used == job.parameters
    blob = await blob_store.get(job.blob_id)
    assert blob.content_type == "image/png"
    assert Image.open(io.BytesIO(blob.data)).size == (64, 64)
    await tasks.wait_until_queue_is_empty()


async def test_a_job_of_a_later_version_with_parameters_unknown_here_runs(
    start_worker: StartWorker, tasks: Tasks, nats_client: NatsClient
) -> None:
    job = await tasks.publish("known")
    body = json.loads(job.model_dump_json()) | {"task_id": "later", "blob_id": new_blob_id(), "later_field": 1}
    body["parameters"]["later_parameter"] = True
    await nats_client.jetstream().publish(subjects.jobs_of("tiny"), json.dumps(body).encode())
    await start_worker()
    await tasks.wait_for("later", "finished")


async def test_a_job_that_says_little_gets_the_models_own_defaults(
    start_worker: StartWorker, tasks: Tasks, nats_client: NatsClient
) -> None:
    job = await tasks.publish("known")
    body = json.loads(job.model_dump_json()) | {"task_id": "bare", "blob_id": new_blob_id()}
    body["parameters"] = {"params_type": "txt2img", "prompt": "x", "model": "own-defaults", "guidance": 7.5}
    await nats_client.jetstream().publish(subjects.jobs_of("own-defaults"), json.dumps(body).encode())
    await start_worker()
    finished = (await tasks.wait_for("bare", "finished")).event
    assert isinstance(finished, FinishedEvent)
    used = finished.result.parameters_used.model_dump()
    assert used.items() >= {**OWN_DEFAULTS, "guidance": 7.5, "safety_filter": True, "negative_prompt": None}.items()
    assert isinstance(used["seed"], int)


async def test_where_it_is_required_the_safety_filter_runs_whatever_a_job_says(
    start_worker: StartWorker, tasks: Tasks, blob_store: BlobStore
) -> None:
    await start_worker(safety_filter="required")
    job = await tasks.publish("unfiltered", model="flagging", safety_filter=False)
    finished = (await tasks.wait_for("unfiltered", "finished")).event
    assert isinstance(finished, FinishedEvent)
    assert finished.result.parameters_used.safety_filter is True
    assert finished.result.nsfw_content_detected is True
    picture = Image.open(io.BytesIO((await blob_store.get(job.blob_id)).data))
    assert picture.getextrema() == ((0, 0),) * 3


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


async def test_a_page_tells_of_jobs_that_come_again_and_of_what_is_no_job(
    start_worker: StartWorker, tasks: Tasks, nats_client: NatsClient
) -> None:
    await tasks.publish("a", steps=200)
    one = await start_worker("one", drain_timeout_s=0)
    await tasks.wait_until_begun("a")
    await one.stop()
    worker = await start_worker("two", health_port=0)
    await tasks.wait_for("a", "finished")
    await nats_client.jetstream().publish(jobs_of("tiny"), b"no job")
    url = f"http://127.0.0.1:{worker.health_port}/metrics"
    page = await scrape_until(url, lambda page: page.value("sd_unreadable_jobs_total") == 1)
    assert page.value("sd_job_redeliveries_total") == 1
    assert page.value("sd_queue_wait_seconds_count", lane="rest") == 0
    assert page.value("sd_model_load_seconds_count") == 1
    assert page.value("sd_task_stage_seconds_count", stage="load") == 1
    for part in ("event_loop", "nats", "engine", "jobs"):
        assert page.value("sd_part_ready", part=part) == 1


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


async def test_a_task_whose_workers_were_lost_max_attempts_times_is_aborted_with_the_reason(
    start_worker: StartWorker, tasks: Tasks
) -> None:
    job = await tasks.publish("poison")
    sequence = await tasks.log.append(job.ref, PendingEvent(task_id="poison", job_sequence=1), NO_EVENT)
    for attempt in (1, 2):
        started = StartedEvent(task_id="poison", attempt=attempt, worker="lost")
        sequence = await tasks.log.append(job.ref, started, sequence)
    await start_worker(max_attempts=2)
    aborted = (await tasks.wait_for("poison", "aborted")).event
    assert isinstance(aborted, AbortedEvent)
    assert aborted.code == "attempts_exhausted"
    assert "started 2 times and never ended" in aborted.reason
    await tasks.wait_until_queue_is_empty()


async def test_the_job_of_a_task_that_was_aborted_before_is_not_run(start_worker: StartWorker, tasks: Tasks) -> None:
    job = await tasks.publish("aborted")
    await tasks.log.append(job.ref, AbortedEvent(task_id="aborted", reason="no"), NO_EVENT)
    await start_worker()
    await tasks.wait_until_queue_is_empty()
    assert _types(await tasks.events("aborted")) == ["aborted"]


async def test_a_cancel_of_a_task_that_was_not_aborted_changes_nothing(
    start_worker: StartWorker, tasks: Tasks, nats_client: NatsClient
) -> None:
    """Whoever may publish cancels ends nobody's task by that."""
    await start_worker()
    job = await tasks.publish("disturbed", steps=60)
    await tasks.wait_until_begun("disturbed")
    for _ in range(20):
        await nats_client.publish(job.ref.cancels)
    await tasks.wait_for("disturbed", "finished")
    assert _types(await tasks.events("disturbed")) == ["pending", "started", "finished"]


async def test_a_running_task_that_was_aborted_is_dropped_at_its_cancel(
    start_worker: StartWorker, tasks: Tasks, nats_client: NatsClient
) -> None:
    told: list[int] = []

    async def note(message: Msg) -> None:
        told.append(json.loads(message.data)["step"] or 0)

    await start_worker()
    job = await tasks.publish("dropped", steps=500)
    await nats_client.subscribe(job.ref.progress, cb=note)
    started = await tasks.wait_for("dropped", "started")
    await tasks.wait_until_begun("dropped")
    event = AbortedEvent(task_id="dropped", reason="no longer wanted", code="cancelled")
    await tasks.log.append(job.ref, event, started.sequence)
    await nats_client.publish(job.ref.cancels)
    await tasks.wait_until_queue_is_empty()
    assert max(told) < 500
    assert _types(await tasks.events("dropped")) == ["pending", "started", "aborted"]


async def test_a_worker_whose_task_was_started_by_another_meanwhile_changes_nothing(
    start_worker: StartWorker, tasks: Tasks, blob_store: BlobStore, nats_client: NatsClient
) -> None:
    """As a worker that stood still for longer than ack_wait finds it when it wakes up."""
    zombie = await start_worker("zombie")
    job = await tasks.publish("stolen", steps=60)
    started = await tasks.wait_for("stolen", "started")
    await tasks.wait_until_begun("stolen")
    other = StartedEvent(task_id="stolen", attempt=2, worker="other")
    sequence = await tasks.log.append(job.ref, other, started.sequence)
    await zombie.stop()  # it finishes what runs
    assert [event.sequence for event in await tasks.events("stolen")][-1] == sequence
    assert await num_jobs(nats_client) == 1  # left to the other worker
    with pytest.raises(BlobNotFound):
        await blob_store.get(job.blob_id)


async def test_a_job_that_is_delivered_again_to_the_worker_that_runs_it_changes_nothing(
    start_worker: StartWorker, tasks: Tasks, nats_client: NatsClient
) -> None:
    """As when its worker could not tell NATS for long that it is in progress."""
    await start_worker(max_rows=8)
    job = await tasks.publish("twice", steps=200)
    await tasks.wait_for("twice", "started")
    # Without a message id, so that the stream takes it as a job of its own.
    await nats_client.jetstream().publish(subjects.jobs_of("tiny"), job.model_dump_json().encode())
    await tasks.publish("other", steps=2)
    await tasks.wait_for("other", "finished")
    await tasks.wait_for("twice", "finished")
    assert _types(await tasks.events("twice")) == ["pending", "started", "finished"]


async def test_a_job_is_taken_only_when_the_engine_can_soon_begin_it(
    start_worker: StartWorker, tasks: Tasks, nats_client: NatsClient
) -> None:
    told: list[tuple[str, str]] = []

    async def listen(message: Msg) -> None:
        event = json.loads(message.data)
        if event["event_type"] == "started" or event.get("step") == event.get("steps", 0):
            told.append((event["task_id"], event["event_type"]))

    await nats_client.subscribe("feed.>", cb=listen)
    await nats_client.subscribe("progress.>", cb=listen)
    await start_worker(max_rows=2)  # with guidance, one picture
    task_ids = [f"t{number}" for number in range(4)]
    for task_id in task_ids:
        await tasks.publish(task_id, steps=10)
    for task_id in task_ids:
        await tasks.wait_for(task_id, "finished")
    assert told == [(task_id, kind) for task_id in task_ids for kind in ("started", "progress")]


async def test_tasks_share_forward_passes_and_their_events_tell_where_the_time_went(
    start_worker: StartWorker, tasks: Tasks
) -> None:
    await start_worker(max_rows=8)
    await tasks.publish("first", steps=150)
    await tasks.wait_for("first", "started")
    await tasks.publish("second", steps=2)
    second = await tasks.wait_for("second", "finished")
    first = await tasks.wait_for("first", "finished")

    assert second.sequence < first.sequence
    for finished in (first.event, second.event):
        assert isinstance(finished, FinishedEvent)
        assert finished.timings is not None
        assert finished.timings.denoise_s > 0
    assert isinstance(first.event, FinishedEvent)
    assert first.event.timings is not None
    assert first.event.timings.load_s > 0


async def test_a_model_is_loaded_while_tasks_of_another_run(start_worker: StartWorker, tasks: Tasks) -> None:
    await start_worker(max_rows=8)
    await tasks.publish("running", model="tiny", steps=400)
    await tasks.wait_for("running", "started")
    await tasks.publish("other", model="other")
    other, running = await tasks.wait_for("other", "finished"), await tasks.wait_for("running", "finished")
    assert other.sequence < running.sequence


async def test_models_to_preload_are_resident_before_jobs_are_taken(start_worker: StartWorker, tasks: Tasks) -> None:
    await tasks.publish("t", model="tiny")
    await start_worker(preload_models=("tiny", "absent"), max_rows=8)
    finished = (await tasks.wait_for("t", "finished")).event
    assert isinstance(finished, FinishedEvent)
    assert finished.timings is not None
    assert finished.timings.load_s == 0


async def test_where_the_operator_wants_it_all_tasks_are_deterministic(start_worker: StartWorker, tasks: Tasks) -> None:
    await start_worker(deterministic=True)
    await tasks.publish("t")
    finished = (await tasks.wait_for("t", "finished")).event
    assert isinstance(finished, FinishedEvent)
    assert finished.result.parameters_used.deterministic


async def test_jobs_of_the_model_in_use_are_taken_before_older_ones_of_another(
    start_worker: StartWorker, tasks: Tasks
) -> None:
    await start_worker(max_rows=2)
    await tasks.publish("warm", model="tiny")
    await tasks.wait_for("warm", "finished")
    await tasks.publish("busy", model="tiny", steps=60)
    await tasks.wait_for("busy", "started")
    await tasks.publish("foreign", model="other")
    await tasks.publish("same", model="tiny")
    foreign, same = await tasks.wait_for("foreign", "finished"), await tasks.wait_for("same", "finished")
    assert same.sequence < foreign.sequence


async def test_a_model_that_waited_too_long_is_taken_first(start_worker: StartWorker, tasks: Tasks) -> None:
    await start_worker(model_swap_after_s=0.0, max_rows=2)
    await tasks.publish("busy", model="tiny", steps=60)
    await tasks.wait_for("busy", "started")
    await tasks.publish("same", model="tiny")
    await tasks.publish("foreign", model="other")
    foreign, same = await tasks.wait_for("foreign", "finished"), await tasks.wait_for("same", "finished")
    assert foreign.sequence < same.sequence


async def test_a_worker_that_stops_hands_a_job_that_it_has_not_started_to_another(
    start_worker: StartWorker, tasks: Tasks, nats_client: NatsClient
) -> None:
    worker = await start_worker(max_rows=2)
    await tasks.publish("running", steps=100)
    await tasks.wait_until_begun("running")
    await tasks.publish("queued")
    await worker.stop()
    assert (await tasks.events("running"))[-1].event.event_type == "finished"
    puller = Puller(nats_client, JOBS, model_key("tiny"))
    await puller.start()
    job = await puller.next(PATIENCE_S)
    assert job is not None
    assert b'"queued"' in job.data
    assert await tasks.events("queued") == []
    await puller.close()
    await worker.stop()  # again: nothing happens


async def test_a_drain_that_takes_too_long_hands_the_running_task_back(start_worker: StartWorker, tasks: Tasks) -> None:
    worker = await start_worker("slow", drain_timeout_s=0.0)
    await tasks.publish("long", steps=400)
    await tasks.wait_until_begun("long")
    await worker.stop()
    await start_worker("fresh")
    started = [event.event for event in await tasks.events("long") if isinstance(event.event, StartedEvent)]
    assert [(event.worker, event.attempt) for event in started][:1] == [("slow", 1)]
    last = await tasks.wait_for("long", "finished")
    assert isinstance(last.event, FinishedEvent)
    assert (last.event.worker, last.event.attempt) == ("fresh", 1)  # handed back, it cost none


async def test_an_attempt_that_breaks_its_workers_device_counts(
    start_worker: StartWorker, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = await start_worker("broken", preload_models=("tiny",))

    def fail(*_: object) -> None:
        raise DeviceUnavailable("Device 'cuda' has failed: restart the worker")

    def fail_in_a_pass(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    unet = broken._engine._engine._models.get("tiny").pipeline.components["unet"]  # type: ignore[union-attr]
    unet.register_forward_pre_hook(fail_in_a_pass)
    monkeypatch.setattr("sd_worker.engine.resident_models.check_device", fail)
    await tasks.publish("t")
    await tasks.wait_for("t", "started")
    await start_worker("sound")
    finished = (await tasks.wait_for("t", "finished")).event
    assert isinstance(finished, FinishedEvent)
    assert (finished.worker, finished.attempt) == ("sound", 2)


async def test_a_worker_stopped_while_it_changes_model_loses_no_job(
    start_worker: StartWorker, tasks: Tasks, nats_client: NatsClient
) -> None:
    """An idle worker has a pull open for the model used last; it is told to stop just as a job of another comes."""
    for number in range(12):
        worker = await start_worker(f"stopped-{number}")
        await tasks.publish(f"home-{number}", model="tiny")
        await tasks.wait_for(f"home-{number}", "finished")
        await tasks.publish(f"away-{number}", model="other")
        for _ in range(number):
            await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE_S):
            await worker.stop()
        if not await tasks.events(f"away-{number}"):
            puller = Puller(nats_client, JOBS, model_key("other"))
            await tasks.queue.create_consumer(ModelLane(model_key("other"), "rest"))
            await puller.start()
            job = await puller.next(5)  # far below ack_wait
            assert job is not None, number
            await job.ack_sync()
            await puller.close()
        else:
            assert (await tasks.events(f"away-{number}"))[-1].event.event_type == "finished"


async def test_a_job_that_was_handed_back_does_not_starve_behind_the_backlog_of_another_model(
    start_worker: StartWorker, tasks: Tasks, nats_client: NatsClient
) -> None:
    await tasks.publish("handed-back", model="other")
    puller = Puller(nats_client, JOBS, model_key("other"))
    await tasks.queue.create_consumer(ModelLane(model_key("other"), "rest"))
    await puller.start()
    job = await puller.next(PATIENCE_S)
    assert job is not None
    await start_worker(model_swap_after_s=0.5)
    for number in range(60):
        await tasks.publish(f"backlog-{number}", model="tiny", steps=10)
    await tasks.wait_for("backlog-0", "finished")
    await job.nak()
    await puller.close()
    handed_back = await tasks.wait_for("handed-back", "finished")
    last_of_backlog = await tasks.wait_for("backlog-59", "finished")
    assert handed_back.sequence < last_of_backlog.sequence


async def test_a_picture_is_stored_when_the_store_comes_back(
    provisioned: NatsSettings, tasks: Tasks, model_dir: Path, tmp_path: Path
) -> None:
    server = S3Server(tmp_path, "test", "0123456789abcdef0123")
    server.start()
    settings = server.minio_settings("pictures")
    async with S3Client(settings) as s3, BlobStore(settings) as blobs:
        await create_bucket(s3)
        server.kill()
        worker = WorkerApp(worker_settings(model_dir), provisioned, settings)
        await worker.start()
        job = await tasks.publish("stored-late")
        await tasks.wait_for("stored-late", "started")
        server.start()
        await tasks.wait_for("stored-late", "finished")
        assert (await blobs.get(job.blob_id)).content_type == "image/png"
        await worker.stop()
    server.terminate()


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
