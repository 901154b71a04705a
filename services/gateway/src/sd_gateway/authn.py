"""Who a request comes from: tokens, verified here with the auth service's public keys."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import jwt
import structlog

from sd_common.auth_messages import ALGORITHM, AUDIENCE, ISSUER, PUBLIC_USER
from sd_common.subjects import check_token
from sd_gateway.auth_client import AuthClient
from sd_gateway.errors import AccountRefused, NotAuthenticated

log = structlog.get_logger(__name__)

_CLAIMS = ["exp", "iat", "iss", "aud", "sub", "sid", "jti"]
#: Seconds before the keys are fetched again for a token that names an unknown one, so that junk costs nothing.
_KEYS_REFETCH_S = 5.0
#: Seconds for which a public session is used, and for which a refusal of one is remembered.
_PUBLIC_SESSION_S = 60.0

_INVALID = "The token is not valid or has expired: get a new one at POST /token"
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


class Authenticator:
    """Verifies tokens."""

    def __init__(self, auth: AuthClient) -> None:
        self._auth = auth
        self._keys: dict[str, jwt.PyJWK] = {}
        self._keys_fetched_at = float("-inf")
        self._fetching_keys: asyncio.Task[None] | None = None
        self._public: Identity | None = None
        self._public_until = float("-inf")

    async def fetch_keys(self) -> None:
        """Get the public keys. Raises `Unavailable` where the auth service does not answer."""
        keys = (await self._auth.public_keys()).keys
        self._keys = {key.kid: jwt.PyJWK(key.model_dump()) for key in keys}
        self._keys_fetched_at = time.monotonic()

    @property
    def has_keys(self) -> bool:
        return bool(self._keys)

    async def identify(self, token: str | None) -> Identity:
        """Whose `token` it is. Without one, everybody is the public user where the operator allows that.

        Raises `NotAuthenticated`; `Unavailable` where keys are needed and the auth service does not answer.
        """
        if token is None:
            return await self._identify_public()
        return await self.verify(token)

    async def verify(self, token: str) -> Identity:
        """Whose `token` it is. Raises as `identify`."""
        try:
            key = await self._key_of(str(jwt.get_unverified_header(token).get("kid")))
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                audience=AUDIENCE,
                issuer=ISSUER,
                options={"require": _CLAIMS},
            )
            return Identity(user=check_token(claims["sub"]), session=check_token(claims["sid"]))
        except (jwt.PyJWTError, ValueError, TypeError) as error:  # ValueError: not UTF-8, or not a subject token
            raise NotAuthenticated(_INVALID) from error

    async def _key_of(self, kid: str) -> jwt.PyJWK:
        if kid not in self._keys and time.monotonic() - self._keys_fetched_at > _KEYS_REFETCH_S:
            await self._fetch_keys_once()
        try:
            return self._keys[kid]
        except KeyError:
            raise jwt.InvalidTokenError("unknown key") from None

    async def _fetch_keys_once(self) -> None:
        """Requests that come meanwhile wait for the fetch under way."""
        if self._fetching_keys is None or self._fetching_keys.done():
            self._fetching_keys = asyncio.create_task(self.fetch_keys(), name="fetch-keys")
        await asyncio.shield(self._fetching_keys)

    async def _identify_public(self) -> Identity:
        """A session of this gateway that requests without a token share: nobody else can listen to its events."""
        if time.monotonic() > self._public_until:
            try:
                token = await self._auth.public_token()
                self._public = await self.verify(token.access_token)
            except AccountRefused:
                self._public = None
            self._public_until = time.monotonic() + _PUBLIC_SESSION_S
        if self._public is None:
            raise NotAuthenticated(_MISSING)
        return self._public
