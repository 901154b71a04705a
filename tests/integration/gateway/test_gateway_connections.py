"""One address does not take all connections."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import AsyncExitStack

import uvloop
from aiohttp import web
from integration.gateway.conftest import StartGateway
from yarl import URL

from sd_gateway.http.connections import ConnectionsOfAddresses
from sd_gateway.http.runner import GatewayRunner
from support.waiting import PATIENCE_S

_MAX = 3
_ASKED = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


class _Connection:
    def __init__(self, url: str) -> None:
        self._url = URL(url)

    async def __aenter__(self) -> _Connection:
        self._reader, self._writer = await asyncio.open_connection(self._url.host, self._url.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def answer(self) -> bytes:
        """The head of what `/healthz` is answered with."""
        self.ask()
        head = await self.head()
        await self._reader.readuntil(b"}")
        return head

    def ask(self) -> None:
        self._writer.write(_ASKED)

    async def head(self) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return await self._reader.readuntil(b"\r\n\r\n")


async def test_a_connection_too_many_is_refused_and_there_is_room_again_once_one_has_gone(
    start_gateway: StartGateway,
) -> None:
    _, url = await start_gateway(max_connections_per_address=_MAX)
    async with AsyncExitStack() as stack:
        for _ in range(_MAX - 1):  # they say nothing
            await stack.enter_async_context(_Connection(url))
        async with _Connection(url) as last:
            assert (await last.answer()).startswith(b"HTTP/1.1 200 ")
            for _ in range(2):  # whoever is refused does not count
                async with _Connection(url) as refused:
                    head = await refused.head()
                    assert head.startswith(b"HTTP/1.1 429 ")
                    assert b"\r\nRetry-After: " in head
            assert (await last.answer()).startswith(b"HTTP/1.1 200 ")
        async with asyncio.timeout(PATIENCE_S):
            answer = b""
            while not answer.startswith(b"HTTP/1.1 200 "):
                # One that is refused may be reset before its answer is read.
                with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                    async with _Connection(url) as next_one:
                        answer = await next_one.answer()


def test_a_connection_too_many_is_refused_on_the_event_loop_of_the_service() -> None:
    """Whose transports are of other classes than asyncio's."""

    async def serve() -> None:
        runner = GatewayRunner(web.Application(), ConnectionsOfAddresses(1, ()))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with _Connection(url) as first, _Connection(url) as second:
            assert (await second.head()).startswith(b"HTTP/1.1 429 ")
            first.ask()
            assert (await first.head()).startswith(b"HTTP/1.1 404 ")
        await runner.cleanup()

    uvloop.run(serve())


async def test_connections_of_a_trusted_proxy_do_not_count(start_gateway: StartGateway) -> None:
    _, url = await start_gateway(max_connections_per_address=1, trusted_proxies="127.0.0.0/8")
    async with AsyncExitStack() as stack:
        for _ in range(_MAX):
            connection = await stack.enter_async_context(_Connection(url))
            assert (await connection.answer()).startswith(b"HTTP/1.1 200 ")
