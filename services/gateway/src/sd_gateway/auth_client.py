"""Requests to the auth service over NATS."""

from __future__ import annotations

from typing import TypeVar

import nats.errors
from nats.micro.request import ERROR_CODE_HEADER, ERROR_HEADER
from opentelemetry.trace import SpanKind

from sd_common.auth_messages import (
    JWKS,
    LINK_TOKEN,
    LOG_IN,
    PUBLIC_TOKEN,
    REVOKE,
    SIGN_UP,
    STORE_FULL_CODE,
    AccessToken,
    LogInRequest,
    PublicKeys,
    RevokedToken,
    RevokeRequest,
    SignUpRequest,
    User,
)
from sd_common.errors import StoreFull, Unavailable
from sd_common.messages import Message
from sd_common.nats_client import NatsClient
from sd_common.tracing import called, span, trace_headers
from sd_gateway.errors import AccountRefused

#: The auth service answers within this, or refuses.
_TIMEOUT_S = 5.0

M = TypeVar("M", bound=Message)


class AuthClient:
    """Raises `AccountRefused` with the auth service's sentence, `Unavailable` where it does not answer, and `StoreFull`
    where it finds NATS full."""

    def __init__(self, client: NatsClient) -> None:
        self._client = client

    async def sign_up(self, request: SignUpRequest) -> User:
        return await self._call(SIGN_UP, request.model_dump_json().encode(), User)

    async def log_in(self, request: LogInRequest) -> AccessToken:
        return await self._call(LOG_IN, request.model_dump_json().encode(), AccessToken)

    async def public_token(self) -> AccessToken:
        return await self._call(PUBLIC_TOKEN, b"", AccessToken)

    async def link_token(self) -> AccessToken:
        return await self._call(LINK_TOKEN, b"", AccessToken)

    async def revoke(self, request: RevokeRequest) -> RevokedToken:
        return await self._call(REVOKE, request.model_dump_json().encode(), RevokedToken)

    async def public_keys(self) -> PublicKeys:
        return await self._call(JWKS, b"", PublicKeys)

    async def _call(self, subject: str, payload: bytes, answer: type[M]) -> M:
        if not self._client.is_connected:
            raise Unavailable("The message broker")
        with span(subject, SpanKind.CLIENT, called(subject)):
            try:
                reply = await self._client.request(
                    subject, payload, timeout=_TIMEOUT_S, headers=trace_headers() or None
                )
            except (nats.errors.NoRespondersError, nats.errors.TimeoutError) as error:
                raise Unavailable("The auth service") from error
        headers = reply.headers or {}
        if code := int(headers.get(ERROR_CODE_HEADER, 0)):
            if code == STORE_FULL_CODE:
                raise StoreFull("The message broker")
            if code >= 500:
                raise Unavailable("The auth service")
            raise AccountRefused(code, headers.get(ERROR_HEADER, "Refused"))
        return answer.model_validate_json(reply.data)
