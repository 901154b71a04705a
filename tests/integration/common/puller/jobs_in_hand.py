"""What tests of pullers look at."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from integration.common.makers import KEY
from nats.aio.msg import Msg

from sd_common.jobs import Job
from sd_common.nats_client import NatsClient
from sd_common.puller import Puller
from sd_common.streams import DEFAULT_ACK_WAIT_S, JOBS

#: Seconds in which a job is in hand. Far below DEFAULT_ACK_WAIT_S, after which a lost one would come again.
SOON_S = 10.0
assert SOON_S < DEFAULT_ACK_WAIT_S

OpenPuller = Callable[[], Awaitable[Puller]]


def task_id(message: Msg | None) -> str:
    """Of the job's task. There must be one."""
    assert message is not None
    return Job.model_validate_json(message.data).task_id


async def num_given_out(client: NatsClient) -> int:
    """Jobs that somebody was given and has not acknowledged."""
    return (await client.jetstream().consumer_info(JOBS, KEY)).num_ack_pending or 0


async def num_pulls_waiting(client: NatsClient) -> int:
    """Pulls that found no job yet."""
    return (await client.jetstream().consumer_info(JOBS, KEY)).num_waiting or 0
