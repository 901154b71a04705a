"""Tokens, as those who verify them see them."""

from __future__ import annotations

import time
from typing import Any

import jwt
import pytest

from sd_auth.app import AuthApp
from sd_common.auth_messages import (
    AUDIENCE,
    ISSUER,
    JWKS,
    LINK_TOKEN,
    PUBLIC_TOKEN,
    AccessToken,
    PublicKeys,
)
from sd_common.nats_client import NatsClient
from sd_common.nats_settings import NatsSettings
from sd_common.subjects import check_token
from support.auth_requests import Refused, StartAuth, ask, create_auth_settings, log_in, sign_up


async def _public_keys(client: NatsClient) -> PublicKeys:
    return await ask(client, JWKS, PublicKeys)


def _verified(token: AccessToken, keys: PublicKeys) -> dict[str, Any]:
    """The claims, verified as a service would that knows nothing but the keys."""
    key_set = jwt.PyJWKSet.from_json(keys.model_dump_json())
    key = key_set[jwt.get_unverified_header(token.access_token)["kid"]]
    required = ["iss", "aud", "sub", "sid", "jti", "iat", "exp"]
    claims: dict[str, Any] = jwt.decode(
        token.access_token, key, algorithms=["EdDSA"], audience=AUDIENCE, issuer=ISSUER, options={"require": required}
    )
    return claims


async def test_claims_verify_with_the_published_key(auth: AuthApp, nats_client: NatsClient) -> None:
    await sign_up(nats_client, "alice")
    token = await log_in(nats_client, "alice")
    claims = _verified(token, await _public_keys(nats_client))
    assert claims["sub"] == "alice"
    assert claims["exp"] - claims["iat"] == token.expires_in
    assert abs(claims["iat"] - time.time()) < 30
    check_token(claims["sid"])  # stands in subjects


async def test_each_token_is_a_session_of_its_own(auth: AuthApp, nats_client: NatsClient) -> None:
    keys = await _public_keys(nats_client)
    tokens = [await ask(nats_client, PUBLIC_TOKEN, AccessToken) for _ in range(3)]
    claims = [_verified(token, keys) for token in tokens]
    assert {each["sub"] for each in claims} == {"all"}
    assert len({each["sid"] for each in claims}) == 3
    assert len({each["jti"] for each in claims}) == 3


async def test_each_link_token_is_of_a_user_of_its_own(auth: AuthApp, nats_client: NatsClient) -> None:
    keys = await _public_keys(nats_client)
    users = {_verified(await ask(nats_client, LINK_TOKEN, AccessToken), keys)["sub"] for _ in range(2)}
    assert len(users) == 2
    assert all(user.startswith("default_") and check_token(user) for user in users)


@pytest.mark.parametrize(
    ("subject", "sentence"),
    [
        (PUBLIC_TOKEN, "Public access is disabled: the operator can set ENABLE_PUBLIC_ACCESS=1"),
        (LINK_TOKEN, "The link with a token is disabled: the operator can set PRINT_LINK_WITH_TOKEN=1"),
    ],
)
async def test_tokens_without_a_password_can_be_disabled(
    subject: str, sentence: str, provisioned: NatsSettings, start_auth: StartAuth, nats_client: NatsClient
) -> None:
    await start_auth(create_auth_settings(enable_public_access=False, print_link_with_token=False))
    with pytest.raises(Refused) as refused:
        await ask(nats_client, subject, AccessToken)
    assert (refused.value.code, refused.value.sentence) == ("403", sentence)


async def test_replicas_with_the_same_secret_agree(
    auth: AuthApp, start_auth: StartAuth, nats_client: NatsClient
) -> None:
    token = await ask(nats_client, PUBLIC_TOKEN, AccessToken)
    keys = await _public_keys(nats_client)
    await start_auth(create_auth_settings())
    await auth.stop()  # from here on the second replica answers
    assert await _public_keys(nats_client) == keys
    assert _verified(token, await _public_keys(nats_client))["sub"] == "all"


async def test_another_secret_verifies_no_token_of_the_first(
    auth: AuthApp, start_auth: StartAuth, nats_client: NatsClient
) -> None:
    token = await ask(nats_client, PUBLIC_TOKEN, AccessToken)
    await auth.stop()
    await start_auth(create_auth_settings(secret_key="some other secret key of 32 characters"))
    keys = await _public_keys(nats_client)
    with pytest.raises(KeyError):  # no key of this id
        _verified(token, keys)
    [key] = jwt.PyJWKSet.from_json(keys.model_dump_json()).keys
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(token.access_token, key, algorithms=["EdDSA"], audience=AUDIENCE)
