"""Each status that the OpenAPI document tells of an operation: a request that is answered with it, as documented."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from fuzz.conftest import LIMITS, MAX_UPLOAD_BYTES, PICTURE
from fuzz.document import check_answer, documented_statuses, load_document
from sd_common.auth_messages import PUBLIC_USER
from sd_common.blob_ids import new_blob_id
from sd_common.blob_store import BlobStore
from sd_common.events import AbortedEvent
from sd_common.nats_client import connect
from sd_common.task_log import TaskLog
from support.deployment import Deployment
from support.pictures import png
from support.servers import nats_settings_of
from support.waiting import PATIENCE_S

_DOCUMENT = load_document()
#: More than the buffers of a connection's two ends take.
_UNTAKEN_BYTES = 12 * 2**20
#: Nobody listens there.
_NOWHERE = "127.0.0.1:1"
_RATES = ("SIGN_UP_RATE", "LOG_IN_RATE", "PUBLIC_TOKEN_RATE", "REQUEST_RATE")
_UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


_TASK = {"prompt": "x", "steps": 2}
_TASKS = {
    "/txt2img": {**_TASK, "width": 64, "height": 64},
    "/img2img": {**_TASK, "initial_image": PICTURE},
    "/inpaint": {**_TASK, "initial_image": PICTURE, "mask": PICTURE},
}


@pytest.fixture(scope="module")
def gateways(deployment: Deployment, gateway_url: str) -> dict[str, str]:
    """Where to find one that is open to all, one that takes long tasks, one that takes one request an hour, and one
    whose parts are all away."""
    away = {"NATS_URL": f"nats://{_NOWHERE}", "MINIO_ENDPOINT": _NOWHERE}
    deployment.start_gateway({**LIMITS, "MAX_STEPS": "500"}, "patient")
    deployment.start_gateway({**LIMITS, **dict.fromkeys(_RATES, "1/hour")}, "strict")
    deployment.start_gateway({**LIMITS, **away}, "cut off")
    return {"open": gateway_url, **{name: deployment.gateway_url(name) for name in ("patient", "strict", "cut off")}}


@dataclass
class Asker:
    """Asks for one operation. What it asks by default is answered with success."""

    method: str
    path: str
    gateways: dict[str, str]
    deployment: Deployment
    token: str = ""
    username: str = field(default_factory=lambda: f"user-{secrets.token_hex(4)}")

    def send(self, method: str, path: str, at: str = "open", **request: Any) -> requests.Response:
        authorization = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        headers = {**authorization, **request.pop("headers", {})}
        return requests.request(method, self.gateways[at] + path, headers=headers, timeout=PATIENCE_S, **request)

    def ask(self, at: str = "open", **changed: Any) -> requests.Response:
        path = self.path.format(task_id="nobodys", blob_id="0" * 24, username=self.username)
        return self.send(self.method, path, at, **{**self.request, **changed})

    def ask_wrongly(self, content_type: str, data: bytes) -> requests.Response:
        """With this body alone."""
        return self.ask(headers={"Content-Type": content_type}, data=data, json=None, files=None)

    @property
    def body_kind(self) -> str:
        [kind] = _DOCUMENT.raw_schema["paths"][self.path][self.method.lower()]["requestBody"]["content"]
        return str(kind)

    def sign_up(self) -> None:
        credentials = {"username": self.username, "password": "correct horse"}
        assert self.send("POST", "/user", json=credentials).status_code == 200

    @property
    def request(self) -> dict[str, Any]:
        credentials = {"username": self.username, "password": "correct horse"}
        if self.path in _TASKS:
            return {"params": _TASKS[self.path]}
        match self.method, self.path:
            case "GET", "/events":
                return {"params": {"token": self.token}, "headers": _UPGRADE, "stream": True}
            case "POST", "/task":
                return {"json": _TASKS["/txt2img"]}
            case "POST", "/blob":
                return {"files": {"blob_data": png()}}
            case "POST", "/user":
                return {"json": credentials}
            case "POST", "/token":
                return {"data": credentials}
            case "POST", "/user/{username}" | "/token/{username}":
                return {"params": {"password": "correct horse"}}
        return {}


def _succeed(asker: Asker) -> requests.Response:
    if "{task_id}" in asker.path:
        asker.path = asker.send("POST", "/task", json=_TASKS["/txt2img"]).headers["Location"]
    elif "{blob_id}" in asker.path:
        asker.path = urlsplit(asker.send("POST", "/blob", files={"blob_data": png()}).json()).path
    elif asker.method == "POST" and asker.path in ("/token", "/token/{username}"):
        asker.sign_up()
    return asker.ask()


def _not_modified(asker: Asker) -> requests.Response:
    return asker.ask(headers={"If-None-Match": _succeed(asker).headers["ETag"]})


def _malformed(asker: Asker) -> requests.Response:
    if asker.path == "/events":
        return asker.ask(headers={})
    return asker.ask_wrongly(asker.body_kind, b"\xff")


def _not_authenticated(asker: Asker) -> requests.Response:
    asker.token = "nobodys"
    return asker.ask()


def _of_another_origin(asker: Asker) -> requests.Response:
    return asker.ask(headers={"Origin": "https://example.org"})


def _in_conflict(asker: Asker) -> requests.Response:
    if asker.path in _TASKS:
        return _aborted(asker, lambda task_id: asker.send("DELETE", f"/task/{task_id}"))
    asker.sign_up()
    return asker.ask()


def _too_large(asker: Asker) -> requests.Response:
    if asker.path == "/blob":
        return asker.ask(files={"blob_data": bytes(MAX_UPLOAD_BYTES + 1)})
    return asker.ask_wrongly(asker.body_kind, b" " * (3 * MAX_UPLOAD_BYTES + 1))


def _of_another_type(asker: Asker) -> requests.Response:
    return asker.ask_wrongly("text/plain", b"x")


def _wrong(asker: Asker) -> requests.Response:
    if asker.path == "/blob":
        return asker.ask(files={"another": b"x"})
    given = next(iter(asker.request), "params")
    changed: dict[str, Any] = {given: {"nonsense": "1"}}
    return asker.ask(**changed)


def _too_often(asker: Asker) -> requests.Response:
    if "{blob_id}" in asker.path:
        return _too_much_held(asker)
    if asker.token:
        while asker.send("GET", "/models", "strict").status_code == 200:
            pass
    else:
        asker.ask("strict")
    return asker.ask("strict")


def _too_much_held(asker: Asker) -> requests.Response:
    """While an answer of which nothing is taken has more bytes than those of one address may have together."""
    blob_id = new_blob_id()

    async def put() -> None:
        async with BlobStore(asker.deployment.minio) as blobs:
            await blobs.put(blob_id, bytes(_UNTAKEN_BYTES), "image/png")

    asyncio.run(put())
    asker.path = f"/blob/{blob_id}"
    with asker.ask(stream=True) as held:
        assert held.status_code == 200
        return asker.ask()


def _failed(asker: Asker) -> requests.Response:
    """As a worker tells a defect of its own."""

    async def fail(task_id: str) -> None:
        client = await connect(nats_settings_of(asker.deployment.nats), "test")
        last = await TaskLog(client).last_of_user(PUBLIC_USER, task_id)
        assert last is not None
        event = AbortedEvent(task_id=task_id, reason="Something went wrong", code="internal")
        await TaskLog(client).append(last.ref, event, last.sequence)
        await client.shut()

    return _aborted(asker, lambda task_id: asyncio.run(fail(task_id)))


def _aborted(asker: Asker, abort: Callable[[str], object]) -> requests.Response:
    """What a request answers whose task `abort` ends while it runs."""
    with ThreadPoolExecutor() as threads:
        size = {"width": 96, "height": 96} if asker.path == "/txt2img" else {}
        asking = threads.submit(asker.ask, "patient", params={**_TASKS[asker.path], **size, "steps": 500})
        patience_ends = time.monotonic() + PATIENCE_S
        while not (started := asker.send("GET", "/tasks", params={"state": "started"}).json()["tasks"]):
            assert time.monotonic() < patience_ends
        abort(started[0]["task_id"])
        return asking.result(PATIENCE_S)


_WAYS: dict[int, Callable[[Asker], requests.Response]] = {
    101: _succeed,
    200: _succeed,
    204: _succeed,
    302: lambda asker: asker.ask(allow_redirects=False),
    304: _not_modified,
    400: _malformed,
    401: _not_authenticated,
    403: _of_another_origin,
    404: Asker.ask,
    409: _in_conflict,
    413: _too_large,
    415: _of_another_type,
    422: _wrong,
    429: _too_often,
    500: _failed,
    503: lambda asker: asker.ask("cut off"),
}


@pytest.mark.parametrize(("method", "path", "status"), list(documented_statuses(_DOCUMENT)))
def test_every_documented_status_is_reached(
    method: str, path: str, status: int, gateways: dict[str, str], deployment: Deployment, token: str
) -> None:
    """One that no request can reach does not belong into the document."""
    operation = _DOCUMENT.raw_schema["paths"][path][method.lower()]
    asker = Asker(method, path, gateways, deployment, token if operation.get("security") else "")
    with _WAYS[status](asker) as answer:
        assert answer.status_code == status, answer.text
        if status != 101:  # where the document tells of messages, which come later
            check_answer(_DOCUMENT, method, path, answer)
