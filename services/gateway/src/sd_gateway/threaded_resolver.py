"""Looks host names up in threads of its own: the event loop's are few, and a name server may take half a minute."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar

from aiohttp.abc import AbstractResolver, ResolveResult

LookUps = list[asyncio.Future[list[ResolveResult]]]

_gathered: ContextVar[LookUps] = ContextVar("gathered")


@contextmanager
def gathered_look_ups() -> Iterator[LookUps]:
    """All look-ups that are begun inside, also by tasks that are. No thread can be interrupted: one that nobody waits
    for any more is taken until its look-up ends."""
    look_ups: LookUps = []
    token = _gathered.set(look_ups)
    try:
        yield look_ups
    finally:
        _gathered.reset(token)


class ThreadedResolver(AbstractResolver):
    """As aiohttp's, with threads of its own. Use within `gathered_look_ups`."""

    def __init__(self, num_threads: int) -> None:
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="lookup")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        def look_up() -> list[ResolveResult]:
            found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
            return [
                ResolveResult(
                    hostname=host,
                    host=str(address[0]),
                    port=port,
                    family=family,
                    proto=proto,
                    flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
                )
                for family, _, proto, _, address in found
            ]

        looking_up = asyncio.get_running_loop().run_in_executor(self._threads, look_up)
        _gathered.get().append(looking_up)
        return await asyncio.shield(looking_up)  # it goes on where its waiter is cancelled, and tells its end

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
