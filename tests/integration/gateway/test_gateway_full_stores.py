"""A store is full: what must be stored is refused with 503 and told when to come again, and the rest goes on."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from sd_common.nats_client import NatsClient
from sd_common.nats_settings import NatsSettings
from sd_common.provision import provision_streams
from sd_common.s3_client import MinioSettings
from support.client import Answered, Client
from support.jobs import num_jobs
from support.pictures import data_url, noise_png
from support.servers import NatsServer
from support.small_stores import (
    SMALL_STREAMS,
    Limited,
    SmallS3Server,
    fill,
    make_room,
    small_nats_server,
    small_s3_server,
)

_TASK = {"prompt": "x", "model": "shapes"}
_KEY = {"Idempotency-Key": "key"}


@pytest.fixture(params=["server", "account"])
def nats_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NatsServer]:
    limited: Limited = request.param
    with small_nats_server(tmp_path, limited) as server:
        yield server


@pytest_asyncio.fixture
async def provisioned(nats_client: NatsClient, nats_settings: NatsSettings) -> NatsSettings:
    await provision_streams(nats_client.jetstream(), SMALL_STREAMS)
    return nats_settings


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallS3Server]:
    with small_s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


_PICTURE = noise_png(900)


def _assert_told(answer: Answered, detail: str) -> None:
    assert answer.status == 503, answer.body
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.json["detail"] == detail


async def test_with_nats_full_submissions_and_cancels_are_refused_until_there_is_room(
    client: Client, nats_client: NatsClient
) -> None:
    task_id = await client.submit(**_TASK)
    await fill(nats_client)
    for answer in (
        await client.post("/task", json=_TASK),
        await client.post("/task", json=_TASK, headers=_KEY),
        await client.get("/txt2img", params=_TASK),
        await client.delete(f"/task/{task_id}"),
        await client.post("/user", json={"username": "bob", "password": "x" * 8}),
    ):
        _assert_told(answer, "The message broker has no room left at the moment: try again in a minute")
    assert await num_jobs(nats_client) == 1
    assert (await client.last_event(task_id))["event_type"] == "pending"
    assert (await client.get_once_there("/readyz")).status == 200, "what can be read is read"
    await make_room(nats_client.jetstream())
    accepted = await client.post("/task", json=_TASK, headers=_KEY)
    assert (await client.last_event(accepted.json))["event_type"] == "pending"
    assert (await client.delete(f"/task/{task_id}")).status == 204


@pytest.mark.parametrize("nats_server", ["server"], indirect=True)
async def test_with_the_picture_store_full_pictures_are_refused_and_the_rest_goes_on(
    client: Client, s3_server: SmallS3Server, minio_settings: MinioSettings
) -> None:
    blob_url = await client.upload(_PICTURE)
    await s3_server.fill(minio_settings)
    for answer in (
        await client.post("/blob", data={"blob_data": io.BytesIO(_PICTURE)}),
        await client.post("/task", json={**_TASK, "initial_image": data_url(_PICTURE)}),
    ):
        # SeaweedFS does not say why.
        _assert_told(answer, "The picture store does not answer at the moment: try again in a few seconds")
    assert (await client.get(blob_url)).status == 200
    await client.submit(**_TASK)
    await asyncio.to_thread(s3_server.give_room)
    await client.upload(_PICTURE)
