"""What tests look at in JOBS."""

from __future__ import annotations

from sd_common.nats_client import NatsClient
from sd_common.streams import JOBS

#: Subjects that whoever may publish `jobs.*` can publish to, and that are of no lane: some only look like filters.
STRAY_SUBJECTS = ("jobs.evil!", "jobs.*", "jobs.>", "jobs.ä", f"jobs.{'a' * 65}")


async def num_jobs(client: NatsClient) -> int:
    """Jobs in the queue, waiting and running."""
    return (await client.jetstream().stream_info(JOBS)).state.messages
