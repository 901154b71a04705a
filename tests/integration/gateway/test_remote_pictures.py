"""Pictures of other hosts: what is fetched, and what is refused before a byte gets anywhere."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from integration.gateway.conftest import StartGateway
from integration.gateway.hostile_servers import HOST, INTERNET, Network, answer, network, say_nothing
from integration.gateway.hostile_urls import HOSTILE_ANSWERS, HOSTILE_URLS, TOO_SLOW, set_traps

from sd_common.errors import PictureError, Unavailable
from sd_common.nats_client import NatsClient
from sd_common.parameters import Img2ImgParameters
from sd_gateway.errors import TooManyRequests
from sd_gateway.remote_pictures import RemotePictures
from support.certificates import tls_contexts
from support.client import Client
from support.jobs import num_jobs
from support.pictures import png
from support.waiting import PATIENCE_S, until

_MAX_BYTES = 1_000_000
#: For servers that are too slow.
_TIMEOUT_S = 1.0


@pytest_asyncio.fixture
async def net() -> AsyncIterator[Network]:
    """A network with a name whose address changes after the first look-up."""
    async with network(rebinding_test=[INTERNET, "127.0.0.1"]) as net:
        yield net


@pytest_asyncio.fixture
async def remote(net: Network) -> AsyncIterator[RemotePictures]:
    async with RemotePictures("public", _MAX_BYTES, PATIENCE_S, net.reach) as remote:
        yield remote


async def _wrongly_told(client: Client, urls: Mapping[str, str]) -> list[str]:
    """The URLs whose answer is not a 422 on the field, with the sentence."""
    wrong = []
    for url, sentence in urls.items():
        body = {"params_type": "img2img", "prompt": "x", "initial_image": url}
        told = await client.post("/task", json=body)
        fields = [entry["field"] for entry in told.json.get("errors", [])] if told.status == 422 else []
        if fields != ["initial_image"] or sentence not in told.json["detail"]:
            wrong.append(f"{url!r}: {told.status} {told.body.decode()}")
    return wrong


async def test_every_hostile_url_and_server_is_refused_and_no_byte_reaches_the_target(
    start_gateway: StartGateway, net: Network, nats_client: NatsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(variable, f"http://127.0.0.1:{net.target.port}")
    set_traps(net.internet, _MAX_BYTES)
    settings = {"remote_images": "public", "max_upload_bytes": _MAX_BYTES, "reach": net.reach}
    _, patient = await start_gateway(remote_images_timeout_s=PATIENCE_S, **settings)
    _, impatient = await start_gateway(remote_images_timeout_s=_TIMEOUT_S, **settings)
    urls = {text.format(port=net.target.port): sentence for text, sentence in HOSTILE_URLS.items()}
    urls |= {net.url(path): sentence for path, sentence in HOSTILE_ANSWERS.items()}
    assert len(urls) >= 150
    slow = {url: sentence for url, sentence in urls.items() if sentence == TOO_SLOW}
    async with Client(patient) as client, Client(impatient) as of_slow:
        wrong = await _wrongly_told(client, {url: urls[url] for url in urls.keys() - slow.keys()})
        wrong += await _wrongly_told(of_slow, slow)
    assert not wrong, "\n".join(wrong)
    assert (net.target.num_connections, net.target.num_bytes) == (0, 0)
    assert await num_jobs(nats_client) == 0


async def test_a_picture_of_another_host_becomes_a_blob(
    start_gateway: StartGateway, net: Network, nats_client: NatsClient
) -> None:
    net.internet.redirect("/once", "/picture.png")
    net.internet.redirect("/twice", net.url("/once"))
    net.internet.redirect("/three-times", net.url("/twice"))
    _, url = await start_gateway(remote_images="public", reach=net.reach)
    async with Client(url) as client:
        for path in ("/picture.png", "/three-times"):
            body = {"params_type": "inpaint", "prompt": "x", "initial_image": net.url(path), "mask": net.url("/mask")}
            await client.submit(**body)
    for sequence in (1, 2):
        job = ((await nats_client.jetstream().get_msg("JOBS", seq=sequence)).data or b"").decode()
        assert HOST not in job
        assert job.count(f"{url}/blob/") == 2


async def test_a_request_carries_nothing_of_the_service(remote: RemotePictures, net: Network) -> None:
    net.internet.answers["/sets-a-cookie"] = answer(
        b"", "Set-Cookie: a=b", "Location: /picture.png", status="302 Found"
    )
    assert await remote.fetch(net.url("/sets-a-cookie"), "alice") == png()
    for request in net.internet.requests:
        names = {line.partition(b":")[0].lower() for line in request.splitlines()[1:] if line}
        assert names == {b"host", b"accept", b"accept-encoding", b"connection", b"user-agent"}


async def test_a_name_is_looked_up_once_and_its_address_is_the_one_asked(remote: RemotePictures, net: Network) -> None:
    assert await remote.fetch(net.url(host="rebinding.test"), "alice") == png()
    assert net.resolver.asked == ["rebinding.test"]
    with pytest.raises(PictureError, match="cannot be reached at a public address"):
        await remote.fetch(net.url(host="rebinding.test"), "alice")
    assert net.target.num_connections == 0


async def test_a_name_that_changes_its_address_on_a_redirect_is_refused(remote: RemotePictures, net: Network) -> None:
    net.internet.redirect("/again", net.url(host="rebinding.test"))
    with pytest.raises(PictureError, match="cannot be reached at a public address"):
        await remote.fetch(net.url("/again", host="rebinding.test"), "alice")
    assert net.target.num_connections == 0


async def test_hosts_beside_the_list_are_refused_also_on_a_redirect(net: Network) -> None:
    net.internet.redirect("/away", net.url(host="pictures.example"))
    async with RemotePictures(("*.test",), _MAX_BYTES, PATIENCE_S, net.reach) as remote:
        assert await remote.fetch(net.url(), "alice") == png()
        for url in (net.url(host="pictures.example"), net.url("/away"), net.url(host="pictures.test.example")):
            with pytest.raises(PictureError, match=r"are not fetched, only those of \*\.test"):
                await remote.fetch(url, "alice")


async def test_a_host_of_the_list_must_be_public_too(net: Network) -> None:
    async with RemotePictures(("*",), _MAX_BYTES, PATIENCE_S, net.reach) as remote:
        with pytest.raises(PictureError, match="cannot be reached at a public address"):
            await remote.fetch(net.url(host="internal.test"), "alice")
    assert net.target.num_connections == 0


async def test_tls_is_spoken_with_the_host_that_the_url_names(net: Network, tmp_path: Path) -> None:
    server_tls, client_tls = tls_contexts(tmp_path, HOST)
    names: list[str | None] = []
    server_tls.sni_callback = lambda connection, name, context: names.append(name)
    server = await asyncio.start_server(net.internet.serve, INTERNET, 0, ssl=server_tls)
    port = server.sockets[0].getsockname()[1]
    trusting, usual = (replace(net.reach, ports=(port,), tls=tls) for tls in (client_tls, None))
    async with server:
        async with RemotePictures("public", _MAX_BYTES, PATIENCE_S, trusting) as remote:
            assert await remote.fetch(f"https://{HOST}:{port}/picture.png", "alice") == png()
            assert names == [HOST]
            with pytest.raises(PictureError):  # the certificate is not for this name
                await remote.fetch(f"https://rebinding.test:{port}/picture.png", "alice")
        async with RemotePictures("public", _MAX_BYTES, PATIENCE_S, usual) as remote:
            with pytest.raises(PictureError):  # nobody vouches for the certificate
                await remote.fetch(f"https://{HOST}:{port}/picture.png", "alice")
    assert len(net.internet.requests) == 1


async def test_names_are_looked_up_where_the_system_does_it(net: Network) -> None:
    async with RemotePictures("public", _MAX_BYTES, PATIENCE_S, replace(net.reach, resolver=None)) as remote:
        for host in ("pictures.localhost", "pictures.invalid"):
            with pytest.raises(PictureError, match="cannot be reached at a public address"):
                await remote.fetch(net.url(host=host), "alice")
    assert net.target.num_connections == 0


async def test_errors_do_not_tell_which_names_there_are(net: Network) -> None:
    with socket.socket() as nobody:
        nobody.bind((INTERNET, 0))  # it does not listen, so that who connects is refused
        port = nobody.getsockname()[1]
        told = set()
        for url, resolver in (
            (f"http://{HOST}:{port}/", net.resolver),  # public, and refuses
            (f"http://internal.test:{port}/", net.resolver),  # not public
            (f"http://unknown.invalid:{port}/", None),
        ):
            reach = replace(net.reach, ports=(port,), resolver=resolver)
            async with RemotePictures("public", _MAX_BYTES, PATIENCE_S, reach) as remote:
                with pytest.raises(PictureError) as refused:
                    await remote.fetch(url, "alice")
            told.add(str(refused.value))
    assert len(told) == 1, told
    assert net.resolver.asked == [HOST, "internal.test"]


async def test_slow_servers_take_the_places_of_their_user_alone(remote: RemotePictures, net: Network) -> None:
    net.internet.answers["/silent"] = say_nothing
    slow = [asyncio.create_task(remote.fetch(net.url("/silent"), "mallory")) for _ in range(4)]
    await until(lambda: len(net.internet.requests) >= 4)
    with pytest.raises(TooManyRequests, match="4 pictures are being fetched for you"):
        await remote.fetch(net.url(), "mallory")
    assert await remote.fetch(net.url(), "alice") == png()
    await _cancelled(slow)
    assert await remote.fetch(net.url(), "mallory") == png()


async def test_slow_names_take_the_places_of_their_user_alone(net: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    answering = threading.Event()
    look_up = socket.getaddrinfo

    def look_up_slowly(host: str, *args: Any, **kwargs: Any) -> Any:
        if host == "slow.test":
            answering.wait(PATIENCE_S)
        return look_up("127.0.0.1", *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", look_up_slowly)
    reach = replace(net.reach, resolver=None, is_public=lambda _: True)
    refused: list[BaseException | bytes] = []
    async with RemotePictures("public", _MAX_BYTES, 0.2, reach) as remote:
        try:
            for _ in range(5):
                slow = (remote.fetch(net.url(host="slow.test"), "mallory") for _ in range(4))
                refused += await asyncio.gather(*slow, return_exceptions=True)
            remote._timeout_s = PATIENCE_S
            assert await remote.fetch(net.url(), "alice") == png()
        finally:
            answering.set()
        assert [type(error) for error in refused] == [PictureError] * 4 + [TooManyRequests] * 16
        await until(lambda: not remote._num_fetches)  # threads end
        assert await remote.fetch(net.url(), "mallory") == png()


async def test_where_all_places_are_taken_the_client_is_told_to_try_again(net: Network) -> None:
    net.internet.answers["/silent"] = say_nothing
    async with RemotePictures("public", _MAX_BYTES, PATIENCE_S, net.reach) as remote:
        slow = [asyncio.create_task(remote.fetch(net.url("/silent"), f"user{n % 4}")) for n in range(16)]
        await until(lambda: len(net.internet.requests) >= 16)
        remote._timeout_s = 0.05  # less than what is left to the slow ones
        with pytest.raises(Unavailable):
            await remote.fetch(net.url(), "alice")
        await _cancelled(slow)


async def _cancelled(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_service_that_is_not_told_otherwise_fetches_nothing(
    start_gateway: StartGateway, net: Network, nats_client: NatsClient
) -> None:
    _, url = await start_gateway(reach=net.reach)
    async with Client(url) as client:
        wrong = await _wrongly_told(client, {net.url(): "upload yours with POST /blob", "HTTP://x": "upload yours"})
    assert not wrong
    assert net.internet.requests == []


async def test_a_picture_with_a_script_behind_it_is_served_as_a_picture_alone(
    start_gateway: StartGateway, net: Network
) -> None:
    polyglot = png() + b"<script>alert(1)</script>"
    net.internet.answers["/polyglot"] = answer(polyglot, "Content-Type: text/html")
    gateway, url = await start_gateway(remote_images="public", reach=net.reach)
    async with Client(url) as client:
        parameters = Img2ImgParameters(prompt="x", initial_image=net.url("/polyglot"))
        stored = await gateway._parts.input_pictures.stored(parameters, "alice")
        assert isinstance(stored, Img2ImgParameters)
        blob = await client.get(stored.initial_image)
    assert blob.headers["Content-Type"] == "image/png"
    assert blob.headers["X-Content-Type-Options"] == "nosniff"
