"""A client of the REST API and the websocket, as tests need one."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp
from multidict import CIMultiDictProxy
from PIL import Image

from support.events import TERMINAL_TYPES

#: Longer than any task of the tests takes; a wait that exceeds it has failed.
PATIENCE_S = 60.0

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

    async def get_once_there(self, path: str) -> Answered:
        """The answer once it is another than 503, which asks to try again: a part is coming back."""
        async with asyncio.timeout(PATIENCE_S):
            while (answer := await self.get(path)).status == 503:  # noqa: ASYNC110 - another process becomes ready
                await asyncio.sleep(0.1)
        return answer

    async def delete(self, path: str) -> Answered:
        return await self.request("DELETE", path)

    async def until_ready(self) -> None:
        """Return when the gateway and all its parts are."""
        async with asyncio.timeout(PATIENCE_S):
            while (await self.get("/readyz")).status != 200:  # noqa: ASYNC110 - another process becomes ready
                await asyncio.sleep(0.1)

    @property
    def user_and_session(self) -> tuple[str, str]:
        """What its token stands for."""
        assert self.token is not None
        payload = self.token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return claims["sub"], claims["sid"]

    async def take_public_token(self) -> None:
        answer = await self.post("/token/all")
        assert answer.status == 200, answer.body
        self.token = answer.json["access_token"]

    async def sign_up_and_log_in(self, username: str, password: str = "correct horse") -> None:
        answer = await self.post("/user", json={"username": username, "password": password})
        assert answer.status == 200, answer.body
        answer = await self.post("/token", data={"username": username, "password": password})
        assert answer.status == 200, answer.body
        self.token = answer.json["access_token"]

    async def submit(self, **parameters: Any) -> str:
        """Submit a task and return its id."""
        answer = await self.post("/task", json=parameters)
        assert answer.status == 200, answer.body
        assert answer.headers["Location"] == f"/task/{answer.json}"
        return str(answer.json)

    async def last_event(self, task_id: str) -> Json:
        answer = await self.get(f"/task/{task_id}")
        assert answer.status == 200, answer.body
        event: Json = answer.json
        return event

    async def upload(self, data: bytes, filename: str = "picture.png") -> str:
        form = aiohttp.FormData()
        form.add_field("blob_data", data, filename=filename, content_type="image/png")
        answer = await self.post("/blob", data=form)
        assert answer.status == 200, answer.body
        return str(answer.json)

    async def picture(self, blob_url: str) -> Image.Image:
        answer = await self.get(blob_url)
        assert answer.status == 200, answer.body
        return Image.open(io.BytesIO(answer.body))

    @asynccontextmanager
    async def events(self, query: str = "") -> AsyncIterator[Events]:
        """The websocket of this client's session."""
        async with self._http.ws_connect(f"{self.base_url}/events?token={self.token}{query}") as socket:
            yield Events(socket)
