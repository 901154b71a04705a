"""The JOBS stream on a real nats-server."""

from __future__ import annotations

import asyncio

import pytest
from integration.common.makers import KEY, MODEL, REST, new_job, new_ref
from nats.js.errors import NotFoundError

from sd_common import streams
from sd_common.errors import QueueFull
from sd_common.job_queue import JobQueue, Stray
from sd_common.jobs import Job, JobHead
from sd_common.messages import now
from sd_common.nats_client import NatsClient
from sd_common.nats_settings import NatsSettings
from sd_common.provision import provision_streams
from sd_common.streams import StreamSettings, jobs_stream
from sd_common.subjects import ModelLane, TaskRef
from sd_common.tracing import continued_trace
from support.jobs import STRAY_SUBJECTS, num_jobs
from support.waiting import PATIENCE_S

_TRACE = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}


def _capped_at(jobs_max_per_model: int) -> StreamSettings:
    return StreamSettings(_env_file=None, jobs_max_per_model=jobs_max_per_model)


async def test_a_job_stands_in_the_stream_as_it_was_published(queue: JobQueue, nats_client: NatsClient) -> None:
    job = new_job()
    with continued_trace(_TRACE):
        sequence = await queue.publish(job)
    stored = await nats_client.jetstream().get_msg("JOBS", seq=sequence)
    assert stored.subject == f"jobs.{KEY}"
    assert Job.model_validate_json(stored.data or b"") == job
    assert stored.headers is not None
    assert stored.headers["Nats-Msg-Id"] == f"{job.user}.{job.session}.{job.task_id}"
    assert stored.headers["traceparent"] == _TRACE["traceparent"]


async def test_a_job_that_is_published_again_is_one_job(queue: JobQueue, nats_client: NatsClient) -> None:
    job = new_job()
    sequences = await asyncio.gather(*(queue.publish(job) for _ in range(10)))
    assert len(set(sequences)) == 1
    assert await num_jobs(nats_client) == 1


async def test_tasks_of_others_with_the_same_id_have_jobs_of_their_own(queue: JobQueue) -> None:
    """Services choose ids: `invoice-17` may be anybody's."""
    refs = [TaskRef(*whose, "invoice-17") for whose in (("alice", "a"), ("alice", "b"), ("bob", "a"))]
    sequences = [await queue.publish(new_job(ref)) for ref in (*refs, *refs)]
    assert sequences == [1, 2, 3, 1, 2, 3]
    assert [await queue.find(ref) for ref in refs] == [1, 2, 3]
    assert await queue.find(TaskRef("bob", "b", "invoice-17")) is None


async def test_a_full_queue_refuses_and_other_models_are_not_concerned(
    nats_client: NatsClient,
) -> None:
    await provision_streams(nats_client.jetstream(), _capped_at(2))
    queue = JobQueue(nats_client)
    first, _ = [await queue.publish(new_job()) for _ in range(2)]
    with pytest.raises(QueueFull, match=f"The queue of model '{MODEL}' is full"):
        await queue.publish(new_job())
    await queue.publish(new_job(model="another"))
    await queue.delete(first)
    await queue.publish(new_job())


async def test_a_retried_job_is_answered_though_the_queue_is_full_by_now(
    nats_client: NatsClient,
) -> None:
    """Its first try was stored; the answer was lost."""
    await provision_streams(nats_client.jetstream(), _capped_at(1))
    queue = JobQueue(nats_client)
    job = new_job()
    assert await queue.publish(job) == await queue.publish(job)


async def test_a_deleted_job_is_gone_and_deleting_it_again_is_no_error(
    queue: JobQueue, nats_client: NatsClient
) -> None:
    sequence = await queue.publish(new_job())
    kept = await queue.publish(new_job())
    for _ in range(2):
        await queue.delete(sequence)
    with pytest.raises(NotFoundError):
        await nats_client.jetstream().get_msg("JOBS", seq=sequence)
    await queue.delete(kept + 1000)
    assert await num_jobs(nats_client) == 1


async def test_a_stream_that_misses_is_an_error_and_not_an_empty_queue(nats_client: NatsClient) -> None:
    queue = JobQueue(nats_client)
    with pytest.raises(NotFoundError):
        await queue.backlog("worker")
    with pytest.raises(NotFoundError):
        await queue.delete(1)


