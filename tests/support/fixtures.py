"""Fixtures that all test folders share. Registered by `pytest_plugins` in `tests/conftest.py`.

A nats-server starts in some 0.05 s: each test gets its own. The S3 server is the session's; each test gets a bucket.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from sd_common.blob_store import BlobStore
from sd_common.nats_client import NatsClient
from sd_common.nats_settings import NatsSettings
from sd_common.picture_bucket import create_bucket
from sd_common.provision import provision_streams
from sd_common.s3_client import MinioSettings, S3Client
from sd_common.streams import StreamSettings
from support import servers
from support.connections import connected
from support.nats_cluster import NUM_NODES, nats_cluster
from support.servers import NatsServer, S3Server, nats_settings_of
from support.waiting import once


@pytest.fixture(scope="session")
def backend() -> str:
    """Where servers run: `docker` or `local`."""
    return servers.backend()


@pytest.fixture
def nats_server(backend: str) -> Iterator[NatsServer]:
    """A nats-server with an empty JetStream; where it runs locally, with the users of the services. Tests may kill it,
    and start it again."""
    with servers.nats_server(on=backend) if backend == "docker" else servers.nats_server_with_users() as server:
        yield server


@pytest.fixture
def nats_settings(nats_server: NatsServer) -> NatsSettings:
    """Settings that lead to the test's nats-server, with all rights."""
    return nats_settings_of(nats_server)


@pytest_asyncio.fixture
async def nats_client(nats_settings: NatsSettings) -> AsyncIterator[NatsClient]:
    """A connection to the test's nats-server."""
    async with connected(nats_settings) as client:
        yield client


@pytest_asyncio.fixture
async def provisioned(nats_client: NatsClient, nats_settings: NatsSettings) -> NatsSettings:
    """Settings that lead to the test's nats-server, with the streams and the bucket of users made."""
    await provision_streams(nats_client.jetstream(), StreamSettings(_env_file=None))
    return nats_settings


@pytest.fixture(scope="session")
def s3_server(backend: str) -> Iterator[S3Server]:
    """The S3 server of the test session."""
    with servers.s3_server(on=backend) as server:
        yield server


@pytest_asyncio.fixture
async def minio_settings(s3_server: S3Server) -> MinioSettings:
    """Settings that lead to an empty bucket of the test's own."""
    settings = s3_server.minio_settings(f"test-{secrets.token_hex(8)}")
    async with S3Client(settings) as s3:
        await create_bucket(s3)
    return settings


@pytest_asyncio.fixture
async def blob_store(minio_settings: MinioSettings) -> AsyncIterator[BlobStore]:
    """The blobs of the test's bucket."""
    async with BlobStore(minio_settings) as blobs:
        yield blobs


@pytest_asyncio.fixture
async def cluster_clients() -> AsyncIterator[list[NatsClient]]:
    """One at each node of a cluster that keeps three copies of the streams."""
    async with AsyncExitStack() as stack:
        cluster = stack.enter_context(nats_cluster())
        nodes = cluster.nodes.values()
        clients = [await stack.enter_async_context(connected(nats_settings_of(node))) for node in nodes]
        settings = StreamSettings(_env_file=None, nats_replicas=NUM_NODES)

        async def are_provisioned() -> bool:
            try:
                await provision_streams(clients[0].jetstream(timeout=10), settings)
            except TimeoutError:  # of a request that came while the nodes changed their leader: nobody answers it
                return False
            return True

        await once(are_provisioned, bool, within_s=120)
        yield clients
