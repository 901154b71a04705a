"""Websocket clients that reconnect in a loop, at whichever gateway, and go on where they were."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence

import aiohttp

from chaos.balanced_client import BalancedClient
from chaos.evidence import Told
from support.waiting import until

#: Seconds that a client stays connected, at most.
_STAYS_S = (0.2, 4.0)
#: The gateway stops, its connection was lost, or one of its parts is away.
_CLOSE_CODES = (
    aiohttp.WSCloseCode.GOING_AWAY,
    aiohttp.WSCloseCode.ABNORMAL_CLOSURE,
    aiohttp.WSCloseCode.TRY_AGAIN_LATER,
)
_PAUSE_S = 0.1


class Follower:
    """Follows the events of one session."""

    def __init__(self, client: BalancedClient, token: str, rng: random.Random) -> None:
        self._client = client
        self._token = token
        self._rng = rng
        self.session: str = _claims(token)["sid"]
        #: What it was told, in the order of telling.
        self.sequences: list[int] = []

    async def follow(self) -> None:
        """Never returns."""
        while True:
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                async with asyncio.timeout(self._rng.uniform(*_STAYS_S)):
                    await self._listen()
            await asyncio.sleep(_PAUSE_S)

    async def _listen(self) -> None:
        last = self.sequences[-1] if self.sequences else 0
        async with await self._client.websocket(f"token={self._token}&since={last}") as websocket:
            async for message in websocket:
                if message.type is aiohttp.WSMsgType.ERROR:  # the connection broke in the middle of a message
                    break
                self.sequences.append(json.loads(message.data)["sequence"])
            if (why := wrong_close(websocket.close_code)) is not None:
                self._client.wrong_answers.append(why)


def wrong_close(code: int | None) -> str | None:
    """What is wrong with how a gateway ended a websocket of a client with a good token and a right `since`."""
    return None if code in _CLOSE_CODES else f"a websocket was closed with {code}"


@contextlib.asynccontextmanager
async def following(client: BalancedClient, tokens: Sequence[str], rng: random.Random) -> AsyncIterator[list[Follower]]:
    """Follow each session while inside."""
    followers = [Follower(client, token, random.Random(rng.random())) for token in tokens]
    tasks = [asyncio.create_task(follower.follow()) for follower in followers]
    try:
        yield followers
    finally:
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result


async def until_caught_up(followers: Sequence[Follower], events: Sequence[Told], within_s: float) -> None:
    """Return when each has been told as much as its session has, or when the time is up."""
    wanted = _by_session(events)
    with contextlib.suppress(TimeoutError):
        await until(lambda: all(len(each.sequences) >= len(wanted[each.session]) for each in followers), within_s)


def broken_promises_of_feeds(followers: Sequence[Follower], events: Sequence[Told]) -> Iterator[str]:
    """Each session's client was told every event of its session once, in order."""
    wanted = _by_session(events)
    for follower in followers:
        if follower.sequences != wanted[follower.session]:
            missed = sorted(set(wanted[follower.session]) - set(follower.sequences))
            repeated = len(follower.sequences) - len(set(follower.sequences))
            yield f"the client of session {follower.session} missed {missed} and was told {repeated} events twice"


def _by_session(events: Sequence[Told]) -> defaultdict[str, list[int]]:
    sequences: defaultdict[str, list[int]] = defaultdict(list)
    for event in events:
        sequences[event.session].append(event.sequence)
    return sequences


def _claims(token: str) -> dict[str, str]:
    payload = token.split(".")[1]
    claims: dict[str, str] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return claims
