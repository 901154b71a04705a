"""In which lane of its model's queue a submitted task's job waits."""

from __future__ import annotations

from collections import Counter

from sd_common.blob_store import BlobStore
from sd_common.job_queue import JobQueue
from sd_common.nats_client import NatsClient
from sd_common.parameters import Txt2ImgParameters
from sd_common.settings import NatsSettings
from sd_common.subjects import jobs_of
from sd_common.task_log import TaskLog
from sd_gateway.authn import Identity
from sd_gateway.input_pictures import InputPictures
from sd_gateway.settings import GatewaySettings
from sd_gateway.submit import Submitter, new_task


async def test_the_more_unfinished_tasks_a_user_has_the_later_is_the_lane_of_one_more(
    provisioned: NatsSettings, nats_client: NatsClient, blob_store: BlobStore
) -> None:
    settings = GatewaySettings(_env_file=None, base_url="http://gateway.test")
    num_unfinished = Counter[str]()
    submitter = Submitter(
        JobQueue(nats_client),
        TaskLog(nats_client),
        InputPictures(blob_store, settings.base_url, settings),
        lambda user: num_unfinished[user],
        settings,
    )
    for user, num_tasks in (("heavy", 10), ("light", 1)):
        for _ in range(num_tasks):
            identity = Identity(user=user, session="session")
            await submitter.submit(new_task(identity), Txt2ImgParameters(prompt="x", model="shapes"))
            num_unfinished[user] += 1
    js = nats_client.jetstream()
    lanes = [(await js.get_msg("JOBS", seq=sequence)).subject for sequence in range(1, 12)]
    first, following, rest = (jobs_of("shapes", lane) for lane in ("first", "next", "rest"))
    assert lanes == [first, *[following] * 7, rest, rest, first]
