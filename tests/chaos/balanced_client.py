"""An HTTP client as good as clients should be: spreads its requests over the gateways, and tries again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import aiohttp

from support.client import Answered

#: Statuses that say "not now".
_NOT_NOW = (429, 503)
#: As long as a task may take: some requests wait for their pictures.
_REQUEST_TIMEOUT_S = 120.0
#: Seconds between tries: a client of a service that is asked to hurry, not of one at peace.
_PAUSE_S = 0.2


@dataclass(frozen=True)
class Unanswered:
    """A request that broke, or was refused with 503 or 429."""

    gateway: str
    #: Whether its gateway was being replaced when it broke.
    was_leaving: bool
    request: str
    why: str


def wrong_refusal(answer: Answered) -> str | None:
    """What is wrong with an answer that says "not now"."""
    return None if "Retry-After" in answer.headers else f"{answer.status} without Retry-After"


class BalancedClient:
    """Talks to all gateways, for all clients of a run."""

    def __init__(self, urls: Mapping[str, str], leaving: set[str], rng: random.Random) -> None:
        self._urls = urls
        self._leaving = leaving
        self._rng = rng
        self.unanswered: list[Unanswered] = []
        #: Answers that no client should ever get.
        self.wrong_answers: list[str] = []
        self.num_requests = 0

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=_REQUEST_TIMEOUT_S)
        self._http = aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    def choose(self) -> str:
        """A gateway that is not about to leave, where there is one."""
        staying = [name for name in self._urls if name not in self._leaving]
        return self._rng.choice(staying or list(self._urls))

    async def websocket(self, query: str) -> aiohttp.ClientWebSocketResponse:
        """The events of a session. Raises aiohttp's and the system's errors."""
        return await self._http.ws_connect(f"{self._urls[self.choose()]}/events?{query}")

    async def request(self, method: str, path: str, token: str | None = None, **kwargs: Any) -> Answered | None:
        """One try. None where it was not answered, or with "not now"."""
        gateway = self.choose()
        headers = {**({"Authorization": f"Bearer {token}"} if token else {}), **kwargs.pop("headers", {})}
        self.num_requests += 1

        def unanswered(why: str) -> None:
            was_leaving = gateway in self._leaving
            self.unanswered.append(Unanswered(gateway, was_leaving, f"{method} {path.partition('?')[0]}", why))

        try:
            async with self._http.request(method, self._urls[gateway] + path, headers=headers, **kwargs) as response:
                answer = Answered(response.status, response.headers, await response.read())
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            unanswered(f"{type(error).__name__}: {error}")
            return None
        if answer.status not in _NOT_NOW:
            return answer
        if (why := wrong_refusal(answer)) is not None:
            self.wrong_answers.append(f"{method} {path}: {why}")
        unanswered(f"{answer.status} {answer.body.decode()}")
        return None

    async def insist(
        self, method: str, path: str, token: str | None, while_: Callable[[], bool], **kwargs: Any
    ) -> Answered | None:
        """Tries until one is answered; None where `while_` says to give up."""
        while while_():
            if (answer := await self.request(method, path, token, **kwargs)) is not None:
                return answer
            await asyncio.sleep(_PAUSE_S)
        return None
