"""Tokens, verified with real Ed25519 keys. Only the way to the auth service is left out."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from typing import Any, cast

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sd_common.auth_messages import ALGORITHM, AUDIENCE, ISSUER, LEEWAY_S, AccessToken, PublicKey, PublicKeys
from sd_common.errors import Unavailable
from sd_gateway import authn
from sd_gateway.auth_client import AuthClient
from sd_gateway.authn import Authenticator, Identity
from sd_gateway.errors import AccountRefused, NotAuthenticated
from sd_gateway.revoked_tokens import RevokedTokens


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class _Signer:
    """A key pair with a name."""

    def __init__(self, kid: str) -> None:
        self.kid = kid
        self._key = Ed25519PrivateKey.generate()
        self.raw_public = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.public = PublicKey(kid=kid, x=_base64url(self.raw_public))

    def token(self, headers: dict[str, Any] | None = None, without: str | None = None, **changed: Any) -> str:
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "alice",
            "sid": "session-1",
            "jti": "1",
            "iat": now,
            "exp": now + 60,
            **changed,
        }
        if without is not None:
            del claims[without]
        return jwt.encode(claims, self._key, ALGORITHM, headers={"kid": self.kid, **(headers or {})})


class _Auth:
    """The auth service: its keys, and how often it was asked."""

    def __init__(self, *signers: _Signer) -> None:
        self.signers = list(signers)
        self.num_asked = 0
        self.num_public_asked = 0
        self.is_away = False
        self.public: str | None = None

    async def public_keys(self) -> PublicKeys:
        self.num_asked += 1
        await asyncio.sleep(0)  # others run meanwhile, as with a real request
        if self.is_away:
            raise Unavailable("The auth service")
        return PublicKeys(keys=[signer.public for signer in self.signers])

    async def public_token(self) -> AccessToken:
        self.num_public_asked += 1
        await asyncio.sleep(0)
        if self.is_away:
            raise Unavailable("The auth service")
        if self.public is None:
            raise AccountRefused(403, "Public access is not enabled")
        return AccessToken(access_token=self.public, expires_in=60)


class _Revoked:
    """The revoked tokens, as if they had been read."""

    def __init__(self) -> None:
        self.token_ids: set[str] = set()
        self.is_known = True

    async def is_revoked(self, token_id: str) -> bool:
        if not self.is_known:
            raise Unavailable("The message broker")
        return token_id in self.token_ids


class _Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    clock = _Clock()
    monkeypatch.setattr(authn, "time", clock)
    return clock


@pytest.fixture
def signer() -> _Signer:
    return _Signer("key-1")


@pytest.fixture
def auth(signer: _Signer) -> _Auth:
    return _Auth(signer)


@pytest.fixture
def revoked() -> _Revoked:
    return _Revoked()


@pytest.fixture
async def authenticator(auth: _Auth, revoked: _Revoked, clock: _Clock) -> Authenticator:
    authenticator = _create_authenticator(auth, revoked)
    assert not authenticator.has_keys
    await authenticator.fetch_keys()
    assert authenticator.has_keys
    return authenticator


def _create_authenticator(auth: _Auth, revoked: _Revoked) -> Authenticator:
    return Authenticator(cast(AuthClient, auth), cast(RevokedTokens, revoked))


async def _user_of(authenticator: Authenticator, token: str) -> str:
    return (await authenticator.identify(token)).user


async def _assert_refused(authenticator: Authenticator, token: str) -> None:
    with pytest.raises(NotAuthenticated, match=r"^The token is not valid or has expired: get a new one"):
        await authenticator.identify(token)


async def test_a_valid_token_tells_the_user_and_the_session(authenticator: Authenticator, signer: _Signer) -> None:
    assert await authenticator.identify(signer.token()) == Identity("alice", "session-1")


async def test_an_expired_token_is_refused(authenticator: Authenticator, signer: _Signer) -> None:
    await _assert_refused(authenticator, signer.token(exp=int(time.time()) - LEEWAY_S - 1))


async def test_clocks_may_differ_by_the_leeway(authenticator: Authenticator, signer: _Signer) -> None:
    now = int(time.time())
    assert await _user_of(authenticator, signer.token(exp=now - LEEWAY_S + 2)) == "alice"
    assert await _user_of(authenticator, signer.token(iat=now + LEEWAY_S - 2)) == "alice"


async def test_a_token_from_the_future_is_refused(authenticator: Authenticator, signer: _Signer) -> None:
    await _assert_refused(authenticator, signer.token(iat=int(time.time()) + 3600))


async def test_a_revoked_token_is_refused_and_others_of_its_user_are_not(
    authenticator: Authenticator, signer: _Signer, revoked: _Revoked
) -> None:
    revoked.token_ids.add("1")
    with pytest.raises(NotAuthenticated, match=r"^The token was revoked: get a new one"):
        await authenticator.identify(signer.token(jti="1"))
    assert await _user_of(authenticator, signer.token(jti="2")) == "alice"


async def test_no_token_is_accepted_while_it_is_not_known_which_were_revoked(
    authenticator: Authenticator, signer: _Signer, revoked: _Revoked
) -> None:
    revoked.is_known = False
    with pytest.raises(Unavailable):
        await authenticator.identify(signer.token())


@pytest.mark.parametrize("name", ["iss", "aud", "sub", "sid", "jti", "iat", "exp"])
async def test_a_token_that_misses_a_claim_is_refused(name: str, authenticator: Authenticator, signer: _Signer) -> None:
    await _assert_refused(authenticator, signer.token(without=name))


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
    name: str, value: Any, authenticator: Authenticator, signer: _Signer
) -> None:
    await _assert_refused(authenticator, signer.token(**{name: value}))


async def test_a_token_of_somebody_elses_key_is_refused(authenticator: Authenticator) -> None:
    await _assert_refused(authenticator, _Signer("key-1").token())


async def test_a_changed_token_is_refused(authenticator: Authenticator, signer: _Signer) -> None:
    header, _, signature = signer.token().split(".")
    _, payload, _ = signer.token(sub="mallory").split(".")
    await _assert_refused(authenticator, f"{header}.{payload}.{signature}")
    await _assert_refused(authenticator, f"{header}.{payload}.")


def _unsigned(header: dict[str, Any], signer: _Signer) -> tuple[bytes, str]:
    payload = signer.token().split(".")[1]
    start = f"{_base64url(json.dumps(header).encode())}.{payload}"
    return start.encode(), start


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", ""])
async def test_a_token_without_a_signature_is_refused(
    algorithm: str, authenticator: Authenticator, signer: _Signer
) -> None:
    _, start = _unsigned({"alg": algorithm, "typ": "JWT", "kid": signer.kid}, signer)
    await _assert_refused(authenticator, f"{start}.")
    await _assert_refused(authenticator, start)


@pytest.mark.parametrize("algorithm", ["HS256", "EdDSA"])
async def test_a_token_signed_with_the_public_key_as_a_shared_secret_is_refused(
    algorithm: str, authenticator: Authenticator, signer: _Signer
) -> None:
    signed, start = _unsigned({"alg": algorithm, "typ": "JWT", "kid": signer.kid}, signer)
    for secret in (signer.raw_public, signer.public.x.encode(), signer.public.model_dump_json().encode()):
        signature = hmac.new(secret, signed, hashlib.sha256).digest()
        await _assert_refused(authenticator, f"{start}.{_base64url(signature)}")


async def test_a_key_that_the_token_brings_itself_is_not_used(authenticator: Authenticator, signer: _Signer) -> None:
    mallory = _Signer(signer.kid)
    await _assert_refused(authenticator, mallory.token(headers={"jwk": mallory.public.model_dump()}))


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
        f"{_base64url(b'[' * 10_000)}.a.b",
        f"{_base64url(b'[]')}.a.b",
        f"{_base64url(b'null')}.a.b",
        f"{_base64url(b'{}')}.a.b",
        f"{_base64url(json.dumps({'alg': 'EdDSA', 'kid': ['key-1']}).encode())}.a.b",
        f"{_base64url(json.dumps({'alg': 'EdDSA', 'kid': 'key-1', 'crit': ['b64'], 'b64': False}).encode())}.a.b",
    ],
)
async def test_what_is_no_token_is_refused(token: str, authenticator: Authenticator) -> None:
    await _assert_refused(authenticator, token)


# Keys


async def test_the_keys_are_fetched_for_the_first_token(auth: _Auth, signer: _Signer, revoked: _Revoked) -> None:
    authenticator = _create_authenticator(auth, revoked)
    assert await _user_of(authenticator, signer.token()) == "alice"
    assert auth.num_asked == 1


async def test_a_new_key_is_fetched_when_a_token_names_it(
    authenticator: Authenticator, auth: _Auth, clock: _Clock
) -> None:
    new = _Signer("key-2")
    auth.signers.append(new)
    clock.now += 5.1
    assert await _user_of(authenticator, new.token()) == "alice"
    assert auth.num_asked == 2


async def test_a_key_that_was_taken_away_is_forgotten_in_time_though_no_token_names_another(
    authenticator: Authenticator, auth: _Auth, signer: _Signer, clock: _Clock
) -> None:
    auth.signers = [_Signer("key-2")]
    clock.now += 301
    assert await _user_of(authenticator, signer.token()) == "alice"  # it asks for the keys meanwhile
    for _ in range(10):
        await asyncio.sleep(0)
    await _assert_refused(authenticator, signer.token())


async def test_known_keys_go_on_being_good_while_the_auth_service_is_away(
    authenticator: Authenticator, auth: _Auth, signer: _Signer, clock: _Clock
) -> None:
    auth.is_away = True
    clock.now += 301
    for _ in range(10):
        assert await _user_of(authenticator, signer.token()) == "alice"
        await asyncio.sleep(0)
    assert auth.num_asked == 2


async def test_a_key_that_was_taken_away_is_forgotten(
    authenticator: Authenticator, auth: _Auth, signer: _Signer, clock: _Clock
) -> None:
    auth.signers = [_Signer("key-2")]
    clock.now += 5.1
    await _assert_refused(authenticator, _Signer("key-3").token())
    await _assert_refused(authenticator, signer.token())


async def test_unknown_keys_are_asked_for_at_most_every_second(authenticator: Authenticator, auth: _Auth) -> None:
    """`auth` was asked once before."""
    started = time.monotonic()
    for num_asked in (2, 3):
        tokens = [_Signer(f"junk-{number}").token() for number in range(100)]
        await asyncio.gather(*(_assert_refused(authenticator, token) for token in tokens))
        assert auth.num_asked == num_asked
    assert time.monotonic() - started > 1.5


async def test_a_key_that_is_younger_than_the_last_fetch_is_waited_for(
    authenticator: Authenticator, auth: _Auth
) -> None:
    new = _Signer("key-2")
    auth.signers.append(new)
    assert await _user_of(authenticator, new.token()) == "alice"


async def test_unknown_keys_at_once_are_asked_for_once(
    authenticator: Authenticator, auth: _Auth, clock: _Clock
) -> None:
    new = _Signer("key-2")
    auth.signers.append(new)
    clock.now += 5.1
    identities = await asyncio.gather(*(authenticator.identify(new.token()) for _ in range(50)))
    assert set(identities) == {Identity("alice", "session-1")}
    assert auth.num_asked == 2


async def test_a_request_that_goes_away_does_not_end_the_fetch_of_others(
    authenticator: Authenticator, auth: _Auth, clock: _Clock
) -> None:
    new = _Signer("key-2")
    auth.signers.append(new)
    clock.now += 5.1
    first, second = (asyncio.ensure_future(authenticator.identify(new.token())) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).user == "alice"
    assert first.cancelled()


async def test_a_token_of_an_unknown_key_is_not_called_invalid_while_the_auth_service_is_away(
    authenticator: Authenticator, auth: _Auth, signer: _Signer, clock: _Clock
) -> None:
    """Its client would throw it away."""
    clock.now += 5.1
    auth.is_away = True
    new = _Signer("key-2")
    for _ in range(2):
        with pytest.raises(Unavailable):
            await authenticator.identify(new.token())
    assert await _user_of(authenticator, signer.token()) == "alice"
    auth.is_away = False
    auth.signers.append(new)
    assert await _user_of(authenticator, new.token()) == "alice"


# Requests without a token


async def test_without_a_token_nobody_is_let_in_where_the_operator_does_not_allow_it(
    authenticator: Authenticator, auth: _Auth
) -> None:
    for _ in range(10):
        with pytest.raises(NotAuthenticated, match=r"^A token is needed"):
            await authenticator.identify(None)
    assert auth.num_public_asked == 1


async def test_without_a_token_everybody_shares_a_session_for_a_while(
    authenticator: Authenticator, auth: _Auth, signer: _Signer, clock: _Clock
) -> None:
    auth.public = signer.token(sub="all", sid="public-1")
    for _ in range(10):
        assert await authenticator.identify(None) == Identity("all", "public-1")
    assert auth.num_public_asked == 1
    auth.public = signer.token(sub="all", sid="public-2")
    clock.now += 61
    assert await authenticator.identify(None) == Identity("all", "public-2")


async def test_public_access_that_the_operator_ends_ends(
    authenticator: Authenticator, auth: _Auth, signer: _Signer, clock: _Clock
) -> None:
    auth.public = signer.token(sub="all")
    await authenticator.identify(None)
    auth.public = None
    clock.now += 61
    with pytest.raises(NotAuthenticated):
        await authenticator.identify(None)
