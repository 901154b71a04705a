"""What a worker does with jobs, also with those that publishers publish straight onto NATS."""

from __future__ import annotations

import io
import json

from integration.worker.conftest import BASE_URL, OWN_DEFAULTS, StartWorker, Tasks
from PIL import Image

from sd_common import subjects
from sd_common.blob_ids import new_blob_id
from sd_common.blob_store import BlobStore
from sd_common.events import FinishedEvent
from sd_common.nats_client import NatsClient
from sd_common.subjects import jobs_of
from support.metrics import scrape_until


async def test_a_job_of_a_publisher_gets_its_picture_and_all_its_events(
    start_worker: StartWorker, tasks: Tasks, blob_store: BlobStore
) -> None:
    await start_worker()
    job = await tasks.publish("t1", seed=3)
    last = await tasks.wait_for("t1", "finished")
    assert await tasks.event_types("t1") == ["pending", "started", "finished"]
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


async def test_tasks_share_forward_passes_and_their_events_tell_where_the_time_went(
    start_worker: StartWorker, tasks: Tasks
) -> None:
    await start_worker(max_rows=8)
    await tasks.publish("first", steps=300)
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
