"""Requests as the gateway's handlers get them, without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from unittest import mock

from aiohttp import StreamReader, web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.test_utils import make_mocked_request

#: Bytes that a body may have.
MAX_BODY_BYTES = 2**20


def create_request(
    path: str = "/", body: bytes = b"", headers: Mapping[str, str] | None = None, method: str = "POST"
) -> web.Request:
    """A request whose body has come."""
    loop = asyncio.get_running_loop()
    protocol = mock.create_autospec(BaseProtocol, instance=True, _reading_paused=False)
    payload = StreamReader(protocol, 2**16, loop=loop)
    payload.feed_data(body)
    payload.feed_eof()
    return make_mocked_request(
        method, path, headers=dict(headers or {}), payload=payload, client_max_size=MAX_BODY_BYTES
    )
