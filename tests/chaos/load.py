"""A steady load: clients that ask for tasks, follow them, delete them, wait for them and leave."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from chaos.asked import AskedTask, ask
from chaos.balanced_client import BalancedClient
from support.events import TERMINAL_TYPES

#: Between two tasks of a client.
_MEAN_PAUSE_S = 0.4
_POLL_S = 0.2
#: Seconds that a client insists, or follows, after the load was told to end.
_LAST_TRIES_S = 30.0
#: Seconds after which a client stops following: the verdict tells how its task ended.
_FOLLOWS_FOR_S = 30.0


@dataclass
class Load:
    """What was asked, and what came back."""

    client: BalancedClient
    rng: random.Random
    num_clients: int
    asked: list[AskedTask] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    _ends_at: float = float("inf")

    @property
    def accepted(self) -> list[AskedTask]:
        """Those whose id was told."""
        return [task for task in self.asked if task.was_accepted]

    async def open_sessions(self) -> None:
        """A session for each client."""
        for _ in range(self.num_clients):
            answer = await self.client.insist("POST", "/token/all", None, self._goes_on)
            assert answer is not None
            assert answer.status == 200, answer.body
            self.tokens.append(answer.json["access_token"])

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Ask while inside; what was asked is seen through before this ends."""
        ended = asyncio.Event()
        seeds = [self.rng.random() for _ in self.tokens]
        clients = [
            asyncio.create_task(self._act(token, random.Random(seed), ended))
            for token, seed in zip(self.tokens, seeds, strict=True)
        ]
        try:
            yield
        finally:
            ended.set()
            self._ends_at = time.monotonic() + _LAST_TRIES_S
            await asyncio.gather(*clients)

    async def _act(self, token: str, rng: random.Random, ended: asyncio.Event) -> None:
        while not ended.is_set():
            task = ask(len(self.asked), rng)
            self.asked.append(task)
            if task.manner in ("waits", "leaves"):
                await self._get_picture(task, token, rng)
            else:
                await self._submit(task, token, rng)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), rng.expovariate(1 / _MEAN_PAUSE_S))

    async def _submit(self, task: AskedTask, token: str, rng: random.Random) -> None:
        headers = {"Idempotency-Key": str(uuid.uuid4())}  # one key for all tries: they are one task
        answer = await self.client.insist("POST", "/task", token, self._goes_on, json=task.parameters, headers=headers)
        if answer is None or not self._is_right(answer.status, 200, f"POST /task: {answer.body!r}"):
            return
        task.accepted_at_s = time.time()
        task.task_id = answer.json
        if task.manner == "deletes":
            await asyncio.sleep(rng.uniform(0, 0.5))
            await self._delete(task, token)
        elif task.manner == "follows":
            await self._follow(task, token)

    async def _delete(self, task: AskedTask, token: str) -> None:
        path = f"/task/{task.task_id}"
        answer = await self.client.insist("DELETE", path, token, self._goes_on)
        if answer is not None and self._is_right(answer.status, 204, f"DELETE {path}: {answer.body!r}"):
            task.deleted_at_s = time.time()

    async def _follow(self, task: AskedTask, token: str) -> None:
        path = f"/task/{task.task_id}"
        deadline = time.monotonic() + _FOLLOWS_FOR_S
        while time.monotonic() < deadline:
            answer = await self.client.insist("GET", path, token, self._goes_on)
            if answer is None or not self._is_right(answer.status, 200, f"GET {path}: {answer.body!r}"):
                return
            if answer.json["event_type"] in TERMINAL_TYPES:
                return
            await asyncio.sleep(_POLL_S)

    async def _get_picture(self, task: AskedTask, token: str, rng: random.Random) -> None:
        """One try: the task of a waiting GET that broke has no id that is known here."""
        parameters = {name: str(value) for name, value in task.parameters.items() if name != "params_type"}
        path = f"/{task.kind}"
        if task.manner == "leaves":
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(rng.uniform(0.05, 0.5)):
                    await self.client.request("GET", path, token, params=parameters)
            return
        answer = await self.client.request("GET", path, token, params=parameters)
        if answer is not None and self._is_right(answer.status, 200, f"GET {path}: {answer.body!r}"):
            task.blob_url = answer.json["blob_url"]

    def _goes_on(self) -> bool:
        return time.monotonic() < self._ends_at

    def _is_right(self, status: int, expected: int, told: str) -> bool:
        if status != expected:
            self.client.wrong_answers.append(f"{status} and not {expected} to {told}")
        return status == expected
