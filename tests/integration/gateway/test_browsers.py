"""What browsers are told, and which pages they may let in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import urljoin

import aiohttp
import pytest
from integration.gateway.conftest import StartGateway
from multidict import CIMultiDictProxy
from yarl import URL

from sd_common.blob_ids import new_blob_id
from sd_common.blob_store import BlobStore
from support.client import Client
from support.html_references import References

_PAGE = "https://pages.example"
_OTHER_PAGE = "https://other.example"
_BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
_PNG = b"\x89PNG\r\n\x1a\n and so on"


@pytest.fixture
async def client_of_pages(start_gateway: StartGateway) -> AsyncIterator[Client]:
    """At a gateway that pages of one other origin may use."""
    _, base_url = await start_gateway(allowed_origins=_PAGE)
    async with Client(base_url) as client:
        await client.take_public_token()
        yield client


def _policy(headers: CIMultiDictProxy[str]) -> dict[str, list[str]]:
    """The directives of the content security policy."""
    directives = [each.split() for each in headers["Content-Security-Policy"].split(";")]
    return {name: sources for name, *sources in directives}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/docs", 200),
        ("GET", "/static/docs.html", 200),
        ("GET", "/static/docs.js", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/healthz", 200),
        ("GET", "/task/none", 404),
        ("GET", "/nowhere", 404),
        ("PUT", "/task", 405),
        ("GET", "/blob/none", 404),
        ("DELETE", "/token", 204),
    ],
)
@pytest.mark.parametrize("headers", [{}, _BROWSER], ids=["program", "browser"])
async def test_every_answer_says_what_browsers_must_not_do(
    method: str, path: str, status: int, headers: dict[str, str], client: Client
) -> None:
    answer = await client.request(method, path, headers=headers)
    assert answer.status == status
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    policy = _policy(answer.headers)
    assert policy["default-src"] == ["'self'"]
    assert policy["frame-ancestors"] == ["'none'"]
    assert "unsafe" not in answer.headers["Content-Security-Policy"]


async def test_what_is_no_http_is_answered_without_sniffing(client: Client) -> None:
    answer = await client.get("/healthz", headers={"X": "x" * 300_000})  # more than aiohttp's parser takes
    assert answer.status == 400
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/docs", 200),
        ("/static/docs.js", 200),
        ("/openapi.json", 200),
        ("/healthz", 200),
        ("/readyz", 200),
        ("/models", 200),
        ("/tasks", 200),
        ("/task/none", 404),
        ("/nowhere", 404),
        ("/blob/none", 404),
        ("/blob/abcdefghijklmnopqrstuvwx", 404),
    ],
)
async def test_a_head_is_that_of_the_get(path: str, status: int, client: Client) -> None:
    head, answer = await client.request("HEAD", path), await client.get(path)
    assert (head.status, head.body) == (answer.status, b"") == (status, b"")
    assert {**head.headers, "Date": ""} == {**answer.headers, "Date": ""}


@pytest.mark.parametrize("path", ["/txt2img", "/img2img", "/inpaint", "/events", "/task"])
async def test_what_makes_something_or_keeps_it_open_has_no_head(path: str, client: Client) -> None:
    assert (await client.request("HEAD", f"{path}?prompt=x")).status == 405


async def test_the_address_of_the_service_leads_to_its_documents(client: Client) -> None:
    for method in ("GET", "HEAD"):
        answer = await client.request(method, "/", allow_redirects=False)
        assert (answer.status, answer.headers["Location"]) == (302, "docs")
    answer = await client.get("/", headers=_BROWSER)
    assert answer.status == 200
    assert b"swagger-ui" in answer.body


@pytest.mark.parametrize("path", ["/docs", "/nowhere", "/txt2img"])
async def test_pages_work_under_their_policy(path: str, client: Client) -> None:
    """They have no script and no style of their own, and what they load is there, of the type that it must be."""
    answer = await client.get(path, headers=_BROWSER)
    assert answer.headers["Content-Type"].startswith("text/html")
    references = References(answer.body.decode())
    assert references.inline == []
    assert references.urls
    types = {"css": ["text/css"], "js": ["text/javascript", "application/javascript"], "png": ["image/png"]}
    for url in references.urls:
        assert urljoin(client.base_url + path, url).startswith(f"{client.base_url}/static/")
        loaded = await client.get(url)
        assert loaded.status == 200, url
        assert loaded.headers["Content-Type"].split(";")[0] in types[url.rpartition(".")[2]]


@pytest.mark.parametrize(
    ("data", "stored_as", "content_type", "disposition"),
    [
        (_PNG, "image/png", "image/png", "inline"),
        (_PNG, "text/html", "image/png", "inline"),
        (b"\xff\xd8\xff and so on", "image/svg+xml", "image/jpeg", "inline"),
        (b"RIFF\x00\n\x00\x00WEBPVP8 ", "image/png", "image/webp", "inline"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml", "application/octet-stream", "attachment"),
        (b"<script>alert(1)</script>", "image/png", "application/octet-stream", "attachment"),
        (b"", "text/html", "application/octet-stream", "attachment"),
    ],
)
async def test_a_blob_is_served_as_what_it_is_whatever_it_was_stored_as(
    data: bytes, stored_as: str, content_type: str, disposition: str, client: Client, blob_store: BlobStore
) -> None:
    blob_id = new_blob_id()
    await blob_store.put(blob_id, data, stored_as)
    answer = await client.get(f"/blob/{blob_id}", headers=_BROWSER)
    assert answer.status == 200
    assert answer.body == data
    assert answer.headers["Content-Type"] == content_type
    assert answer.headers["Content-Disposition"] == disposition
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    head = await client.request("HEAD", f"/blob/{blob_id}", headers=_BROWSER)
    assert (head.status, head.body) == (200, b"")
    assert {**head.headers, "Date": ""} == {**answer.headers, "Date": ""}
    policy = _policy(answer.headers)
    assert (policy["default-src"], policy["sandbox"], policy["frame-ancestors"]) == (["'none'"], [], ["'none'"])
    assert "script-src" not in policy


# Pages of other origins

_EMBEDDED = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
_FOLLOWED = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
_MAKING = ["/txt2img", "/img2img", "/inpaint"]


@pytest.mark.parametrize("path", _MAKING)
@pytest.mark.parametrize(
    "headers",
    [
        _EMBEDDED,
        {**_EMBEDDED, "Sec-Fetch-Site": "same-site"},
        {**_FOLLOWED, "Sec-Fetch-Dest": "iframe"},
        {**_FOLLOWED, "Sec-Purpose": "prefetch;prerender"},
    ],
    ids=["picture", "picture of a neighbour", "frame", "prefetch"],
)
async def test_pages_of_other_origins_have_no_pictures_made_by_what_they_embed(
    path: str, headers: dict[str, str], client: Client, client_of_pages: Client
) -> None:
    """Browsers tell no origin with these."""
    for gateway in (client, client_of_pages):
        answer = await gateway.get(path, params={"token": gateway.token, "prompt": "x"}, headers=headers)
        assert answer.status == 403
        assert "ALLOWED_ORIGINS" in answer.json["detail"]
    assert (await client.get("/healthz", headers=headers)).status == 200


@pytest.mark.parametrize("path", _MAKING)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        _FOLLOWED,
        {**_EMBEDDED, "Sec-Fetch-Site": "same-origin"},
        {**_FOLLOWED, "Sec-Fetch-Site": "none"},
        {**_EMBEDDED, "Sec-Fetch-Mode": "cors", "Origin": _PAGE},
    ],
    ids=["program", "link", "own page", "typed in", "allowed page"],
)
async def test_links_programs_and_allowed_pages_have_pictures_made(
    path: str, headers: dict[str, str], client_of_pages: Client
) -> None:
    assert (await client_of_pages.get(path, headers=headers)).status == 422, "a prompt is missing, and nothing else"


@pytest.mark.parametrize("origin", [_PAGE, "null", "", "http://127.0.0.1", "http://127.0.0.1.example:80", "file://"])
async def test_pages_of_other_origins_are_refused(origin: str, client: Client) -> None:
    for method, path in (("GET", "/models"), ("POST", "/task"), ("OPTIONS", "/task")):
        answer = await client.request(method, path, headers={"Origin": origin})
        assert answer.status == 403
        assert "ALLOWED_ORIGINS" in answer.json["detail"]
        assert not any(name.lower().startswith("access-control") for name in answer.headers)


async def test_a_websocket_of_another_page_is_refused_before_it_opens(client: Client) -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(f"{client.base_url}/events?token={client.token}", origin=_PAGE)
    assert refused.value.status == 403


async def test_the_gateways_own_pages_and_programs_are_let_in(client: Client, start_gateway: StartGateway) -> None:
    assert (await client.get("/models", headers={"Origin": client.base_url})).status == 200
    assert (await client.get("/models")).status == 200
    async with aiohttp.ClientSession() as session:
        url = f"{client.base_url}/events?token={client.token}"
        for origin in (client.base_url, None):
            async with session.ws_connect(url, origin=origin) as socket:
                assert not socket.closed
    _, url_behind_a_proxy = await start_gateway(base_url="https://pictures.example")
    async with Client(url_behind_a_proxy) as behind_a_proxy:
        assert (await behind_a_proxy.get("/healthz", headers={"Origin": "https://pictures.example"})).status == 200


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
async def test_a_gateway_on_the_loopback_is_itself_by_each_name_of_it(host: str, start_gateway: StartGateway) -> None:
    _, url = await start_gateway()
    port = URL(url).port
    async with Client(url) as client:
        for own in (url, f"http://{host}:{port}"):
            assert (await client.get("/healthz", headers={"Origin": own})).status == 200
        for other in (f"https://{host}:{port}", f"http://{host}", f"http://{host}:{(port or 0) + 1}"):
            assert (await client.get("/healthz", headers={"Origin": other})).status == 403


@pytest.mark.parametrize("base_url", [None, "https://pictures.example"])
async def test_a_strangers_name_that_leads_here_makes_its_pages_none_of_ours(
    base_url: str | None, start_gateway: StartGateway
) -> None:
    _, url = await start_gateway(**({"base_url": base_url} if base_url else {}))
    async with Client(url) as client:
        for host in ("evil.example", f"evil.example:{URL(url).port}"):
            for origin in (f"http://{host}", f"https://{host}"):
                answer = await client.get("/healthz", headers={"Origin": origin, "Host": host})
                assert answer.status == 403
                assert "or set BASE_URL to it" in answer.json["detail"]
        if base_url:  # and the loopback is somebody's own computer, seen from there
            assert (await client.get("/healthz", headers={"Origin": "http://localhost"})).status == 403


async def test_cross_origin_answers_are_for_nobody_by_default(client: Client) -> None:
    answer = await client.get("/models")
    assert not any(name.lower().startswith("access-control") for name in answer.headers)


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_a_browser_that_asks_before_is_answered(method: str, client_of_pages: Client) -> None:
    headers = {
        "Origin": _PAGE,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    answer = await client_of_pages.request("OPTIONS", "/task", headers=headers)
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["Access-Control-Allow-Origin"] == _PAGE
    assert method in answer.headers["Access-Control-Allow-Methods"]
    assert {"Authorization", "Content-Type"} <= set(answer.headers["Access-Control-Allow-Headers"].split(", "))
    assert "Access-Control-Allow-Credentials" not in answer.headers
    answer = await client_of_pages.request("OPTIONS", "/task", headers={**headers, "Origin": _OTHER_PAGE})
    assert answer.status == 403
    assert "Access-Control-Allow-Origin" not in answer.headers


async def test_allowed_pages_may_read_answers_and_errors_and_open_websockets(client_of_pages: Client) -> None:
    for path, status in (("/models", 200), ("/task/none", 404), ("/nowhere", 404)):
        answer = await client_of_pages.get(path, headers={"Origin": _PAGE})
        assert answer.status == status
        assert answer.headers["Access-Control-Allow-Origin"] == _PAGE
        assert "Retry-After" in answer.headers["Access-Control-Expose-Headers"]
        assert answer.headers["Vary"] == "Origin"
    answer = await client_of_pages.get("/models")
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert answer.headers["Vary"] == "Origin"
    async with aiohttp.ClientSession() as session:
        url = f"{client_of_pages.base_url}/events?token={client_of_pages.token}"
        async with session.ws_connect(url, origin=_PAGE) as socket:
            assert not socket.closed
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await session.ws_connect(url, origin=_OTHER_PAGE)


async def test_all_origins_can_be_allowed(start_gateway: StartGateway) -> None:
    _, base_url = await start_gateway(allowed_origins="*")
    async with Client(base_url) as client:
        for origin in (_PAGE, _OTHER_PAGE, "null"):
            answer = await client.get("/healthz", headers={"Origin": origin})
            assert answer.headers["Access-Control-Allow-Origin"] == origin
        assert (await client.get("/txt2img", headers=_EMBEDDED)).status == 422
