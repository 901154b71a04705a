"""What the auth service does, request by request. Each takes the JSON of a request and returns the answer."""

from __future__ import annotations

import secrets
from typing import TypeVar

import structlog
from pydantic import ValidationError
from structlog.contextvars import bind_contextvars

from sd_auth.errors import InvalidRequest, NotEnabled, WrongCredentials
from sd_auth.passwords import Passwords
from sd_auth.revoked_tokens import RevokedTokens
from sd_auth.settings import AuthSettings
from sd_auth.sign_up import LINK_USER_PREFIX, is_reserved, sign_up
from sd_auth.tokens import Tokens
from sd_auth.users import FoundUser, Users
from sd_common.auth_messages import (
    PUBLIC_USER,
    AccessToken,
    LogInRequest,
    PublicKeys,
    RevokedToken,
    RevokeRequest,
    SignUpRequest,
    User,
)
from sd_common.messages import Message

log = structlog.get_logger(__name__)

_LINK_USER_BYTES = 16

M = TypeVar("M", bound=Message)


class Operations:
    """All operations. Each raises an `AuthError` where it refuses, and binds the user to the request's log line."""

    def __init__(
        self,
        settings: AuthSettings,
        users: Users,
        passwords: Passwords,
        tokens: Tokens,
        revoked_tokens: RevokedTokens,
    ) -> None:
        self._settings = settings
        self._users = users
        self._passwords = passwords
        self._tokens = tokens
        self._revoked_tokens = revoked_tokens

    async def sign_up(self, data: bytes) -> User:
        """Make a user."""
        if not self._settings.enable_signup:
            raise NotEnabled("Sign-up", "ENABLE_SIGNUP")
        request = _parsed(SignUpRequest, data)
        bind_contextvars(user=request.username)
        await sign_up(request, self._settings.publishers, self._users, self._passwords)
        return User(username=request.username)

    async def log_in(self, data: bytes) -> AccessToken:
        """A token, for the right password."""
        request = _parsed(LogInRequest, data)
        bind_contextvars(user=request.username)
        # Somebody may have signed up with the name before it was reserved.
        if is_reserved(request.username, self._settings.publishers):
            raise InvalidRequest(f"The username '{request.username}' is reserved: nobody can log in with it")
        password = request.password.get_secret_value()
        found = await self._users.find(request.username)
        right = await self._passwords.matches(found.record.password_hash if found else None, password)
        if found is None or not right:
            raise WrongCredentials
        await self._renew_hash(found, password)
        return self._tokens.mint(request.username)

    async def public_token(self, _data: bytes) -> AccessToken:
        """A token of the public user, for anybody."""
        if not self._settings.enable_public_access:
            raise NotEnabled("Public access", "ENABLE_PUBLIC_ACCESS")
        return self._mint_without_password(PUBLIC_USER)

    async def link_token(self, _data: bytes) -> AccessToken:
        """A token of a fresh user that has no password."""
        if not self._settings.print_link_with_token:
            raise NotEnabled("The link with a token", "PRINT_LINK_WITH_TOKEN")
        return self._mint_without_password(LINK_USER_PREFIX + secrets.token_hex(_LINK_USER_BYTES))

    async def revoke(self, data: bytes) -> RevokedToken:
        """Accept a token no more."""
        token = self._tokens.verify(_parsed(RevokeRequest, data).token.get_secret_value())
        bind_contextvars(user=token.username)
        await self._revoked_tokens.add(token.revoked)
        return token.revoked

    async def jwks(self, _data: bytes) -> PublicKeys:
        """The keys that verify tokens."""
        return self._tokens.public_keys

    async def warn_of_publishers_that_are_users(self) -> None:
        """Log each: its user cannot log in any more. Raises `Unavailable`."""
        for name in self._settings.publishers:
            if await self._users.find(name) is not None:
                log.warning("publisher_is_a_user", user=name, do="name the publisher otherwise, or tell the user")

    def _mint_without_password(self, username: str) -> AccessToken:
        bind_contextvars(user=username)
        return self._tokens.mint(username)

    async def _renew_hash(self, found: FoundUser, password: str) -> None:
        """Bring a hash of older parameters up to date while the password is known."""
        if self._passwords.is_outdated(found.record.password_hash):
            await self._users.replace_hash(found, await self._passwords.hash(password))


def _parsed(model: type[M], data: bytes) -> M:
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise InvalidRequest.of(error) from None
