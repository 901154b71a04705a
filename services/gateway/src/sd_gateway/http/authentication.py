"""Whose a request is."""

from __future__ import annotations

from aiohttp import web

from sd_gateway.authn import Identity
from sd_gateway.http.inputs import token_of
from sd_gateway.parts import PARTS


async def authenticate(request: web.Request) -> Identity:
    """The identity that the request's token stands for. Raises `NotAuthenticated`, `Unavailable`."""
    return await request.app[PARTS].authenticator.identify(token_of(request))
