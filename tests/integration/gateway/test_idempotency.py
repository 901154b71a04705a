"""`Idempotency-Key`, on a real nats-server: what is submitted again is one task."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from integration.gateway.conftest import StartGateway
from integration.gateway.hostile_servers import network, say_nothing
from nats.js.errors import BucketNotFoundError

from sd_common.job_queue import JobQueue
from sd_common.jobs import Job
from sd_common.nats_client import NatsClient
from sd_common.parameters import Txt2ImgParameters
from sd_common.provision import provision_streams
from sd_common.streams import StreamSettings
from sd_common.task_log import TaskLog
from sd_gateway.authn import Identity
from sd_gateway.idempotency_keys import IdempotencyKeys
from sd_gateway.idempotent_submit import digest_of
from support.client import Answered, Client
from support.jobs import num_jobs
from support.waiting import PATIENCE_S, until

_TASK = {"params_type": "txt2img", "prompt": "x", "model": "shapes"}
_PARAMETERS = Txt2ImgParameters(**_TASK)
_KEY = "2f1c7c1e-7d59-4b0e-9a55-53a2a2f3c6de"


async def _post(client: Client, key: str = _KEY, task: Any = None) -> Answered:
    return await client.post("/task", json=task or _TASK, headers={"Idempotency-Key": key})


async def _submit(client: Client, key: str = _KEY, task: Any = None) -> str:
    answer = await _post(client, key, task)
    assert answer.status == 200, answer.body
    assert answer.headers["Location"] == f"/task/{answer.json}"
    return str(answer.json)


async def _told(nats: NatsClient) -> list[tuple[str, str]]:
    events = TaskLog(nats).replay("events.>", 0)
    return [(logged.ref.task_id, logged.event.event_type) async for logged in events]


async def test_the_same_key_and_body_name_the_same_task_also_at_other_gateways_and_after_a_restart(
    start_gateway: StartGateway, nats_client: NatsClient
) -> None:
    first, url = await start_gateway()
    _, other_url = await start_gateway()
    async with Client(url) as client, Client(other_url) as other:
        task_ids = [await _submit(client), await _submit(client), await _submit(other)]
    await first.stop()
    _, url = await start_gateway()
    async with Client(url) as client:
        task_ids.append(await _submit(client))
    assert len(set(task_ids)) == 1
    assert await num_jobs(nats_client) == 1
    assert await _told(nats_client) == [(task_ids[0], "pending")]


async def test_a_renewed_token_names_the_same_task(start_gateway: StartGateway, nats_client: NatsClient) -> None:
    _, url = await start_gateway()
    async with Client(url) as client:
        await client.take_public_token()
        task_id = await _submit(client)
        await client.take_public_token()
        assert await _submit(client) == task_id
    assert await num_jobs(nats_client) == 1


async def test_concurrent_duplicates_are_one_task(start_gateway: StartGateway, nats_client: NatsClient) -> None:
    urls = [(await start_gateway())[1] for _ in range(2)]
    async with Client(urls[0]) as client, Client(urls[1]) as other:
        for number in range(20):
            task_ids = await asyncio.gather(*(_submit(each, f"key-{number}") for each in (client, other) * 5))
            assert len(set(task_ids)) == 1
    assert await num_jobs(nats_client) == 20
    assert [event_type for _, event_type in await _told(nats_client)] == ["pending"] * 20


async def test_another_body_under_the_same_key_is_refused(start_gateway: StartGateway, nats_client: NatsClient) -> None:
    _, url = await start_gateway()
    async with Client(url) as client:
        task_id = await _submit(client)
        refused = await _post(client, task={**_TASK, "steps": 3})
        assert refused.status == 422
        assert refused.json["detail"].startswith("This Idempotency-Key came with another body before: repeat that body")
        assert await _submit(client, "another key", {**_TASK, "steps": 3}) != task_id
    assert await num_jobs(nats_client) == 2


async def test_a_body_is_the_same_however_it_is_written(start_gateway: StartGateway) -> None:
    _, url = await start_gateway()
    async with Client(url) as client:
        task_id = await _submit(client, task={"prompt": "x", "model": "shapes", "steps": 3})
        written = json.dumps({"steps": 3, "model": "shapes", "params_type": "txt2img", "prompt": "x"}, indent=4)
        headers = {"Idempotency-Key": _KEY, "Content-Type": "application/json"}
        assert (await client.post("/task", data=written, headers=headers)).json == task_id


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\there", "caf\udce9"])
async def test_a_key_that_is_none_is_refused(start_gateway: StartGateway, nats_client: NatsClient, key: str) -> None:
    _, url = await start_gateway()
    host, _, port = url.removeprefix("http://").partition(":")
    body = json.dumps(_TASK).encode()
    head = f"POST /task HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\nIdempotency-Key: {key}\r\n\r\n"
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(head.encode(errors="surrogateescape") + body)
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 422 ")
    [problem] = json.loads(answer.partition(b"\r\n\r\n")[2])["errors"]
    assert problem == {"field": "Idempotency-Key", "detail": "Must be 1 to 255 printable characters"}
    assert await num_jobs(nats_client) == 0


async def test_a_key_of_255_characters_is_taken(start_gateway: StartGateway) -> None:
    _, url = await start_gateway()
    async with Client(url) as client:
        assert await _submit(client, "k" * 255) == await _submit(client, "k" * 255)


@pytest.mark.parametrize("is_queued", [False, True])
async def test_what_a_gateway_left_half_done_is_done_by_a_repeat(
    start_gateway: StartGateway, nats_client: NatsClient, is_queued: bool
) -> None:
    """It died once the key was recorded, or once the job was queued, before anything was answered."""
    _, url = await start_gateway()
    claim = await IdempotencyKeys(nats_client).claim(Identity("all", "session-1"), _KEY, digest_of(_PARAMETERS))
    if is_queued:
        job = Job(**claim.record.model_dump(exclude={"v", "digest", "is_released"}), parameters=_PARAMETERS)
        await JobQueue(nats_client).publish(job)
    async with Client(url) as client:
        assert await _submit(client) == claim.record.task_id
    assert await num_jobs(nats_client) == 1
    last = await TaskLog(nats_client).last(claim.record.ref)
    assert last is not None
    assert last.event.event_type == "pending"


async def test_a_refused_submission_leaves_the_key_to_any_body(
    start_gateway: StartGateway, nats_client: NatsClient
) -> None:
    _, url = await start_gateway(max_unfinished_tasks_per_user=1)
    img2img = {**_TASK, "params_type": "img2img", "initial_image": f"{url}/blob/abcdefghijklmnopqrstuvwx"}
    async with Client(url) as client:
        assert (await _post(client, task=img2img)).status == 422
        task_id = await _submit(client)
        refused = [await _post(client, "other key", {**_TASK, "steps": steps}) for steps in (1, 2, 1)]
        assert [answer.status for answer in refused] == [429] * 3
        assert await _submit(client) == task_id
        await client.delete(f"/task/{task_id}")
        other = await _submit(client, "other key", {**_TASK, "steps": 3})
        assert await _submit(client, "other key", {**_TASK, "steps": 3}) == other
        assert (await _post(client, "other key")).status == 422
        assert await _submit(client) == task_id
    assert [told for told in await _told(nats_client) if told[1] == "pending"] == [
        (task_id, "pending"),
        (other, "pending"),
    ]


async def test_so_does_one_for_which_too_many_pictures_are_being_fetched(
    start_gateway: StartGateway, nats_client: NatsClient
) -> None:
    async with network() as net:
        net.internet.answers["/silent"] = say_nothing
        _, url = await start_gateway(remote_images="public", remote_images_timeout_s=PATIENCE_S, reach=net.reach)
        silent = {**_TASK, "params_type": "img2img", "initial_image": net.url("/silent")}
        async with Client(url) as client:
            await client.take_public_token()
            async with asyncio.TaskGroup() as fetching:
                slow = [fetching.create_task(client.post("/task", json=silent)) for _ in range(4)]
                await until(lambda: len(net.internet.requests) == len(slow))
                assert (await _post(client, task=silent)).status == 429
                task_id = await _submit(client)
                for each in slow:
                    each.cancel()
            assert await _submit(client) == task_id
    assert await num_jobs(nats_client) == 1


async def test_a_key_of_a_task_that_another_gateway_accepted_is_not_left_to_other_bodies(
    start_gateway: StartGateway, nats_client: NatsClient
) -> None:
    """One gateway refused it, and released the key, while another queued it."""
    _, url = await start_gateway()
    keys = IdempotencyKeys(nats_client)
    claim = await keys.claim(Identity("all", "session-1"), _KEY, digest_of(_PARAMETERS))
    await keys.release(claim)
    async with Client(url) as client:
        task_id = await _submit(client)
        assert task_id == claim.record.task_id
        assert (await _post(client, task={**_TASK, "steps": 3})).status == 422
        assert await _submit(client) == task_id


async def test_a_full_queue_leaves_the_key_too(start_gateway: StartGateway, nats_client: NatsClient) -> None:
    await provision_streams(nats_client.jetstream(), StreamSettings(_env_file=None, jobs_max_per_model=1))
    _, url = await start_gateway()
    async with Client(url) as client:
        await _submit(client, "fills another lane")
        second = await _submit(client)
        assert (await _post(client, "other key")).status == 429
        assert await _submit(client) == second
        await client.delete(f"/task/{second}")
        await _submit(client, "other key", {**_TASK, "steps": 3})


async def test_an_ended_task_is_still_that_of_its_key(start_gateway: StartGateway, nats_client: NatsClient) -> None:
    _, url = await start_gateway()
    async with Client(url) as client:
        task_id = await _submit(client)
        await client.delete(f"/task/{task_id}")
        assert await _submit(client) == task_id
        assert (await client.last_event(task_id))["event_type"] == "aborted"
    assert await num_jobs(nats_client) == 0


async def test_without_the_bucket_tasks_with_a_key_are_refused_and_others_taken(
    start_gateway: StartGateway, nats_client: NatsClient
) -> None:
    """After an upgrade that was not provisioned."""
    js = nats_client.jetstream()
    await js.delete_key_value("idempotency_keys")
    with pytest.raises(BucketNotFoundError):
        await js.key_value("idempotency_keys")
    _, url = await start_gateway()
    async with Client(url) as client:
        assert (await _post(client)).status == 503
        await client.submit(**_TASK)
        await provision_streams(js, StreamSettings(_env_file=None))
        await _submit(client)
