"""In which lane of its model's queue a submitted task's job waits."""

from __future__ import annotations

import asyncio

import pytest

from sd_common.auth_messages import PUBLIC_USER
from sd_common.blob_store import BlobStore
from sd_common.job_queue import JobQueue
from sd_common.lanes import Lane
from sd_common.nats_client import NatsClient
from sd_common.nats_settings import NatsSettings
from sd_common.parameters import Img2ImgParameters, Txt2ImgParameters
from sd_common.subjects import parse_jobs_subject
from sd_common.task_log import TaskLog
from sd_gateway.authn import Identity
from sd_gateway.byte_budget import ByteBudget
from sd_gateway.event_feed import EventFeed
from sd_gateway.input_pictures import InputPictures
from sd_gateway.remote_pictures import RemotePictures
from sd_gateway.settings import GatewaySettings
from sd_gateway.submit import Submitter, new_task
from sd_gateway.unfinished_tasks import UnfinishedTasks
from support.pictures import data_url, png


@pytest.fixture
def submitter(provisioned: NatsSettings, nats_client: NatsClient, blob_store: BlobStore) -> Submitter:
    settings = GatewaySettings(_env_file=None, base_url="http://gateway.test")
    queue, task_log = JobQueue(nats_client), TaskLog(nats_client)
    unfinished_tasks = UnfinishedTasks(nats_client, queue, EventFeed(nats_client, task_log), max_per_holder=0)
    remote, budget = RemotePictures("off", 0, 0.0), ByteBudget(0, "bodies")
    input_pictures = InputPictures(blob_store, remote, budget, settings.base_url, settings)
    return Submitter(queue, task_log, input_pictures, unfinished_tasks, settings)


async def _lanes(client: NatsClient, num_jobs: int) -> list[Lane]:
    """In the order of the queue."""
    js = client.jetstream()
    subjects = [(await js.get_msg("JOBS", seq=sequence)).subject for sequence in range(1, num_jobs + 1)]
    return [parse_jobs_subject(str(subject)).lane for subject in subjects]


async def test_the_more_unfinished_tasks_a_user_has_the_later_is_the_lane_of_one_more(
    submitter: Submitter, nats_client: NatsClient
) -> None:
    for user, num_tasks in (("heavy", 10), ("light", 1)):
        for _ in range(num_tasks):
            ref = new_task(Identity(user=user, session="session"))
            await submitter.submit(ref, Txt2ImgParameters(prompt="x", model="shapes"))
    assert await _lanes(nats_client, 11) == ["first", *["next"] * 7, "rest", "rest", "first"]


async def test_a_visitor_does_not_wait_behind_the_tasks_of_others_who_use_public_tokens(
    submitter: Submitter, nats_client: NatsClient
) -> None:
    for session, num_tasks in (("heavy", 10), ("light", 1)):
        for _ in range(num_tasks):
            ref = new_task(Identity(user=PUBLIC_USER, session=session))
            await submitter.submit(ref, Txt2ImgParameters(prompt="x", model="shapes"))
    assert await _lanes(nats_client, 11) == ["first", *["next"] * 7, "rest", "rest", "first"]


async def test_a_user_has_no_turns_more_by_logging_in_again(submitter: Submitter, nats_client: NatsClient) -> None:
    for session in ("one", "another"):
        ref = new_task(Identity(user="alice", session=session))
        await submitter.submit(ref, Txt2ImgParameters(prompt="x", model="shapes"))
    assert await _lanes(nats_client, 2) == ["first", "next"]


async def test_tasks_that_are_submitted_at_once_are_in_the_lanes_of_tasks_one_after_the_other(
    submitter: Submitter, nats_client: NatsClient
) -> None:
    """Their pictures are stored before they are queued: all count by then."""
    parameters = Img2ImgParameters(prompt="x", model="shapes", initial_image=data_url(png()))
    refs = [new_task(Identity(user="hasty", session="session")) for _ in range(10)]
    await asyncio.gather(*(submitter.submit(ref, parameters) for ref in refs))
    assert sorted(await _lanes(nats_client, 10)) == ["first", *["next"] * 7, "rest", "rest"]
