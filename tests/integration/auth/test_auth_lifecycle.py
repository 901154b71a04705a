"""Starting, stopping, and what happens when NATS is away."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.request
from typing import Any

import nats.errors
import pytest

from sd_auth.app import AuthApp
from sd_auth.service import MAX_REQUESTS_AT_ONCE
from sd_common.auth_messages import JWKS, SERVICE_NAME, PublicKeys
from sd_common.nats_client import NatsClient
from sd_common.nats_settings import NatsSettings
from sd_common.provision import provision_streams
from sd_common.streams import StreamSettings
from support.auth_requests import Refused, StartAuth, ask, create_auth_settings, log_in, sign_up
from support.metrics import scrape
from support.servers import NatsServer

_DEADLINE_S = 20.0


async def _readyz(app: AuthApp) -> tuple[int, dict[str, Any]]:
    def get() -> tuple[int, dict[str, Any]]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{app.health_port}/readyz", timeout=10) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    return await asyncio.to_thread(get)


async def _until_answered(client: NatsClient) -> None:
    """Return when the service answers again."""
    async with asyncio.timeout(_DEADLINE_S):
        while True:
            try:
                await ask(client, JWKS, PublicKeys, timeout_s=0.2)
            except (nats.errors.Error, TimeoutError):
                await asyncio.sleep(0.02)  # nobody is there to be waited for
            else:
                return


async def test_the_service_resumes_after_nats_crashed(
    auth: AuthApp, nats_server: NatsServer, nats_client: NatsClient
) -> None:
    await sign_up(nats_client, "alice")
    nats_server.kill()
    nats_server.start()
    await _until_answered(nats_client)
    await log_in(nats_client, "alice")
    await sign_up(nats_client, "bob")


async def test_the_service_starts_before_nats_does(nats_server: NatsServer, nats_settings: NatsSettings) -> None:
    nats_server.terminate()
    app = AuthApp(create_auth_settings(health_port=0), nats_settings)
    starting = asyncio.create_task(app.start())
    await asyncio.sleep(0)  # it runs up to where it waits for NATS
    assert await _readyz(app) == (503, {"status": "unavailable", "missing": {"nats": "not connected"}})
    nats_server.start()
    async with asyncio.timeout(_DEADLINE_S):
        await starting
    await app.stop()


async def test_a_start_that_is_cancelled_leaves_nothing(nats_server: NatsServer, nats_settings: NatsSettings) -> None:
    nats_server.terminate()
    app = AuthApp(create_auth_settings(health_port=0), nats_settings)
    starting = asyncio.create_task(app.start())
    await asyncio.sleep(0)  # it runs up to where it waits for NATS
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await app.stop()
    with pytest.raises(urllib.error.URLError):
        await _readyz(app)


async def test_the_service_starts_before_the_bucket_is_there(
    nats_settings: NatsSettings, start_auth: StartAuth, nats_client: NatsClient
) -> None:
    app = await start_auth(create_auth_settings(health_port=0))
    with pytest.raises(Refused) as refused:
        await sign_up(nats_client, "alice")
    assert refused.value.code == "503"
    status, body = await _readyz(app)
    assert status == 503
    assert "python -m sd_common.provision" in body["missing"]["users"]

    await provision_streams(nats_client.jetstream(), StreamSettings(_env_file=None))
    assert await _readyz(app) == (200, {"status": "ok"})
    await sign_up(nats_client, "alice")


async def test_a_bucket_that_does_not_answer_is_told(auth: AuthApp, nats_client: NatsClient) -> None:
    await sign_up(nats_client, "alice")
    await nats_client.jetstream().delete_stream("KV_users")
    with pytest.raises(Refused) as refused:
        await log_in(nats_client, "alice")
    assert refused.value.code == "503"
    assert "try again" in refused.value.sentence


@pytest.mark.parametrize("num_loop_turns", [0, 2, 4, 6, 8, 10])
async def test_stopping_one_of_two_replicas_loses_no_request(
    num_loop_turns: int, auth: AuthApp, start_auth: StartAuth, nats_client: NatsClient
) -> None:
    """The requests of a burst are at every place between client and handler when the replica stops."""
    await start_auth(create_auth_settings())
    requests = [asyncio.create_task(ask(nats_client, JWKS, PublicKeys)) for _ in range(80)]
    for _ in range(num_loop_turns):
        await asyncio.sleep(0)
    await auth.stop()
    assert len(await asyncio.gather(*requests)) == 80


async def test_stop_returns_soon_while_nats_is_away(auth: AuthApp, nats_server: NatsServer) -> None:
    nats_server.kill()
    started_at = time.monotonic()
    await auth.stop()
    assert time.monotonic() - started_at < 10


async def test_stop_can_be_repeated(auth: AuthApp) -> None:
    await auth.stop()
    await auth.stop()


async def test_too_many_requests_at_once_are_refused_rather_than_kept_waiting(
    provisioned: NatsSettings, start_auth: StartAuth, nats_client: NatsClient
) -> None:
    auth = await start_auth(create_auth_settings(health_port=0))
    answers = await asyncio.gather(*(log_in(nats_client, f"user{n}") for n in range(160)), return_exceptions=True)
    codes = [answer.code for answer in answers if isinstance(answer, Refused)]
    assert len(codes) == 160
    assert set(codes) == {"401", "503"}
    assert codes.count("401") >= MAX_REQUESTS_AT_ONCE
    page = await scrape(f"http://127.0.0.1:{auth.health_port}/metrics")
    for outcome, code in (("refused", "401"), ("failed", "503")):  # operators see a short service by what has failed
        assert page.value("sd_auth_requests_total", operation="log_in", outcome=outcome) == codes.count(code)


async def test_the_service_is_found_by_its_name(auth: AuthApp, nats_client: NatsClient) -> None:
    """`nats micro info auth` of the NATS command line asks this way."""
    info = json.loads((await nats_client.request(f"$SRV.INFO.{SERVICE_NAME}", b"", timeout=5)).data)
    endpoints = {(each["subject"], each["queue_group"]) for each in info["endpoints"]}
    operations = ("sign_up", "log_in", "public_token", "link_token", "revoke", "jwks")
    assert endpoints == {(f"auth.{operation}", "auth") for operation in operations}


async def test_the_page_for_prometheus_counts_requests_and_tells_of_the_buckets(
    provisioned: NatsSettings, start_auth: StartAuth, nats_client: NatsClient
) -> None:
    auth = await start_auth(create_auth_settings(health_port=0))
    await sign_up(nats_client, "alice")
    with pytest.raises(Refused):
        await sign_up(nats_client, "alice")
    page = await scrape(f"http://127.0.0.1:{auth.health_port}/metrics")
    assert page.value("sd_auth_requests_total", operation="sign_up", outcome="ok") == 1
    assert page.value("sd_auth_requests_total", operation="sign_up", outcome="refused") == 1
    assert page.value("sd_auth_request_seconds_count", operation="sign_up") == 2
    assert page.value("sd_part_ready", part="users") == 1
    assert "sd_s3_" not in page.text
    assert "alice" not in page.text
