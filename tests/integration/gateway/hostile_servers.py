"""The targets that hostile URLs are after, and the servers that lead to them. 127.0.0.1 is the operator's network here,
and 127.0.0.2 stands for the internet."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from aiohttp.abc import AbstractResolver, ResolveResult

from sd_gateway.public_addresses import is_public
from sd_gateway.remote_pictures import Reach
from support.pictures import png, png_by_hand

INTERNET = "127.0.0.2"
HOST = "pictures.test"


def png_bomb() -> bytes:
    """Some 600 KB that unpack to 200 million pixels."""
    packer = zlib.compressobj(9)
    pixels = b"".join(packer.compress(bytes(14_143)) for _ in range(14_142)) + packer.flush()
    return png_by_hand(14_142, 14_142, 8, 0, pixels)


@dataclass
class Target:
    """A server that nobody may reach: counts who does, and the bytes that come."""

    port: int = 0
    num_connections: int = 0
    num_bytes: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        self.num_bytes += len(await reader.read(65536))
        writer.write(answer(png()))
        await close(writer)


def answer(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def close(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        writer.close()
        await writer.wait_closed()


Answerer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Internet:
    """A server on the internet, which answers each path as it is told to, and every other with a picture."""

    port: int = 0
    answers: dict[str, bytes | Answerer] = field(default_factory=dict)
    requests: list[bytes] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await reader.readuntil(b"\r\n\r\n")
            self.requests.append(request)
            told = self.answers.get(request.split(b" ")[1].decode(), answer(png()))
            if isinstance(told, bytes):
                writer.write(told)
                await writer.drain()
            else:
                await told(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the other end refuses to hear more, as it should
        finally:
            await close(writer)

    def redirect(self, path: str, location: str, status: str = "302 Found") -> None:
        self.answers[path] = answer(b"", f"Location: {location}", status=status)


class WorstResolver(AbstractResolver):
    """Names lead to the internet as `known` says, answer after answer; all others lead to the target."""

    def __init__(self, known: Mapping[str, list[str]]) -> None:
        self._known = {name: list(addresses) for name, addresses in known.items()}
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        self.asked.append(host)
        answers = self._known.get(host, ["127.0.0.1"])
        address = answers.pop(0) if len(answers) > 1 else answers[0]
        flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=flags)]

    async def close(self) -> None:
        pass


@dataclass
class Network:
    """A target and the internet, on the same port, so that the address alone tells them apart."""

    target: Target
    internet: Internet
    resolver: WorstResolver
    reach: Reach

    def url(self, path: str = "/picture.png", host: str = HOST) -> str:
        return f"http://{host}:{self.internet.port}{path}"


@contextlib.asynccontextmanager
async def network(**known: list[str]) -> AsyncIterator[Network]:
    """`known`: further names, with `_` for `.`, and their addresses, one for each look-up."""
    target, internet = Target(), Internet()
    async with contextlib.AsyncExitStack() as stack:
        servers = await _start(target, internet)
        for server in servers:
            stack.push_async_callback(_stop, server)
        names = {HOST: [INTERNET], **{name.replace("_", "."): answers for name, answers in known.items()}}
        resolver = WorstResolver(names)
        reach = Reach(
            is_public=lambda address: address == INTERNET or is_public(address),
            ports=(80, 443, target.port),
            resolver=resolver,
        )
        yield Network(target, internet, resolver, reach)


async def _start(target: Target, internet: Internet) -> list[asyncio.Server]:
    while True:
        first = await asyncio.start_server(target.serve, "127.0.0.1", 0)
        target.port = internet.port = first.sockets[0].getsockname()[1]
        servers = [first]
        try:
            servers.append(await asyncio.start_server(internet.serve, INTERNET, target.port))
            if socket.has_ipv6:
                with contextlib.suppress(OSError):  # a machine without IPv6
                    servers.append(await asyncio.start_server(target.serve, "::1", target.port))
        except OSError:  # somebody has that port there
            for server in servers:
                await _stop(server)
            continue
        return servers


async def _stop(server: asyncio.Server) -> None:
    server.close()
    await server.wait_closed()


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A byte of a picture now and then, for ever."""
    writer.write(answer(b"", length=100_000))
    for byte in png(500, 500):
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.05)


async def drip_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Headers that never end."""
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X: y\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)


async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A body that never ends, as fast as it is taken."""
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
        await writer.drain()


async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes the request, and waits for the other end to go."""
    await reader.read()


async def hints_for_ever(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One provisional answer after another."""
    while True:
        writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.01)


def gzip_bomb() -> bytes:
    return gzip.compress(bytes(50_000_000))
