"""Tokens that are revoked, as the auth service stores and tells them."""

from __future__ import annotations

import asyncio
import json

import pytest
from nats.aio.msg import Msg

from sd_auth.app import AuthApp
from sd_auth.tokens import Tokens
from sd_common import subjects
from sd_common.auth_messages import PUBLIC_TOKEN, REVOKE, AccessToken, RevokedToken
from sd_common.nats_client import NatsClient
from sd_common.nats_settings import NatsSettings
from sd_common.streams import REVOKED_TOKENS_BUCKET
from support.auth_requests import Refused, StartAuth, ask, create_auth_settings, revoke


async def test_a_revoked_token_is_stored_and_told_once_it_is(auth: AuthApp, nats_client: NatsClient) -> None:
    told: asyncio.Queue[Msg] = asyncio.Queue()
    await nats_client.subscribe(subjects.REVOKED_TOKENS, cb=told.put)
    token = await ask(nats_client, PUBLIC_TOKEN, AccessToken)
    revoked = await revoke(nats_client, token)
    message = await asyncio.wait_for(told.get(), 10)
    assert message.subject == f"revoked_tokens.{revoked.token_id}"
    assert RevokedToken.model_validate_json(message.data) == revoked
    bucket = await nats_client.jetstream().key_value(REVOKED_TOKENS_BUCKET)
    assert RevokedToken.model_validate_json((await bucket.get(revoked.token_id)).value or b"") == revoked


async def test_an_entry_lives_a_little_longer_than_its_token(auth: AuthApp, nats_client: NatsClient) -> None:
    token = await ask(nats_client, PUBLIC_TOKEN, AccessToken)
    revoked = await revoke(nats_client, token)
    message = await nats_client.jetstream().get_last_msg("KV_revoked_tokens", f"$KV.revoked_tokens.{revoked.token_id}")
    life_s = int((message.headers or {})["Nats-TTL"])
    assert token.expires_in <= life_s <= token.expires_in + 60


async def test_a_token_is_revoked_once(auth: AuthApp, nats_client: NatsClient) -> None:
    token = await ask(nats_client, PUBLIC_TOKEN, AccessToken)
    assert len({await revoke(nats_client, token) for _ in range(3)}) == 1
    assert (await nats_client.jetstream().stream_info("KV_revoked_tokens")).state.messages == 1


async def test_what_this_service_has_not_signed_cannot_be_revoked(auth: AuthApp, nats_client: NatsClient) -> None:
    """Else anybody on the broker could fill the bucket, for ever."""
    other = Tokens(create_auth_settings(secret_key="some other secret key of 32 characters").secret_key, [], 240)
    with pytest.raises(Refused) as refused:
        await revoke(nats_client, other.mint("alice"))
    assert (refused.value.code, refused.value.sentence) == ("401", "The token is not valid or has expired")
    with pytest.raises(Refused) as refused:
        await ask(nats_client, REVOKE, RevokedToken, json.dumps({"token": "secret " * 1000}).encode())
    assert refused.value.code == "422"
    assert "secret" not in refused.value.sentence


async def test_without_the_bucket_it_is_said_that_nothing_was_revoked(auth: AuthApp, nats_client: NatsClient) -> None:
    token = await ask(nats_client, PUBLIC_TOKEN, AccessToken)
    await nats_client.jetstream().delete_stream("KV_revoked_tokens")
    with pytest.raises(Refused) as refused:
        await revoke(nats_client, token)
    assert refused.value.code == "503"


async def test_tokens_of_previous_secrets_can_be_revoked(
    provisioned: NatsSettings, start_auth: StartAuth, nats_client: NatsClient
) -> None:
    old = "the secret of yesterday: it is long enough"
    await start_auth(create_auth_settings(secret_key_previous=old))
    token = Tokens(create_auth_settings(secret_key=old).secret_key, [], 240).mint("alice")
    assert (await revoke(nats_client, token)).token_id
