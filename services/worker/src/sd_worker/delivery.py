"""A job as NATS gave it to this worker: whether another may have been given it since, and what NATS is told of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping

import nats.errors
from nats.aio.msg import Msg

from sd_common.retries import retried_while_away

#: How often a job is told to be in progress within its ack_wait: two such messages may get lost.
_NUM_TOLD_PER_ACK_WAIT = 3


class Delivery:
    """One delivery of a job. Made when it has come."""

    def __init__(self, message: Msg, ack_wait_s: float) -> None:
        self._message = message
        self._ack_wait_s = ack_wait_s
        self._told_at = asyncio.get_running_loop().time()
        self._has_lapsed = False

    @property
    def subject(self) -> str:
        return self._message.subject

    @property
    def data(self) -> bytes:
        return self._message.data

    @property
    def headers(self) -> Mapping[str, str] | None:
        return self._message.headers

    @property
    def job_sequence(self) -> int:
        """Of the job in JOBS."""
        return self._message.metadata.sequence.stream

    @property
    def number(self) -> int:
        """1 for the first delivery of the job; a later one makes it void."""
        return self._message.metadata.num_delivered

    @property
    def has_lapsed(self) -> bool:
        """Whether NATS was told nothing for longer than ack_wait, as by a process that stood still: it gives the job to
        another then. The clock goes on while a process stands still."""
        self._has_lapsed |= asyncio.get_running_loop().time() - self._told_at > self._ack_wait_s
        return self._has_lapsed

    async def acknowledge(self) -> None:
        """The job is done. Returns when NATS has heard it; raises `Unavailable`, and what nats-py does."""
        await retried_while_away(self._message.ack_sync)

    async def hand_back(self, delay_s: float | None = None) -> None:
        """NATS may give the job to another, after `delay_s`. Raises what nats-py does."""
        await self._message.nak(delay=delay_s)

    async def terminate(self) -> None:
        """NATS gives the job to nobody any more. Raises what nats-py does."""
        await self._message.term()

    @contextlib.asynccontextmanager
    async def kept_in_progress(self) -> AsyncIterator[None]:
        """NATS gives the job to nobody else while inside."""
        keeping = asyncio.create_task(self._keep(), name="keep-in-progress")
        try:
            yield
        finally:
            keeping.cancel()

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self._ack_wait_s / _NUM_TOLD_PER_ACK_WAIT)
            with contextlib.suppress(nats.errors.Error):
                await self._message.in_progress()
                if not self.has_lapsed:
                    self._told_at = asyncio.get_running_loop().time()
