"""A client of the REST API and the websocket, as tests need one."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp
from multidict import CIMultiDictProxy
from PIL import Image

from support.events import TERMINAL_TYPES
from support.waiting import PATIENCE_S, once

Json = dict[str, Any]


@dataclass(frozen=True)
class Answered:
    """An answer, read."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Events:
    """A session's websocket."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket

    async def next(self) -> Json:
        """The next event."""
        event: Json = json.loads(await asyncio.wait_for(self.socket.receive_str(), PATIENCE_S))
        return event

    async def of_task(self, task_id: str) -> list[Json]:
        """The events of a task, to its terminal one. Those of other tasks are passed over."""
        events: list[Json] = []
        while not events or events[-1]["event_type"] not in TERMINAL_TYPES:
            event = await self.next()
            if event["task_id"] == task_id:
                events.append(event)
        return events

    async def until(self, task_id: str, event_type: str) -> Json:
        """The first event of this type of the task."""
        while True:
            event = await self.next()
            if event["task_id"] == task_id and event["event_type"] == event_type:
                return event


@dataclass
class Client:
    """Talks to one gateway, with or without a token."""

    base_url: str
    token: str | None = None
    _http: aiohttp.ClientSession = field(init=False)

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE_S))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    async def request(self, method: str, path: str, **kwargs: Any) -> Answered:
        headers = {**({"Authorization": f"Bearer {self.token}"} if self.token else {}), **kwargs.pop("headers", {})}
        url = path if path.startswith("http") else self.base_url + path
        async with self._http.request(method, url, headers=headers, **kwargs) as response:
            return Answered(response.status, response.headers, await response.read())

    async def get(self, path: str, **kwargs: Any) -> Answered:
        return await self.request("GET", path, **kwargs)

    async def post(self, path: str, **kwargs: Any) -> Answered:
        return await self.request("POST", path, **kwargs)

    async def get_once_there(self, path: str, **kwargs: Any) -> Answered:
        """The answer once it is another than 503, which asks to try again: a part is coming back."""
        return await _once_there(lambda: self.get(path, **kwargs))

    async def post_once_there(self, path: str, **kwargs: Any) -> Answered:
        """As `get_once_there`."""
        return await _once_there(lambda: self.post(path, **kwargs))

    async def delete(self, path: str) -> Answered:
        return await self.request("DELETE", path)

    async def until_ready(self) -> None:
        """Return when the gateway and all its parts are."""
        await once(lambda: self.get("/readyz"), lambda answer: answer.status == 200)

    @property
    def user_and_session(self) -> tuple[str, str]:
        """What its token stands for."""
        assert self.token is not None
        payload = self.token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return claims["sub"], claims["sid"]

    # These try again where a part that they need does not answer in time, as 503 says: tests of refusals use `post`.

    async def take_public_token(self) -> None:
        answer = await self.post_once_there("/token/all")
        assert answer.status == 200, answer.body
        self.token = answer.json["access_token"]

    async def sign_up_and_log_in(self, username: str, password: str = "correct horse") -> None:
        credentials = {"username": username, "password": password}
        answer = await self.post("/user", json=credentials)
        if answer.status == 503:  # the name may have been taken for us, and its answer have come too late
            answer = await self.post_once_there("/user", json=credentials)
            assert answer.status in (200, 409), answer.body
        else:
            assert answer.status == 200, answer.body
        answer = await self.post_once_there("/token", data=credentials)
        assert answer.status == 200, answer.body
        self.token = answer.json["access_token"]

    async def submit(self, **parameters: Any) -> str:
        """Submit a task and return its id."""
        answer = await self.post("/task", json=parameters)
        assert answer.status == 200, answer.body
        assert answer.headers["Location"] == f"/task/{answer.json}"
        return str(answer.json)

    async def submit_once_there(self, **parameters: Any) -> str:
        """As `submit`, tried again while a part is coming back: one task, however many tries it takes."""
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        answer = await self.post_once_there("/task", json=parameters, headers=headers)
        assert answer.status == 200, answer.body
        return str(answer.json)

    async def last_event(self, task_id: str) -> Json:
        answer = await self.get(f"/task/{task_id}")
        assert answer.status == 200, answer.body
        event: Json = answer.json
        return event

    async def ended(self, task_id: str) -> Json:
        """The task's terminal event, once it has one."""
        return await once(lambda: self.last_event(task_id), lambda event: event["event_type"] in TERMINAL_TYPES)

    async def upload(self, data: bytes, filename: str = "picture.png") -> str:
        def post() -> Awaitable[Answered]:
            form = aiohttp.FormData()
            form.add_field("blob_data", data, filename=filename, content_type="image/png")
            return self.post("/blob", data=form)

        answer = await _once_there(post)
        assert answer.status == 200, answer.body
        return str(answer.json)

    async def picture(self, blob_url: str) -> Image.Image:
        answer = await self.get_once_there(blob_url)
        assert answer.status == 200, answer.body
        return Image.open(io.BytesIO(answer.body))

    @asynccontextmanager
    async def events(self, query: str = "") -> AsyncIterator[Events]:
        """The websocket of this client's session."""
        async with self._http.ws_connect(f"{self.base_url}/events?token={self.token}{query}") as socket:
            yield Events(socket)


async def _once_there(ask: Callable[[], Awaitable[Answered]]) -> Answered:
    return await once(ask, lambda answer: answer.status != 503)
