"""Thousands of websocket clients in one process, each as cheap as it can be."""

from __future__ import annotations

import asyncio
import json
import time
from typing import cast
from urllib.parse import urlsplit

#: Connections that are being made at once.
_NUM_CONNECTING = 100
_HANDSHAKE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
_TEXT, _PING = 1, 9
_PONG = b"\x8a\x80\x00\x00\x00\x00"


class Client(asyncio.Protocol):
    """A websocket that costs little: it reads the frames that a gateway sends, and answers pings."""

    def __init__(self, request: bytes, received_at: dict[str, float], reasons: list[str]) -> None:
        self._request = request
        self._received_at = received_at
        self._reasons = reasons
        self._read = bytearray()
        self._accepted = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport

    async def accepted(self) -> None:
        await self._accepted

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's, which is no subclass
        self.transport.write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._accepted.done():
            self._accepted.set_exception(ConnectionError("the gateway ended a connection"))

    def data_received(self, data: bytes) -> None:
        self._read += data
        if not self._accepted.done():
            head, end, rest = bytes(self._read).partition(b"\r\n\r\n")
            if not end:
                return
            assert head.startswith(b"HTTP/1.1 101"), head
            self._accepted.set_result(None)
            self._read[:] = rest
        while (frame := self._next_frame()) is not None:
            self._on_frame(*frame)

    def _next_frame(self) -> tuple[int, bytes] | None:
        read = self._read
        if len(read) < 2 or (read[1] == 126 and len(read) < 4):
            return None
        begin, length = (4, int.from_bytes(read[2:4], "big")) if read[1] == 126 else (2, read[1])
        if len(read) < begin + length:
            return None
        opcode, payload = read[0] & 15, bytes(read[begin : begin + length])
        del read[: begin + length]
        return opcode, payload

    def _on_frame(self, opcode: int, payload: bytes) -> None:
        if opcode == _TEXT:
            task_id = json.loads(payload)["task_id"]
            assert task_id not in self._received_at, "An event came twice"
            self._received_at[task_id] = time.perf_counter()
        elif opcode == _PING:
            self.transport.write(_PONG)
        else:
            self._reasons.append(payload[2:].decode())


class Clients:
    """One client for each session, and what they received."""

    def __init__(self, base_url: str, tokens: list[str]) -> None:
        self._target = urlsplit(base_url)
        self._address = (str(self._target.hostname), self._target.port or 80)
        self._tokens = tokens
        self._clients: list[Client] = []
        self._reasons: list[str] = []
        self.received_at: dict[str, float] = {}

    async def connect(self, query: str) -> None:
        connecting = asyncio.Semaphore(_NUM_CONNECTING)

        async def connect_one(token: str) -> None:
            request = f"GET /events?token={token}{query} HTTP/1.1\r\nHost: {self._target.netloc}\r\n{_HANDSHAKE}\r\n"
            async with connecting:
                _, client = await asyncio.get_running_loop().create_connection(
                    lambda: Client(request.encode(), self.received_at, self._reasons), *self._address
                )
                await client.accepted()
            self._clients.append(client)

        await asyncio.gather(*(connect_one(token) for token in self._tokens))

    async def until_received(self, num_events: int) -> None:
        """Return when all clients together have received as many."""
        async with asyncio.timeout(180):
            while len(self.received_at) < num_events:
                if self._reasons:
                    raise RuntimeError(f"The gateway closed {len(self._reasons)} clients: {self._reasons[0]}")
                await asyncio.sleep(0.01)

    def disconnect(self) -> None:
        for client in self._clients:
            client.transport.abort()
        self._clients.clear()
        self.received_at.clear()
