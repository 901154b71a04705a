"""A part that is away: what needs it is refused at once, and told when to try again; the rest goes on."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import time
import uuid
from collections.abc import Iterator

import pytest
from integration.common.makers import new_job
from integration.gateway.conftest import StartGateway

from sd_auth.app import AuthApp
from sd_common import nats_client as nats_client_module
from sd_common.blob_ids import new_blob_id
from sd_common.blob_store import BlobStore
from sd_common.errors import Unavailable
from sd_common.job_queue import JobQueue
from sd_common.nats_client import NatsClient
from sd_common.provision import provision_streams
from sd_common.s3_client import MinioSettings, Patience
from sd_common.streams import StreamSettings
from sd_common.subjects import TaskRef
from sd_embedded.nats_server import NatsServer as EmbeddedNatsServer
from sd_embedded.s3_server import S3Server
from sd_gateway import auth_client
from sd_gateway.app import GatewayApp
from support.client import Answered, Client
from support.jobs import num_jobs
from support.metrics import scrape
from support.pictures import data_url, png
from support.servers import NatsServer, own_s3_server
from support.waiting import PATIENCE_S, once

_TASK = {"prompt": "x", "model": "shapes"}
#: Less than a call is tried again for, with all that a loaded machine adds to a second.
_AT_ONCE_S = 10.0


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with own_s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


def _img2img() -> dict[str, str]:
    return {**_TASK, "initial_image": data_url(png())}


async def _missing(client: Client) -> set[str]:
    answer = await client.get("/readyz")
    missing = set(answer.json.get("missing", ()))
    assert answer.status == (503 if missing else 200)
    return missing


async def _num_checks(app: GatewayApp) -> float:
    """How often S3 was asked whether it is there."""
    page = await scrape(f"http://127.0.0.1:{app.health_port}/metrics")
    return page.value("sd_s3_request_seconds_count", operation="check_available")


async def _until_missing(client: Client, *parts: str) -> None:
    """Return once these are missing, and no others. On a busy machine a part may not answer in time now and then."""
    await once(lambda: _missing(client), lambda missing: missing == set(parts))


def _assert_unavailable(answer: Answered, part: str) -> None:
    assert answer.status == 503, answer.body
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.json["detail"] == f"{part} does not answer at the moment: try again in a few seconds"


# NATS


async def test_without_nats_every_call_with_a_token_is_refused_at_once_and_the_rest_goes_on(
    client: Client, nats_server: NatsServer
) -> None:
    task_id = await client.submit(**_TASK)
    blob_url = await client.upload(png())
    await asyncio.to_thread(nats_server.kill)
    for _ in range(2):
        started = time.monotonic()
        refused = await asyncio.gather(
            client.post("/task", json=_TASK),
            client.post("/task", json=_TASK, headers={"Idempotency-Key": "key"}),
            client.get(f"/task/{task_id}"),
            client.delete(f"/task/{task_id}"),
            client.get("/txt2img", params=_TASK),
            client.post("/token/all"),
            client.post("/blob", data={"blob_data": io.BytesIO(png())}),
            client.get("/models"),
        )
        assert time.monotonic() - started < _AT_ONCE_S
        for answer in refused:
            _assert_unavailable(answer, "The message broker")
    for path in ("/healthz", "/docs", "/openapi.json"):
        assert (await client.get(path)).status == 200
    assert (await client.get(blob_url)).body == png()
    await _until_missing(client, "nats")
    assert (await client.get("/readyz")).json == {"status": "unavailable", "missing": {"nats": "unavailable"}}
    nats_server.start()


async def test_many_who_ask_whether_all_parts_are_there_cause_few_checks(start_gateway: StartGateway) -> None:
    """Anybody may ask, and a check takes one of the threads that read pictures."""
    app, url = await start_gateway(health_port=0)
    before = await _num_checks(app)
    started = time.monotonic()
    async with Client(url) as client:
        for _ in range(3):
            assert await asyncio.gather(*(_missing(client) for _ in range(100))) == [set()] * 100
    num_checks = await _num_checks(app) - before
    assert 3 <= num_checks <= 2 * (time.monotonic() - started) + 2


async def test_a_nats_server_that_stands_still_is_told_of(client: Client, nats_server: NatsServer) -> None:
    """Its connections are up."""
    if not isinstance(nats_server, EmbeddedNatsServer):
        pytest.skip("the server is in a container")
    os.kill(nats_server.pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        assert "nats" in await _missing(client)
        assert time.monotonic() - started < _AT_ONCE_S
        await _until_missing(client, "nats")
    finally:
        os.kill(nats_server.pid, signal.SIGCONT)
    await _until_missing(client)


async def test_a_request_waits_for_a_connection_that_was_lost_a_moment_ago(
    monkeypatch: pytest.MonkeyPatch, client: Client, nats_server: NatsServer
) -> None:
    monkeypatch.setattr(nats_client_module, "RECONNECT_WITHIN_S", PATIENCE_S)
    await asyncio.to_thread(nats_server.kill)
    submitting = asyncio.ensure_future(client.submit(**_TASK))
    await _until_missing(client, "nats")
    assert not submitting.done()
    nats_server.start()
    assert (await client.last_event(await submitting))["event_type"] == "pending"


async def test_a_submission_rides_through_a_while_without_its_stream(client: Client, nats_client: NatsClient) -> None:
    """As in a leader change: the connection is up, and nobody answers for the stream."""
    js = nats_client.jetstream()
    await js.delete_stream("JOBS")
    submitting = asyncio.ensure_future(client.submit(**_TASK))
    await _until_missing(client)
    await client.upload(png())
    assert not submitting.done()
    await provision_streams(js, StreamSettings(_env_file=None))
    assert (await client.last_event(await submitting))["event_type"] == "pending"
    assert await num_jobs(nats_client) == 1


# S3


async def _assert_pictures_are_refused(client: Client, blob_url: str) -> None:
    for answer in await asyncio.gather(
        client.get(blob_url),
        client.post("/blob", data={"blob_data": io.BytesIO(png())}),
        client.post("/task", json=_img2img()),
    ):
        _assert_unavailable(answer, "The picture store")


async def test_without_s3_tasks_without_pictures_are_taken(client: Client, s3_server: S3Server) -> None:
    blob_url = await client.upload(png())
    await asyncio.to_thread(s3_server.kill)
    started = time.monotonic()
    await _assert_pictures_are_refused(client, blob_url)
    assert time.monotonic() - started < _AT_ONCE_S
    task_id = await client.submit(**_TASK)
    assert (await client.last_event(task_id))["event_type"] == "pending"
    assert (await client.delete(f"/task/{task_id}")).status == 204
    await _until_missing(client, "s3")
    s3_server.start()
    assert (await client.get_once_there(blob_url)).status == 200


@pytest.fixture
def stopped_s3(s3_server: S3Server) -> Iterator[None]:
    """The S3 server takes connections and does not answer, once it is stopped; it goes on after the test."""
    yield
    os.kill(s3_server.pid, signal.SIGCONT)


@pytest.mark.usefixtures("stopped_s3")
async def test_an_s3_server_that_hangs_is_given_up_in_bounded_time(client: Client, s3_server: S3Server) -> None:
    blob_url = await client.upload(png())
    os.kill(s3_server.pid, signal.SIGSTOP)
    started = time.monotonic()
    await _assert_pictures_are_refused(client, blob_url)
    assert time.monotonic() - started < _AT_ONCE_S
    await client.submit(**_TASK)
    await _until_missing(client, "s3")
    os.kill(s3_server.pid, signal.SIGCONT)
    assert (await client.get_once_there(blob_url)).body == png()


@pytest.mark.usefixtures("stopped_s3")
async def test_no_call_waits_for_long_behind_others_that_hang(
    minio_settings: MinioSettings, s3_server: S3Server
) -> None:
    """More calls than there may be transfers at once."""
    patience = Patience(read_timeout_s=1.0, call_timeout_s=1.5)
    async with BlobStore(minio_settings, patience) as blobs:
        os.kill(s3_server.pid, signal.SIGSTOP)
        started = time.monotonic()
        calls = (blobs.get(new_blob_id()) for _ in range(400))
        refused = await asyncio.gather(*calls, return_exceptions=True)
        assert time.monotonic() - started < 1.5 + _AT_ONCE_S
    assert {type(error) for error in refused} == {Unavailable}


# auth


async def test_a_gateway_that_was_started_without_auth_misses_auth_alone(
    start_gateway: StartGateway, auth: AuthApp
) -> None:
    await auth.stop()
    app, url = await start_gateway(until_ready=False)
    async with Client(url) as client, asyncio.timeout(PATIENCE_S):
        await _until_missing(client, "auth")
        await auth.start()
        await app.ready()
        await _until_missing(client)


async def test_without_auth_tokens_are_verified_and_tasks_taken(
    client: Client, auth: AuthApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth_client, "_TIMEOUT_S", PATIENCE_S)
    await auth.stop()
    await client.submit(**_TASK)
    await client.upload(png())
    await _until_missing(client)
    started = time.monotonic()
    _assert_unavailable(await client.post("/token/all"), "The auth service")
    _assert_unavailable(
        await client.post("/token", data={"username": "alice", "password": "x" * 8}), "The auth service"
    )
    assert time.monotonic() - started < _AT_ONCE_S


# The queue


async def test_a_full_queue_says_when_to_try_again_and_others_are_taken(
    client: Client, nats_client: NatsClient
) -> None:
    await provision_streams(nats_client.jetstream(), StreamSettings(_env_file=None, jobs_max_per_model=2))
    for _ in range(3):  # one waits in the lane `first`, the others fill `next`
        await client.submit(**_TASK)
    for refused in (await client.post("/task", json=_TASK), await client.get("/txt2img", params=_TASK)):
        assert refused.status == 429
        assert int(refused.headers["Retry-After"]) > 0
        assert refused.json["detail"].startswith("The queue of model 'shapes' is full: try again when")
    await client.submit(**{**_TASK, "model": "another"})


async def test_a_task_that_has_aged_out_is_told_as_such(client: Client, nats_client: NatsClient) -> None:
    task_id = await client.submit(**_TASK)
    await client.delete(f"/task/{task_id}")
    await nats_client.jetstream().purge_stream("EVENTS")
    for answer in (await client.get(f"/task/{task_id}"), await client.delete(f"/task/{task_id}")):
        assert answer.status == 404
        assert answer.json["detail"] == f"You have no task '{task_id}', or it has aged out"


async def _assert_not_denied_until_aborted(client: Client, task_id: str) -> None:
    answer = await client.get(f"/task/{task_id}")
    assert answer.status == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.json["detail"].startswith(f"Task '{task_id}' is queued or running, but its log has no event until")
    for _ in range(2):  # again is no error
        assert (await client.delete(f"/task/{task_id}")).status == 204
    assert (await client.last_event(task_id))["event_type"] == "aborted"


async def test_an_accepted_task_of_which_the_log_does_not_tell_is_not_denied(
    client: Client, nats_client: NatsClient
) -> None:
    """NATS went away between its job and its first event; or it has waited for longer than events are kept."""
    other, task_id = [await client.submit(**_TASK) for _ in range(2)]
    await nats_client.jetstream().purge_stream("EVENTS")
    await _assert_not_denied_until_aborted(client, task_id)
    assert await num_jobs(nats_client) == 1
    assert (await client.get(f"/task/{other}")).status == 503


async def test_a_task_that_another_gateway_accepted_and_of_which_the_log_does_not_tell_is_not_denied(
    client: Client, nats_client: NatsClient
) -> None:
    user, session = client.user_and_session
    for _ in range(2):  # jobs are read from where the last reading ended
        ref = TaskRef(user, session, str(uuid.uuid4()))
        await JobQueue(nats_client).publish(new_job(ref))
        await _assert_not_denied_until_aborted(client, ref.task_id)
    assert await num_jobs(nats_client) == 0
    assert (await client.get(f"/task/{uuid.uuid4()}")).status == 404


async def test_a_visitor_aborts_a_task_of_a_former_session_of_which_the_log_does_not_tell(
    client: Client, nats_client: NatsClient
) -> None:
    task_id = await client.submit(**_TASK)
    await client.take_public_token()
    await nats_client.jetstream().purge_stream("EVENTS")
    await _assert_not_denied_until_aborted(client, task_id)
