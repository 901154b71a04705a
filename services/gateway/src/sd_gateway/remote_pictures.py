"""Fetches pictures of other hosts, of the public internet alone (ADR 22).

Whom a name leads to is looked up once a request, and checked where the connection is made: no second answer of a name
server, no redirect and no spelling of an address gets around it.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ssl import SSLContext
from types import TracebackType
from typing import Any, Self

import aiohttp
import structlog
from aiohttp.abc import AbstractResolver
from yarl import URL

from sd_common.errors import PictureError, Unavailable
from sd_common.pictures import CONTENT_TYPES
from sd_gateway.errors import TooManyRequests
from sd_gateway.public_addresses import is_public
from sd_gateway.remote_urls import RemoteImages, check_remote_url
from sd_gateway.threaded_resolver import ThreadedResolver, gathered_look_ups

log = structlog.get_logger(__name__)

_MAX_REDIRECTS = 3
_REDIRECTS = (301, 302, 303, 307, 308)
#: Pictures fetched at once: their bytes are in memory, and their servers may be slow.
_MAX_FETCHES = 16
_MAX_FETCHES_PER_HOLDER = 4
_CHUNK_BYTES = 64 * 1024
_HEADERS = {
    "Accept": ", ".join(CONTENT_TYPES.values()),
    # What is compressed once more could unpack to anything.
    "Accept-Encoding": "identity",
    "User-Agent": "stable-diffusion-api",
}
_UPLOAD = "check the URL, or upload the picture with POST /blob"


class _NotPublic(OSError):
    """An address that is not asked."""


@dataclass(frozen=True)
class Reach:
    """Where pictures are fetched from. Tests let servers on the loopback stand for those of the internet."""

    is_public: Callable[[str], bool] = is_public
    ports: Collection[int] = (80, 443)
    resolver: AbstractResolver | None = None
    tls: SSLContext | None = None


INTERNET = Reach()


class RemotePictures:
    """Fetches pictures by URL, those of `hosts`, each in `timeout_s` seconds and `max_bytes` at most."""

    def __init__(self, hosts: RemoteImages, max_bytes: int, timeout_s: float, reach: Reach = INTERNET) -> None:
        self._hosts = hosts
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._reach = reach
        self._places = asyncio.Semaphore(_MAX_FETCHES)
        self._num_fetches: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        self._resolver = self._reach.resolver or ThreadedResolver(_MAX_FETCHES)
        connector = aiohttp.TCPConnector(
            resolver=self._resolver,
            use_dns_cache=False,
            force_close=True,
            socket_factory=self._create_socket,
            ssl=self._reach.tls or True,
        )
        self._http = aiohttp.ClientSession(
            connector=connector,
            headers=_HEADERS,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,  # no proxy, and no password of a .netrc
            timeout=aiohttp.ClientTimeout(total=None),  # the one of `fetch` spans the redirects
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._http.close()
        await self._resolver.close()

    async def fetch(self, url: str, holder: str, admit: Callable[[int], None] = lambda num_bytes: None) -> bytes:
        """The bytes behind `url`, unchecked but for their number. Fetches of one `holder` are few at once.

        `admit` is told how many bytes more come, before they are kept. Raises what it raises; `PictureError` with a
        sentence for the client, `TooManyRequests`, and `Unavailable` while others' fetches take all places.
        """
        if self._hosts == "off":
            raise PictureError(
                "Pictures of other hosts are not fetched: upload yours with POST /blob and give the URL you get, "
                "or have the operator set REMOTE_IMAGES"
            )
        checked = check_remote_url(url, self._hosts, self._reach.ports)
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        with self._held_while_looking_up() as held:
            held.enter_context(self._counted(holder))
            try:
                async with asyncio.timeout_at(deadline):
                    await self._places.acquire()
            except TimeoutError:
                raise Unavailable("The fetching of pictures") from None
            held.callback(self._places.release)
            try:
                async with asyncio.timeout_at(deadline):
                    return await self._follow(checked, admit)
            except TimeoutError as error:
                raise PictureError(f"The picture did not come within {self._timeout_s:g} s: {_UPLOAD}") from error
            except aiohttp.ClientConnectorError as error:
                # One sentence for a name that is not known, an address that is not public and one that does not
                # answer: the difference would tell of the operator's network.
                raise PictureError(f"The host cannot be reached at a public address: {_UPLOAD}") from error
            except PictureError:
                raise
            except (aiohttp.ClientError, ValueError, OSError) as error:  # ValueError: a Location that is no URL
                raise PictureError(f"The host did not give a picture: {_UPLOAD}") from error

    @contextmanager
    def _held_while_looking_up(self) -> Iterator[ExitStack]:
        """Hold what is put on the stack until all look-ups begun inside have ended, even past the time limit: their
        threads cannot be interrupted, and one user's slow names would take everybody's."""
        held = ExitStack()
        with gathered_look_ups() as look_ups:
            try:
                yield held
            finally:
                if all(look_up.done() for look_up in look_ups):
                    held.close()
                else:
                    ending = asyncio.gather(*look_ups, return_exceptions=True)
                    ending.add_done_callback(lambda _: held.close())

    @contextmanager
    def _counted(self, holder: str) -> Iterator[None]:
        if self._num_fetches[holder] >= _MAX_FETCHES_PER_HOLDER:
            raise TooManyRequests(f"{_MAX_FETCHES_PER_HOLDER} pictures are being fetched for you: wait for one to come")
        self._num_fetches[holder] += 1
        try:
            yield
        finally:
            self._num_fetches[holder] -= 1
            if not self._num_fetches[holder]:
                del self._num_fetches[holder]

    async def _follow(self, url: URL, admit: Callable[[int], None]) -> bytes:
        for _ in range(_MAX_REDIRECTS + 1):
            async with self._http.get(url, allow_redirects=False) as response:
                if response.status not in _REDIRECTS:
                    return await self._read(response, admit)
                location = response.headers.get("Location", "")
            url = check_remote_url(str(url.join(URL(location))), self._hosts, self._reach.ports)
        raise PictureError(f"The URL leads on more than {_MAX_REDIRECTS} times: {_UPLOAD}")

    async def _read(self, response: aiohttp.ClientResponse, admit: Callable[[int], None]) -> bytes:
        if response.status != 200:
            raise PictureError(f"The host answered {response.status}, and with no picture: {_UPLOAD}")
        if response.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
            raise PictureError(f"The host compresses what it was asked not to: {_UPLOAD}")
        too_large = PictureError(f"The picture is larger than {self._max_bytes:,} bytes")
        if (response.content_length or 0) > self._max_bytes:
            raise too_large
        data = bytearray()
        async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
            admit(len(chunk))
            data += chunk
            if len(data) > self._max_bytes:
                raise too_large
        return bytes(data)

    def _create_socket(self, address_info: tuple[Any, ...]) -> socket.socket:
        """The socket for a connection to the very address that it is asked for."""
        family, kind, protocol, _, address = address_info
        if not self._reach.is_public(address[0]):
            log.warning("remote_address_refused", address=address[0])
            raise _NotPublic("not a public address")
        return socket.socket(family, kind, protocol)
