"""Clients that are slow on purpose: they hold as many bytes of the gateway's memory as it lends them, for a while."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from integration.gateway.conftest import StartGateway
from integration.gateway.hostile_servers import answer, network
from structlog.testing import capture_logs
from yarl import URL

from sd_common.blob_ids import new_blob_id
from sd_common.blob_store import BlobStore
from sd_common.pictures import Picture, PictureSettings, open_picture
from sd_gateway.byte_budget import FREE_BYTES
from sd_gateway.http import runner, sending
from support.client import Client
from support.logs import until_logged
from support.pictures import PNG_SIGNATURE, noise_png, png
from support.raw_http import connect
from support.waiting import PATIENCE_S, once, until

#: More than the buffers of a connection's two ends take.
_BLOB_BYTES = 12 * 2**20
_ONE, _ANOTHER, _THIRD = ({"X-Forwarded-For": f"192.0.2.{number}"} for number in (1, 2, 3))


@pytest.fixture
async def blob_path(blob_store: BlobStore) -> str:
    """A large blob."""
    blob_id = new_blob_id()
    await blob_store.put(blob_id, PNG_SIGNATURE + bytes(_BLOB_BYTES - len(PNG_SIGNATURE)), "image/png")
    return f"/blob/{blob_id}"


async def _connected(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that takes little which is not read."""
    address = URL(url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((address.host, address.port))
    connection.setblocking(False)
    return await asyncio.open_connection(sock=connection, limit=4096)


@asynccontextmanager
async def _asked_and_not_read(url: str, path: str, headers: dict[str, str]) -> AsyncIterator[asyncio.StreamReader]:
    """A connection whose answer's head has come, and of whose body nothing is read."""
    reader, writer = await _connected(url)
    lines = [f"GET {path} HTTP/1.1", "Host: x", *(f"{name}: {value}" for name, value in headers.items())]
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
    try:
        async with asyncio.timeout(PATIENCE_S):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        yield reader
    finally:
        writer.transport.abort()


# Answers


async def test_answers_that_nobody_takes_hold_a_bounded_part_of_the_memory(
    start_gateway: StartGateway, blob_path: str
) -> None:
    settings = {"max_upload_bytes": _BLOB_BYTES, "max_picture_pixels": 64 * 64}  # 6 at once, 3 of each
    _, url = await start_gateway(trusted_proxies="127.0.0.0/8", **settings)
    async with Client(url) as client:
        async with AsyncExitStack() as slow:
            for _ in range(3):
                await slow.enter_async_context(_asked_and_not_read(url, blob_path, _ONE))
            refused = await client.get(blob_path, headers=_ONE)
            assert refused.status == 429
            assert int(refused.headers["Retry-After"]) > 0
            assert refused.json["detail"].startswith("The answers of yours under way have as many bytes as may be held")
            for _ in range(3):
                await slow.enter_async_context(_asked_and_not_read(url, blob_path, _ANOTHER))
            refused = await client.get(blob_path, headers=_THIRD)
            assert refused.status == 503
            assert refused.json["detail"].startswith("The answers under way have as many bytes as may be held at once")
            assert (await client.get("/healthz", headers=_ONE)).status == 200
        # The gateway notices that clients have gone.
        await once(lambda: client.get(blob_path, headers=_ONE), lambda answer: answer.status == 200)


async def test_what_holds_no_bytes_of_its_own_is_answered_though_answers_hold_all(
    start_gateway: StartGateway, blob_path: str
) -> None:
    app, url = await start_gateway()
    async with Client(url) as client:
        etag = (await client.get(blob_path)).headers["ETag"]
        with app._parts.answer_bytes.share("127.0.0.1") as share:
            share.take(10 * 2**30)  # one that is alone may
            assert (await client.get(blob_path)).status == 429
            assert (await client.get(blob_path, headers={"If-None-Match": '"another"'})).status == 429
            for known in (etag, f'"another", W/{etag}', "*"):
                not_modified = await client.get(blob_path, headers={"If-None-Match": known})
                assert (not_modified.status, not_modified.headers["ETag"]) == (304, etag)
            assert (await client.request("HEAD", blob_path)).status == 200
            assert (await client.request("HEAD", blob_path, headers={"If-None-Match": etag})).status == 304
            document = await client.get("/openapi.json")
            assert document.status == 200
            assert len(document.body) > FREE_BYTES


async def _cut_off(reader: asyncio.StreamReader) -> int:
    """How many bytes come before the connection is reset."""
    num_bytes = 0
    try:
        while piece := await asyncio.wait_for(reader.read(2**20), PATIENCE_S):
            num_bytes += len(piece)
    except ConnectionError:
        return num_bytes
    raise AssertionError("it was closed without a reset")


async def test_a_client_that_takes_nothing_of_its_answer_is_cut_off(
    start_gateway: StartGateway, blob_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_MAX_STALL_S", 0.3)
    _, url = await start_gateway()
    with capture_logs() as lines:
        async with _asked_and_not_read(url, blob_path, {}) as reader:
            await until_logged(lines, "answer_not_taken")
            await until_logged(lines, "request")
            assert await _cut_off(reader) < _BLOB_BYTES
    assert [line["status"] for line in lines if line["event"] == "request"] == [499]


async def test_a_client_that_asks_on_and_takes_none_of_its_small_answers_is_cut_off(
    start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_MAX_STALL_S", 0.3)
    _, url = await start_gateway()
    with capture_logs() as lines:
        reader, writer = await _connected(url)
        writer.write((f"GET /{'x' * 40_000} HTTP/1.1\r\nHost: x\r\n\r\n" * 300).encode())  # the answer repeats it
        await until_logged(lines, "answer_not_taken")
        await _cut_off(reader)
        writer.close()


async def test_a_client_that_takes_too_long_for_its_answer_is_cut_off(
    start_gateway: StartGateway, blob_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "_MAX_SENDING_S", 0.5)
    _, url = await start_gateway()
    with capture_logs() as lines:
        async with _asked_and_not_read(url, blob_path, {}) as reader:
            await until_logged(lines, "request")
            assert await _cut_off(reader) < _BLOB_BYTES
    assert [line["status"] for line in lines if line["event"] == "request"] == [499]


async def test_a_large_blob_comes_whole(start_gateway: StartGateway, blob_path: str) -> None:
    _, url = await start_gateway()
    async with Client(url) as client:
        told = await client.get(blob_path)
        assert told.body == PNG_SIGNATURE + bytes(_BLOB_BYTES - len(PNG_SIGNATURE))
        assert told.headers["Content-Length"] == str(_BLOB_BYTES)
        assert (await client.get(blob_path, headers={"If-None-Match": told.headers["ETag"]})).status == 304


# Bodies

_BODY_BYTES = 2 * 2**20
_TASK = {"prompt": "x", "model": "shapes"}


@asynccontextmanager
async def _begun(
    url: str, token: str | None, address: dict[str, str], path: str, content_type: str, body: bytes
) -> AsyncIterator[asyncio.StreamReader]:
    """A request whose last byte is held back."""
    reader, writer = await connect(url)
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {token}", f"Content-Type: {content_type}"]
    lines += [f"Content-Length: {len(body) + 1}", *(f"{name}: {value}" for name, value in address.items())]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    try:
        await writer.drain()
        yield reader
    finally:
        writer.transport.abort()


def _picture_body(num_bytes: int) -> bytes:
    return b'{"prompt": "x", "initial_image": "data:image/png;base64,' + b"A" * num_bytes


_UPLOAD = b'--x\r\nContent-Disposition: form-data; name="blob_data"; filename="x"\r\n\r\n'


@pytest.mark.parametrize(
    ("path", "content_type", "begin"),
    [
        ("/task", "application/json", _picture_body),
        ("/blob", "multipart/form-data; boundary=x", lambda num_bytes: _UPLOAD + b"x" * num_bytes),
    ],
)
async def test_bodies_that_do_not_end_hold_a_bounded_part_of_the_memory(
    path: str, content_type: str, begin: Callable[[int], bytes], start_gateway: StartGateway
) -> None:
    """Whatever their clients say of their size; and one user and one address can take half of it alone."""
    app, url = await start_gateway(
        max_body_bytes=_BODY_BYTES, max_upload_bytes=_BODY_BYTES, trusted_proxies="127.0.0.0/8"
    )  # 6 MiB at once, and 3 of each
    async with Client(url) as client, Client(url) as other, AsyncExitStack() as slow:
        for each in (client, other):
            await each.take_public_token()

        async def refusal(token: str | None, address: dict[str, str], status: int) -> str:
            async with _begun(url, token, address, path, content_type, begin(2_000_000)) as reader:
                async with asyncio.timeout(PATIENCE_S):
                    head = await reader.readuntil(b"\r\n\r\n")
                    detail = json.loads(await reader.readuntil(b"}"))["detail"]
                assert head.startswith(f"HTTP/1.1 {status} ".encode())
                assert b"\r\nRetry-After: " in head
                return str(detail)

        async def hold(token: str | None, address: dict[str, str]) -> None:
            held = app._parts.body_bytes.num_bytes
            await slow.enter_async_context(_begun(url, token, address, path, content_type, begin(1_900_000)))
            await until(lambda: app._parts.body_bytes.num_bytes >= held + 1_800_000)

        await hold(client.token, _ONE)
        of_yours = "The bodies of requests of yours under way have as many bytes"
        assert (await refusal(client.token, _ANOTHER, 429)).startswith(of_yours)
        assert (await refusal(other.token, _ONE, 429)).startswith(of_yours)
        await client.submit(**_TASK)  # a small one is taken
        await hold(other.token, _ANOTHER)
        third = await slow.enter_async_context(Client(url))
        await third.take_public_token()
        await hold(third.token, _THIRD)
        fourth = await slow.enter_async_context(Client(url))
        await fourth.take_public_token()
        address = {"X-Forwarded-For": "192.0.2.4"}
        of_all = "The bodies of requests under way have as many bytes"
        assert (await refusal(fourth.token, address, 503)).startswith(of_all)
        await fourth.submit(**_TASK)
        await slow.aclose()
        await until(lambda: app._parts.body_bytes.num_bytes == 0)  # the gateway notices that clients have gone


# Pictures


async def test_pictures_that_were_fetched_count_as_bodies_do(start_gateway: StartGateway) -> None:
    data = noise_png(512)
    assert len(data) > 2 * FREE_BYTES
    async with network() as net:
        net.internet.answers["/large.png"] = answer(data)
        app, url = await start_gateway(remote_images="public", reach=net.reach)
        async with Client(url) as client:
            body = {"params_type": "img2img", "prompt": "x", "initial_image": net.url("/large.png")}
            with app._parts.body_bytes.share("somebody") as share:
                share.take(200 * 2**20)  # one that is alone may
                key = {"Idempotency-Key": "key"}
                refused = await client.post("/task", json=body, headers=key)
                assert refused.status == 503
                assert refused.json["detail"].startswith("The bodies of requests under way have as many bytes")
                other = await client.post("/task", json={"prompt": "x"}, headers=key)
                assert other.status == 200, "nothing was queued, so the key is free"
            await client.submit(**body)
            assert app._parts.body_bytes.num_bytes == 0


async def test_few_pictures_are_decoded_at_once(start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of some kilobytes becomes megabytes."""
    num_open = most_open = 0
    counting = threading.Lock()

    def counted(data: bytes, limits: PictureSettings) -> Picture:
        nonlocal num_open, most_open
        with counting:
            num_open += 1
            most_open = max(most_open, num_open)
        try:
            return open_picture(data, limits)
        finally:
            with counting:
                num_open -= 1

    monkeypatch.setattr("sd_gateway.input_pictures.open_picture", counted)
    data = png(2048, 2048)
    _, url = await start_gateway()
    async with Client(url) as client:
        await asyncio.gather(*(client.upload(data) for _ in range(12)))
    assert 1 <= most_open <= 4
