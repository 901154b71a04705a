"""Requests byte by byte, such as no client library would send."""

from __future__ import annotations

import asyncio

from yarl import URL

from support.waiting import PATIENCE_S


async def connect(base_url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the server at `base_url`."""
    address = URL(base_url)
    return await asyncio.open_connection(address.host, address.port)


async def raw_answer(base_url: str, request: bytes) -> bytes:
    """The answer up to the first `}`: the whole of a problem."""
    reader, writer = await connect(base_url)
    writer.write(request)
    async with asyncio.timeout(PATIENCE_S):
        answer = await reader.readuntil(b"}")
    writer.close()
    await writer.wait_closed()
    return answer
