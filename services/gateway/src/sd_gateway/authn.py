"""Who a request comes from: tokens, verified here with the auth service's public keys."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import jwt
import structlog
from pydantic import SecretStr

from sd_common.auth_messages import ALGORITHM, AUDIENCE, ISSUER, LEEWAY_S, PUBLIC_USER, RevokeRequest
from sd_common.subjects import check_token
from sd_gateway.auth_client import AuthClient
from sd_gateway.errors import AccountRefused, NotAuthenticated
from sd_gateway.revoked_tokens import RevokedTokens
from sd_gateway.shared_call import SharedCall

log = structlog.get_logger(__name__)

_CLAIMS = ["exp", "iat", "iss", "aud", "sub", "sid", "jti"]
#: Seconds between two fetches of the keys, however many tokens name unknown ones. Such a token waits for the next: it
#: may be of a key that is younger than the last one.
_KEYS_REFETCH_S = 1.0
#: Seconds after which the keys are fetched again: one that the operator has taken away is then forgotten.
_KEYS_MAX_AGE_S = 300.0
#: Seconds for which a public session is used, and for which a refusal of one is remembered.
_PUBLIC_SESSION_S = 60.0

_INVALID = "The token is not valid or has expired: get a new one at POST /token"
_EXPIRED = "The token has expired: get a new one at POST /token"
_REVOKED = "The token was revoked: get a new one at POST /token"
_MISSING = "A token is needed, as `Authorization: Bearer <token>` or as `?token=`: get one at POST /token"


@dataclass(frozen=True)
class Identity:
    """A user, and the session that their token stands for."""

    user: str
    session: str

    @property
    def holder(self) -> str:
        """Whom limits count for: the user, but each session of the public user, since those are different people's."""
        return f"{self.user}.{self.session}" if self.user == PUBLIC_USER else self.user


@dataclass(frozen=True)
class VerifiedToken:
    """A valid token: whose it is, and until when. `expires_at` is in seconds since 1970."""

    identity: Identity
    token_id: str
    expires_at: float


class Authenticator:
    """Verifies tokens, and has them revoked."""

    def __init__(self, auth: AuthClient, revoked_tokens: RevokedTokens) -> None:
        self._auth = auth
        self._revoked_tokens = revoked_tokens
        self._keys: dict[str, jwt.PyJWK] = {}
        self._keys_fetched_at = float("-inf")
        self._refresh_keys_at = float("inf")
        self._fetching_keys = SharedCall(self._fetch_keys_in_time, "fetch-keys")
        self._public: Identity | None = None
        self._public_until = float("-inf")
        self._renewing_public = SharedCall(self._renew_public, "renew-public-session")

    async def fetch_keys(self) -> None:
        """Get the public keys. Raises `Unavailable` where the auth service does not answer."""
        keys = (await self._auth.public_keys()).keys
        self._keys = {key.kid: jwt.PyJWK(key.model_dump()) for key in keys}
        self._keys_fetched_at = time.monotonic()
        self._refresh_keys_at = self._keys_fetched_at + _KEYS_MAX_AGE_S

    @property
    def has_keys(self) -> bool:
        return bool(self._keys)

    async def identify(self, token: str | None) -> Identity:
        """Whose `token` it is. Without one, everybody is the public user where the operator allows that.

        Raises `NotAuthenticated`; `Unavailable` where keys are needed and the auth service does not answer, and where
        it cannot be known which tokens were revoked.
        """
        if token is None:
            return await self._identify_public()
        return (await self.verify(token)).identity

    async def verify(self, token: str) -> VerifiedToken:
        """Read a token. Raises as `identify`."""
        verified = await self._read(token)
        if await self._revoked_tokens.is_revoked(verified.token_id):
            raise NotAuthenticated(_REVOKED)
        return verified

    async def wait_until_refused(self, token: VerifiedToken) -> NotAuthenticated:
        """Return when the token has expired or was revoked: what it is refused with from now on."""
        try:
            async with asyncio.timeout(token.expires_at + LEEWAY_S - time.time()):
                await self._revoked_tokens.wait_until_revoked(token.token_id)
        except TimeoutError:
            return NotAuthenticated(_EXPIRED)
        return NotAuthenticated(_REVOKED)

    async def revoke(self, token: str) -> None:
        """Accept a token no more: at this gateway once this returns, at others once NATS has told them.

        Raises `NotAuthenticated` where it is not valid anyway, `Unavailable` where it could not be revoked.
        """
        await self.verify(token)
        self._revoked_tokens.add(await self._auth.revoke(RevokeRequest(token=SecretStr(token))))

    async def _read(self, token: str) -> VerifiedToken:
        try:
            key = await self._key_of(str(jwt.get_unverified_header(token).get("kid")))
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                audience=AUDIENCE,
                issuer=ISSUER,
                leeway=LEEWAY_S,
                options={"require": _CLAIMS},
            )
            identity = Identity(user=check_token(claims["sub"]), session=check_token(claims["sid"]))
            return VerifiedToken(identity, token_id=check_token(claims["jti"]), expires_at=float(claims["exp"]))
        except (jwt.PyJWTError, ValueError, TypeError) as error:  # ValueError: not UTF-8, or not a subject token
            raise NotAuthenticated(_INVALID) from error

    async def _key_of(self, kid: str) -> jwt.PyJWK:
        now = time.monotonic()
        if kid not in self._keys:
            await self._fetching_keys.wait()
        elif now > self._refresh_keys_at:
            # Not waited for: the known keys go on being good while the auth service is away.
            self._refresh_keys_at = now + _KEYS_REFETCH_S
            self._fetching_keys.begin()
        try:
            return self._keys[kid]
        except KeyError:
            raise jwt.InvalidTokenError("unknown key") from None

    async def _fetch_keys_in_time(self) -> None:
        await asyncio.sleep(max(0.0, self._keys_fetched_at + _KEYS_REFETCH_S - time.monotonic()))
        await self.fetch_keys()

    async def _identify_public(self) -> Identity:
        """A session of this gateway that requests without a token share: nobody else can listen to its events."""
        if time.monotonic() > self._public_until:
            await self._renewing_public.wait()
        if self._public is None:
            raise NotAuthenticated(_MISSING)
        return self._public

    async def _renew_public(self) -> None:
        try:
            token = await self._auth.public_token()
            self._public = await self.identify(token.access_token)
        except AccountRefused:
            self._public = None
        self._public_until = time.monotonic() + _PUBLIC_SESSION_S
