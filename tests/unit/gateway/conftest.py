"""Tokens with real Ed25519 keys, and the auth service as far as it tells of them."""

from __future__ import annotations

import asyncio
import base64
import time
from typing import Any, cast

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sd_common.auth_messages import ALGORITHM, AUDIENCE, ISSUER, AccessToken, PublicKey, PublicKeys
from sd_common.errors import Unavailable
from sd_gateway import authn, rate_limits
from sd_gateway.auth_client import AuthClient
from sd_gateway.authn import Authenticator
from sd_gateway.errors import AccountRefused, NotAuthenticated
from sd_gateway.revoked_tokens import RevokedTokens
from support.clock import Clock


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Signer:
    """A key pair with a name."""

    def __init__(self, kid: str) -> None:
        self.kid = kid
        self._key = Ed25519PrivateKey.generate()
        self.raw_public = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.public = PublicKey(kid=kid, x=base64url(self.raw_public))

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


class Auth:
    """The auth service: its keys, and how often it was asked."""

    def __init__(self, *signers: Signer) -> None:
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


class Revoked:
    """The revoked tokens, as if they had been read."""

    def __init__(self) -> None:
        self.token_ids: set[str] = set()
        self.is_known = True

    async def is_revoked(self, token_id: str) -> bool:
        if not self.is_known:
            raise Unavailable("The message broker")
        return token_id in self.token_ids


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (authn, rate_limits):
        monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def signer() -> Signer:
    return Signer("key-1")


@pytest.fixture
def auth(signer: Signer) -> Auth:
    return Auth(signer)


@pytest.fixture
def revoked() -> Revoked:
    return Revoked()


@pytest.fixture
async def authenticator(auth: Auth, revoked: Revoked, clock: Clock) -> Authenticator:
    authenticator = create_authenticator(auth, revoked)
    assert not authenticator.has_keys
    await authenticator.fetch_keys()
    assert authenticator.has_keys
    return authenticator


def create_authenticator(auth: Auth, revoked: Revoked) -> Authenticator:
    return Authenticator(cast(AuthClient, auth), cast(RevokedTokens, revoked))


async def user_of(authenticator: Authenticator, token: str) -> str:
    return (await authenticator.identify(token)).user


async def assert_refused(authenticator: Authenticator, token: str) -> None:
    with pytest.raises(NotAuthenticated, match=r"^The token is not valid or has expired: get a new one"):
        await authenticator.identify(token)