async def test_the_backlog_tells_how_long_the_first_job_that_waits_has_waited(queue: JobQueue) -> None:
    assert (await queue.backlog("asker")).lanes == []
    await queue.publish(new_job(model="another"))
    first, second = [await queue.backlog("asker") for _ in range(2)]
    [before], [after] = first.lanes, second.lanes
    assert first.worker == "asker"
    assert abs((first.time - now()).total_seconds()) < 60
    assert (before.num_jobs, before.num_waiting) == (1, 1)
    passed_s = (second.time - first.time).total_seconds()
    assert after.oldest_wait_s - before.oldest_wait_s == pytest.approx(passed_s, abs=1e-5)
    await queue.publish(new_job())
    models = {model.model_key: model for model in (await queue.backlog("asker")).lanes}
    assert models[KEY].oldest_wait_s < models[before.model_key].oldest_wait_s


async def test_messages_of_no_lane_are_in_no_backlog_and_are_told_apart(
    queue: JobQueue, nats_client: NatsClient
) -> None:
    strays = [Stray(subject, await _publish_raw(nats_client, subject)) for subject in STRAY_SUBJECTS]
    job = new_job()
    await queue.publish(job)
    assert [lane.model_key for lane in (await queue.backlog("asker")).lanes] == [KEY]
    *found, head = [head async for _, head in queue.heads()]
    assert found == strays
    assert isinstance(head, JobHead)
    assert head.ref == job.ref


async def _publish_raw(client: NatsClient, subject: str) -> int:
    return (await client.jetstream().publish(subject, b"{}")).seq


async def test_a_consumer_that_nobody_uses_goes_and_one_whose_job_is_in_progress_stays(
    nats_client: NatsClient, provisioned: NatsSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "CONSUMER_IDLE_S", 2.0)
    js, queue = nats_client.jetstream(), JobQueue(nats_client, ack_wait_s=3.0)
    await queue.create_consumer(REST)
    await queue.publish(new_job())
    subscription = await js.pull_subscribe_bind(KEY, "JOBS")
    [running] = await subscription.fetch(1)
    for number in range(2):  # each lives for longer than half of ack_wait
        unused = ModelLane(f"unused-{number}", "rest")
        await _publish_raw(nats_client, unused.jobs)
        await queue.create_consumer(unused)
        async with asyncio.timeout(PATIENCE_S):
            while await _has_consumer(nats_client, unused):
                await running.in_progress()
    [_, _, model] = sorted((await queue.backlog("asker")).lanes, key=lambda lane: lane.num_waiting, reverse=True)
    assert (model.model_key, model.num_jobs, model.num_waiting) == (KEY, 1, 0)
    await running.ack_sync()
    assert KEY not in [lane.model_key for lane in (await queue.backlog("asker")).lanes]


async def _has_consumer(client: NatsClient, lane: ModelLane) -> bool:
    return lane.model_key in [consumer.name for consumer in await client.jetstream().consumers_info("JOBS")]


async def test_a_lane_that_can_have_no_consumer_is_left_out_alone(nats_client: NatsClient) -> None:
    await nats_client.jetstream().add_stream(jobs_stream(_capped_at(10)).evolve(max_consumers=1))
    queue = JobQueue(nats_client)
    await queue.create_consumer(REST)
    for model in (MODEL, *(f"made-up-{number}" for number in range(5))):
        await queue.publish(new_job(model=model))
    assert [lane.model_key for lane in (await queue.backlog("asker")).lanes] == [KEY]


async def test_a_job_that_somebody_was_given_does_not_wait(queue: JobQueue, nats_client: NatsClient) -> None:
    await queue.create_consumer(REST)
    await queue.publish(new_job())
    subscription = await nats_client.jetstream().pull_subscribe_bind(KEY, "JOBS")
    [running] = await subscription.fetch(1)
    [model] = (await queue.backlog("asker")).lanes
    assert (model.num_jobs, model.num_waiting, model.oldest_wait_s) == (1, 0, 0)
    await queue.publish(new_job())
    [model] = (await queue.backlog("asker")).lanes
    assert (model.num_jobs, model.num_waiting) == (2, 1)
    assert model.oldest_wait_s > 0
    await running.ack_sync()


async def test_submissions_at_once_each_get_a_job_of_their_own(queue: JobQueue) -> None:
    jobs = [new_job(new_ref(user=f"user-{number}")) for number in range(300)]
    sequences = await asyncio.gather(*map(queue.publish, jobs))
    assert sorted(sequences) == list(range(1, 301))
