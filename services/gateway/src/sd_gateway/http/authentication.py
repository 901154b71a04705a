"""Whose a request is; one too many of its holder is refused."""

from __future__ import annotations

import structlog
from aiohttp import web

from sd_gateway.authn import Identity
from sd_gateway.http.inputs import token_of
from sd_gateway.parts import PARTS


async def authenticate(request: web.Request) -> Identity:
    """The identity that the request's token stands for.

    Raises `NotAuthenticated`, `TooManyRequests`, `Unavailable`.
    """
    parts = request.app[PARTS]
    identity = await parts.authenticator.identify(token_of(request))
    structlog.contextvars.bind_contextvars(user=identity.user)
    parts.requests_of_holder.use(identity.holder)
    return identity
