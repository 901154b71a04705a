"""A way to NATS that can be cut, for one client alone."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Self
from urllib.parse import urlsplit

from pydantic import SecretStr

from sd_common.nats_settings import NatsSettings
from support.ports import free_port


class NatsProxy:
    """Carries bytes between its port and a nats-server until it is cut, and again once it is mended."""

    def __init__(self, settings: NatsSettings) -> None:
        self._settings = settings
        self._target = urlsplit(settings.servers[0])
        self._port = free_port()
        self._carrying: set[asyncio.Task[None]] = set()

    @property
    def settings(self) -> NatsSettings:
        """Settings that lead through here."""
        return self._settings.model_copy(update={"nats_url": SecretStr(f"nats://127.0.0.1:{self._port}")})

    async def __aenter__(self) -> Self:
        await self.mend()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cut()

    async def cut(self) -> None:
        """End all connections, and let none through."""
        self._server.close()
        for task in self._carrying:
            task.cancel()
        if self._carrying:
            await asyncio.wait(self._carrying)
        await asyncio.sleep(0)  # transports that are closed end in the loop's next turn

    async def mend(self) -> None:
        """Let connections through."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._carry(reader, writer))
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError):
            server_reader, server_writer = await asyncio.open_connection(self._target.hostname, self._target.port)
            with contextlib.closing(server_writer):
                await asyncio.gather(_copy(reader, server_writer), _copy(server_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.close()
