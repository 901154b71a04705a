"""Tokens, verified with real Ed25519 keys. Only the way to the auth service is left out."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from typing import Any

import pytest
from unit.gateway.conftest import Revoked, Signer, assert_refused, base64url, user_of

from sd_common.auth_messages import LEEWAY_S
from sd_common.errors import Unavailable
from sd_gateway.authn import Authenticator, Identity
from sd_gateway.errors import NotAuthenticated


async def test_a_valid_token_tells_the_user_and_the_session(authenticator: Authenticator, signer: Signer) -> None:
    assert await authenticator.identify(signer.token()) == Identity("alice", "session-1")


async def test_an_expired_token_is_refused(authenticator: Authenticator, signer: Signer) -> None:
    await assert_refused(authenticator, signer.token(exp=int(time.time()) - LEEWAY_S - 1))


async def test_clocks_may_differ_by_the_leeway(authenticator: Authenticator, signer: Signer) -> None:
    now = int(time.time())
    assert await user_of(authenticator, signer.token(exp=now - LEEWAY_S + 2)) == "alice"
    assert await user_of(authenticator, signer.token(iat=now + LEEWAY_S - 2)) == "alice"


async def test_a_token_from_the_future_is_refused(authenticator: Authenticator, signer: Signer) -> None:
    await assert_refused(authenticator, signer.token(iat=int(time.time()) + 3600))


async def test_a_revoked_token_is_refused_and_others_of_its_user_are_not(
    authenticator: Authenticator, signer: Signer, revoked: Revoked
) -> None:
    revoked.token_ids.add("1")
    with pytest.raises(NotAuthenticated, match=r"^The token was revoked: get a new one"):
        await authenticator.identify(signer.token(jti="1"))
    assert await user_of(authenticator, signer.token(jti="2")) == "alice"


async def test_no_token_is_accepted_while_it_is_not_known_which_were_revoked(
    authenticator: Authenticator, signer: Signer, revoked: Revoked
) -> None:
    revoked.is_known = False
    with pytest.raises(Unavailable):
        await authenticator.identify(signer.token())


@pytest.mark.parametrize("name", ["iss", "aud", "sub", "sid", "jti", "iat", "exp"])
async def test_a_token_that_misses_a_claim_is_refused(name: str, authenticator: Authenticator, signer: Signer) -> None:
    await assert_refused(authenticator, signer.token(without=name))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("aud", "another-api"),
        ("aud", None),
        ("iss", "stable-diffusion-api/other"),
        ("sub", "a.b"),
        ("sub", "*"),
        ("sub", ""),
        ("sub", 7),
        ("sid", ">"),
        ("sid", "s" * 65),
        ("sid", ["session-1"]),
        ("exp", "soon"),
    ],
)
async def test_a_token_with_a_wrong_claim_is_refused(
    name: str, value: Any, authenticator: Authenticator, signer: Signer
) -> None:
    await assert_refused(authenticator, signer.token(**{name: value}))


async def test_a_token_of_somebody_elses_key_is_refused(authenticator: Authenticator) -> None:
    await assert_refused(authenticator, Signer("key-1").token())


async def test_a_changed_token_is_refused(authenticator: Authenticator, signer: Signer) -> None:
    header, _, signature = signer.token().split(".")
    _, payload, _ = signer.token(sub="mallory").split(".")
    await assert_refused(authenticator, f"{header}.{payload}.{signature}")
    await assert_refused(authenticator, f"{header}.{payload}.")


def _unsigned(header: dict[str, Any], signer: Signer) -> tuple[bytes, str]:
    payload = signer.token().split(".")[1]
    start = f"{base64url(json.dumps(header).encode())}.{payload}"
    return start.encode(), start


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", ""])
async def test_a_token_without_a_signature_is_refused(
    algorithm: str, authenticator: Authenticator, signer: Signer
) -> None:
    _, start = _unsigned({"alg": algorithm, "typ": "JWT", "kid": signer.kid}, signer)
    await assert_refused(authenticator, f"{start}.")
    await assert_refused(authenticator, start)


@pytest.mark.parametrize("algorithm", ["HS256", "EdDSA"])
async def test_a_token_signed_with_the_public_key_as_a_shared_secret_is_refused(
    algorithm: str, authenticator: Authenticator, signer: Signer
) -> None:
    signed, start = _unsigned({"alg": algorithm, "typ": "JWT", "kid": signer.kid}, signer)
    for secret in (signer.raw_public, signer.public.x.encode(), signer.public.model_dump_json().encode()):
        signature = hmac.new(secret, signed, hashlib.sha256).digest()
        await assert_refused(authenticator, f"{start}.{base64url(signature)}")


async def test_a_key_that_the_token_brings_itself_is_not_used(authenticator: Authenticator, signer: Signer) -> None:
    mallory = Signer(signer.kid)
    await assert_refused(authenticator, mallory.token(headers={"jwk": mallory.public.model_dump()}))


@pytest.mark.parametrize(
    "token",
    [
        "",
        "a",
        "a.b",
        "a.b.c",
        "a.b.c.d",
        "..",
        "é.é.é",
        "\udcff.\udcff.\udcff",  # bytes of a header that are not UTF-8
        "\x00",
        "x" * 10_000,
        f"{base64url(b'[' * 10_000)}.a.b",
        f"{base64url(b'[]')}.a.b",
        f"{base64url(b'null')}.a.b",
        f"{base64url(b'{}')}.a.b",
        f"{base64url(json.dumps({'alg': 'EdDSA', 'kid': ['key-1']}).encode())}.a.b",
        f"{base64url(json.dumps({'alg': 'EdDSA', 'kid': 'key-1', 'crit': ['b64'], 'b64': False}).encode())}.a.b",
    ],
)
async def test_what_is_no_token_is_refused(token: str, authenticator: Authenticator) -> None:
    await assert_refused(authenticator, token)
