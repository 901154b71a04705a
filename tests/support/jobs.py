"""What tests look at in JOBS."""

from __future__ import annotations

from sd_common.nats_client import NatsClient
from sd_common.streams import JOBS


async def num_jobs(client: NatsClient) -> int:
    """Jobs in the queue, waiting and running."""
    return (await client.jetstream().stream_info(JOBS)).state.messages
