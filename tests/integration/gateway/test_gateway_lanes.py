"""In which lane of its model's queue a submitted task's job waits."""

from __future__ import annotations

from sd_common.blob_store import BlobStore
from sd_common.job_queue import JobQueue
from sd_common.nats_client import NatsClient
from sd_common.parameters import Txt2ImgParameters
from sd_common.settings import NatsSettings
from sd_common.subjects import jobs_of
from sd_common.task_log import TaskLog
from sd_gateway.authn import Identity
from sd_gateway.event_feed import EventFeed
from sd_gateway.input_pictures import InputPictures
from sd_gateway.settings import GatewaySettings
from sd_gateway.submit import Submitter, new_task
from sd_gateway.unfinished_tasks import UnfinishedTasks


async def test_the_more_unfinished_tasks_a_user_has_the_later_is_the_lane_of_one_more(
    provisioned: NatsSettings, nats_client: NatsClient, blob_store: BlobStore
) -> None:
    settings = GatewaySettings(_env_file=None, base_url="http://gateway.test")
    queue, task_log = JobQueue(nats_client), TaskLog(nats_client)
    unfinished_tasks = UnfinishedTasks(nats_client, queue, EventFeed(nats_client, task_log), max_per_user=0)
    input_pictures = InputPictures(blob_store, settings.base_url, settings)
    submitter = Submitter(queue, task_log, input_pictures, unfinished_tasks, settings)
    for user, num_tasks in (("heavy", 10), ("light", 1)):
        for _ in range(num_tasks):
            identity = Identity(user=user, session="session")
            await submitter.submit(new_task(identity), Txt2ImgParameters(prompt="x", model="shapes"))
    js = nats_client.jetstream()
    lanes = [(await js.get_msg("JOBS", seq=sequence)).subject for sequence in range(1, 12)]
    first, following, rest = (jobs_of("shapes", lane) for lane in ("first", "next", "rest"))
    assert lanes == [first, *[following] * 7, rest, rest, first]
