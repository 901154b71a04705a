"""A submission while the streams change their leader."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest
from integration.gateway.conftest import StartGateway
from pydantic import SecretStr

from sd_auth.app import AuthApp
from sd_auth.settings import AuthSettings
from sd_common.nats_client import NatsClient, connect
from sd_common.provision import provision_streams
from sd_common.streams import JOBS, StreamSettings
from sd_common.task_log import TaskLog
from support.client import Client
from support.jobs import num_jobs
from support.nats_cluster import NUM_NODES, NatsCluster, nats_cluster
from support.servers import nats_settings_of
from support.waiting import PATIENCE_S

#: Seconds for which the leader stands still; the submission may be through before.
_AWAY_S = 10.0


@pytest.fixture
def cluster() -> Iterator[NatsCluster]:
    with nats_cluster() as cluster:
        yield cluster


async def _leader_of_jobs(client: NatsClient) -> str:
    cluster = (await client.jetstream(timeout=30).stream_info(JOBS)).cluster
    assert cluster is not None
    assert cluster.leader is not None
    return cluster.leader


@pytest.mark.timeout(180)
async def test_a_submission_rides_through_ten_seconds_without_its_leader_and_makes_one_task(
    cluster: NatsCluster, start_gateway: StartGateway, secret_key: SecretStr
) -> None:
    some_node = await connect(nats_settings_of(next(iter(cluster.nodes.values()))), "test")
    await provision_streams(some_node.jetstream(timeout=30), StreamSettings(_env_file=None, nats_replicas=NUM_NODES))
    leader = await _leader_of_jobs(some_node)
    await some_node.shut()
    other = nats_settings_of(next(node for name, node in cluster.nodes.items() if name != leader))
    auth_settings = AuthSettings(_env_file=None, health_port=None, secret_key=secret_key, enable_public_access=True)
    auth = AuthApp(auth_settings, other)
    nats = await connect(other, "test")
    try:
        await auth.start()
        _, url = await start_gateway(other)
        async with Client(url) as client, asyncio.timeout(PATIENCE_S):
            await client.take_public_token()
            os.kill(cluster.nodes[leader].pid, signal.SIGSTOP)
            submitting = asyncio.create_task(client.submit(prompt="x", params_type="txt2img", model="tiny"))
            await asyncio.wait([submitting], timeout=_AWAY_S)
            os.kill(cluster.nodes[leader].pid, signal.SIGCONT)
            task_id = await submitting
            assert (await client.last_event(task_id))["event_type"] == "pending"
        assert await num_jobs(nats) == 1
        assert [event.ref.task_id async for event in TaskLog(nats).replay("events.>", 0)] == [task_id]
    finally:
        await nats.shut()
        await auth.stop()
