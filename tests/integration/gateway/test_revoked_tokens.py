"""Tokens that end before their time, or at it: at every gateway, and on open websockets."""

from __future__ import annotations

import asyncio
from typing import NoReturn

import aiohttp
import pytest
from integration.gateway.conftest import StartAuth, StartGateway
from pydantic import SecretStr

from sd_auth.app import AuthApp
from sd_auth.tokens import Tokens
from sd_common.auth_messages import LEEWAY_S
from sd_common.errors import Unavailable
from sd_common.nats_client import NatsClient
from sd_common.nats_settings import NatsSettings
from sd_common.stream_reader import StreamReader
from sd_gateway import revoked_tokens
from sd_gateway.revoked_tokens import RevokedTokens
from support.client import Client
from support.nats_proxy import NatsProxy
from support.servers import NatsServer, nats_settings_of
from support.waiting import once

_SOON_S = 20.0


async def _is_refused(base_url: str, token: str | None) -> bool:
    """Whether the gateway refuses the token, rather than know no such task."""
    async with Client(base_url, token) as client:
        answer = await client.get_once_there("/task/none")
        assert answer.status in (401, 404), answer.body
        return answer.status == 401


async def _until_refused(base_url: str, token: str | None) -> None:
    await once(lambda: _is_refused(base_url, token), bool, _SOON_S)


async def _close_of(socket: aiohttp.ClientWebSocketResponse) -> tuple[int, str]:
    """How the other end closes the websocket."""
    message = await socket.receive(_SOON_S)
    assert message.type is aiohttp.WSMsgType.CLOSE
    return message.data, str(message.extra)


async def test_a_revoked_token_is_refused_at_once_where_it_was_revoked(client: Client) -> None:
    answer = await client.delete("/token")
    assert (answer.status, answer.body) == (204, b"")
    answer = await client.get("/task/none")
    assert answer.status == 401
    assert answer.json["detail"] == "The token was revoked: get a new one at POST /token"
    assert (await client.delete("/token")).status == 401


async def test_a_revoked_token_is_refused_at_every_gateway_and_its_websockets_are_closed(
    client: Client, start_gateway: StartGateway
) -> None:
    _, other_url = await start_gateway()
    async with Client(other_url, client.token) as other, client.events() as here, other.events() as there:
        assert (await client.delete("/token")).status == 204
        for events in (here, there):
            assert await _close_of(events.socket) == (1008, "The token was revoked: get a new one at POST /token")
        assert await _is_refused(other_url, client.token)
        async with other.events() as again:
            assert (await _close_of(again.socket))[0] == 1008


async def test_other_tokens_of_the_user_stay_valid(client: Client) -> None:
    await client.sign_up_and_log_in("ada")
    first_token = client.token
    answer = await client.post("/token", data={"username": "ada", "password": "correct horse"})
    async with Client(client.base_url, answer.json["access_token"]) as second, second.events() as events:
        assert (await client.delete("/token")).status == 204
        assert await _is_refused(client.base_url, first_token)
        assert not await _is_refused(client.base_url, second.token)
        await second.delete("/token")
        assert (await _close_of(events.socket))[0] == 1008


async def test_only_a_valid_token_can_be_revoked(client: Client) -> None:
    client.token = None
    assert (await client.delete("/token")).status == 401
    client.token = "junk"
    assert (await client.delete("/token")).status == 401


async def test_revocations_survive_restarts_of_nats_auth_and_gateways(
    client: Client, start_gateway: StartGateway, start_auth: StartAuth, auth: AuthApp, nats_server: NatsServer
) -> None:
    assert (await client.delete("/token")).status == 204
    nats_server.terminate()
    nats_server.start()
    await _until_refused(client.base_url, client.token)
    assert (await client.post_once_there("/token/all")).status == 200
    await auth.stop()
    await start_auth()
    _, new_url = await start_gateway()
    assert await _is_refused(new_url, client.token)


async def test_a_gateway_that_was_cut_off_catches_up(
    client: Client, start_gateway: StartGateway, nats_server: NatsServer
) -> None:
    async with NatsProxy(nats_settings_of(nats_server, "gateway")) as proxy:
        gateway, cut_off_url = await start_gateway(proxy.settings)
        async with Client(cut_off_url, client.token) as cut_off, cut_off.events() as events:
            await proxy.cut()
            assert (await client.delete("/token")).status == 204
            await proxy.mend()
            assert await _close_of(events.socket) == (1008, "The token was revoked: get a new one at POST /token")
            assert await _is_refused(cut_off_url, client.token)
        await gateway.stop()


async def test_a_gateway_that_is_cut_off_accepts_no_token(
    start_gateway: StartGateway, nats_server: NatsServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures can be stored without NATS; the token may have been revoked meanwhile, though."""
    monkeypatch.setattr(revoked_tokens, "_KNOWN_WITHIN_S", 0.5)
    async with NatsProxy(nats_settings_of(nats_server, "gateway")) as proxy:
        gateway, cut_off_url = await start_gateway(proxy.settings)
        await proxy.cut()
        async with Client(cut_off_url, client.token) as cut_off:
            answer = await cut_off.post("/blob")
        assert answer.status == 503
        assert answer.headers["Retry-After"]
        monkeypatch.undo()
        await proxy.mend()
        await gateway.ready()
        assert not await _is_refused(cut_off_url, client.token)
        await gateway.stop()


async def test_nothing_is_known_before_the_bucket_was_read(
    nats_client: NatsClient, provisioned: NatsSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revoked_tokens, "_KNOWN_WITHIN_S", 0.0)
    known = RevokedTokens(nats_client)
    with pytest.raises(Unavailable):
        await known.is_revoked("any")
    monkeypatch.undo()
    await known.start()
    assert not await known.is_revoked("any")
    known.stop()


async def test_a_reading_that_fails_for_whatever_reason_is_not_the_last(
    nats_client: NatsClient, provisioned: NatsSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_failed = asyncio.Event()

    def fail(*_: object) -> NoReturn:
        has_failed.set()
        raise RuntimeError

    known = RevokedTokens(nats_client)
    with monkeypatch.context() as failing:
        failing.setattr(StreamReader, "replay", fail)
        starting = asyncio.ensure_future(known.start())
        await has_failed.wait()
    await starting
    assert not await known.is_revoked("any")
    known.stop()


async def test_an_expired_token_closes_its_websockets(client: Client, secret_key: SecretStr) -> None:
    client.token = Tokens(secret_key, [], expire_minutes=0).mint("ada").access_token
    async with client.events() as events, asyncio.timeout(LEEWAY_S + _SOON_S):
        assert await _close_of(events.socket) == (1008, "The token has expired: get a new one at POST /token")
    assert await _is_refused(client.base_url, client.token)


async def test_tokens_of_a_previous_secret_stay_valid_and_can_be_revoked(
    client: Client, auth: AuthApp, start_auth: StartAuth, start_gateway: StartGateway, secret_key: SecretStr
) -> None:
    await auth.stop()
    new_secret = SecretStr("the new secret key, of more than 32 characters")
    await start_auth(secret_key=new_secret, secret_key_previous=secret_key)
    _, base_url = await start_gateway()
    async with Client(base_url) as new:
        await new.take_public_token()
        assert not await _is_refused(base_url, new.token)
        new.token = client.token
        assert not await _is_refused(base_url, client.token)
        assert (await new.delete("/token")).status == 204
        await _until_refused(client.base_url, client.token)
