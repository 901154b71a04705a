"""What tests look at in JOBS."""

from __future__ import annotations

from sd_common.nats_client import NatsClient
from sd_common.streams import JOBS
from support.waiting import PATIENCE_S, once

#: Subjects that whoever may publish `jobs.*` can publish to, and that are of no lane: some only look like filters.
STRAY_SUBJECTS = ("jobs.evil!", "jobs.*", "jobs.>", "jobs.ä", f"jobs.{'a' * 65}")


async def num_jobs(client: NatsClient) -> int:
    """Jobs in the queue, waiting and running."""
    return (await client.jetstream().stream_info(JOBS)).state.messages


async def until_no_jobs(client: NatsClient, within_s: float = PATIENCE_S) -> None:
    """Return when the queue is empty: jobs are acknowledged after the last event of their task."""
    await once(lambda: num_jobs(client), lambda num: num == 0, within_s)
