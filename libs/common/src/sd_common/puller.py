"""Jobs from one consumer, with one outstanding pull request.

`PullSubscription.fetch` of nats-py loses a job until ack_wait when it is cancelled, and a pending fetch does not
survive a reconnect. Here replies are read by a callback into a queue: cancelling `next` cancels only the waiting. A
request is sent again after a reconnect, after missed heartbeats, and when the server ended it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from sd_common.nats_client import NatsClient
from sd_common.timed_wait import set_within

#: Seconds after which the server ends a pull request that found no job.
_EXPIRES_S = 20.0
_HEARTBEAT_S = 2.0
#: A server sends a heartbeat every `_HEARTBEAT_S`: after this long without one, the request is lost.
_LOST_AFTER_S = 2.5 * _HEARTBEAT_S
#: Then seconds to read what has come already, should this process have been busy: a second request brings a second job.
_GRACE_S = 0.2
#: Pause before another request where the server refused one (no such consumer, too many waiting).
_REFUSED_PAUSE_S = 0.5

_STATUS_HEARTBEAT = "100"
#: Ordinary ends of a request: no messages, or expired.
_STATUS_ENDED = ("404", "408")


#: Waits for a job.
_WAITING_REQUEST = json.dumps(
    {"batch": 1, "expires": int(_EXPIRES_S * 1e9), "idle_heartbeat": int(_HEARTBEAT_S * 1e9)}
).encode()
#: Ends at once where there is no job.
_HASTY_REQUEST = json.dumps({"batch": 1, "no_wait": True}).encode()
_HASTY_TIMEOUT_S = 1.0
_CLOSE_TIMEOUT_S = 2.0


class Puller:
    """Takes jobs one at a time. Open with `start`; `close` hands back what was not taken."""

    def __init__(self, client: NatsClient, stream: str, consumer: str, heard: asyncio.Event | None = None) -> None:
        """`heard` is set at every reply. Pullers that `next_of` waits for at once share it."""
        self._client = client
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._inbox = client.new_inbox()
        self._jobs: asyncio.Queue[Msg] = asyncio.Queue()
        self._heard = heard or asyncio.Event()
        self._num_requests = 0
        self._lost_at = 0.0
        self._is_outstanding = False
        self._was_lost = False
        self._was_refused = False
        self._closing = False
        #: While it closes: jobs that came, and whether the server has answered the last request.
        self._num_late = 0
        self._was_answered = asyncio.Event()
        self._is_interrupted = False
        self._subscription: Subscription | None = None
        self._forget_reconnects = client.on_reconnect(self._lose_request)

    @property
    def was_refused(self) -> bool:
        """Whether the server refused the last request, as it does where the consumer was deleted."""
        return self._was_refused

    @property
    def may_bring_a_job(self) -> bool:
        """Whether a job may come that nobody waits for: a pull is open, or one was never answered."""
        return self._is_outstanding or self._was_lost or not self._jobs.empty()

    async def start(self) -> None:
        """Subscribe to the replies. Nothing is pulled before the first `next`."""
        self._subscription = await self._client.subscribe(f"{self._inbox}.*", cb=self._on_reply)

    async def next(self, timeout_s: float) -> Msg | None:
        """A job; None when none came within `timeout_s`, or when interrupted. Safe to cancel. The pull stays open."""
        return await next_of([self], timeout_s)

    def interrupt(self) -> None:
        """End the wait of `next`, if there is one."""
        self._is_interrupted = True
        self._heard.set()

    async def next_if_any(self) -> Msg | None:
        """A job that waits now, or None. Safe to cancel. Where a pull is open, that pull has what there was."""
        if self._jobs.empty() and not self._is_outstanding:
            await self._pull(_HASTY_REQUEST)
            try:
                async with asyncio.timeout(_HASTY_TIMEOUT_S):
                    while self._is_outstanding:  # others may be heard meanwhile
                        self._heard.clear()
                        await self._heard.wait()
            except TimeoutError:
                await self._lose_request()
        return None if self._jobs.empty() else self._jobs.get_nowait()

    async def close(self) -> None:
        """Stop pulling. Jobs that arrive late or were not taken go back to the queue at once."""
        self._closing = True
        self._forget_reconnects()
        if self._subscription is not None and self._client.is_connected:
            # Not cancelled when it takes too long, as with a server that has gone: that would break the connection.
            draining = asyncio.ensure_future(self._drain(self._subscription))
            draining.add_done_callback(lambda done: done.cancelled() or done.exception())
            await asyncio.wait([draining], timeout=_CLOSE_TIMEOUT_S)
        while not self._jobs.empty():
            await self._jobs.get_nowait().nak()

    async def _drain(self, subscription: Subscription) -> None:
        # nats-server takes a request up after it has read what follows it. Where the inbox has gone by then, and is of
        # another account than the stream, it sends a job to nobody, which is lost for ack_wait (seen on 2.15). Requests
        # are taken up in their order: once a hasty one is answered, the pull was taken up.
        if self._is_outstanding or self._was_lost:
            self._was_answered.clear()
            self._num_requests += 1
            await self._client.publish(self._subject, _HASTY_REQUEST, reply=f"{self._inbox}.{self._num_requests}")
            await set_within(self._was_answered, _HASTY_TIMEOUT_S)
        await subscription.drain()  # type: ignore[no-untyped-call]

    async def _pull(self, request: bytes) -> None:
        if self._was_refused:
            self._was_refused = False
            await asyncio.sleep(_REFUSED_PAUSE_S)
        self._num_requests += 1
        self._is_outstanding = True
        self._expect_to_hear()
        await self._client.publish(self._subject, request, reply=f"{self._inbox}.{self._num_requests}")

    async def _on_reply(self, message: Msg) -> None:
        status = message.headers.get("Status") if message.headers else None
        if status is None:  # a job: what the server says itself has a status
            if self._closing:
                self._num_late += 1
                if self._num_late > 1:  # the first is the pull's
                    self._was_answered.set()
                await message.nak()
                return
            self._jobs.put_nowait(message)
            self._is_outstanding = False
        elif status != _STATUS_HEARTBEAT and message.subject.endswith(f".{self._num_requests}"):
            self._is_outstanding = False
            self._was_refused = status not in _STATUS_ENDED
            self._was_answered.set()
        self._expect_to_hear()
        self._heard.set()

    def _expect_to_hear(self) -> None:
        self._lost_at = asyncio.get_running_loop().time() + _LOST_AFTER_S

    async def _lose_request(self) -> None:
        self._was_lost |= self._is_outstanding
        self._is_outstanding = False
        self._was_refused = False
        self._heard.set()


async def next_of(pullers: Sequence[Puller], timeout_s: float) -> Msg | None:
    """A job of whichever puller has one first, the earlier ones before the later. They share `heard`.

    Otherwise as `Puller.next`: safe to cancel, and all pulls stay open.
    """
    loop = asyncio.get_running_loop()
    heard = pullers[0]._heard
    for puller in pullers:
        puller._is_interrupted = False
    deadline = loop.time() + timeout_s
    while True:
        for puller in pullers:
            if not puller._jobs.empty():
                return puller._jobs.get_nowait()
        heard.clear()  # before the pulls: what is heard during them must not be missed
        for puller in pullers:
            if not puller._is_outstanding:
                await puller._pull(_WAITING_REQUEST)
        now = loop.time()
        if now >= deadline or any(puller._is_interrupted for puller in pullers):
            return None
        lost_at = min(puller._lost_at for puller in pullers)
        is_overdue = now >= lost_at
        try:
            # Not `wait_for`: in Python 3.11 it swallows a cancellation that comes together with the job.
            async with asyncio.timeout_at(min(deadline, now + _GRACE_S if is_overdue else lost_at)):
                await heard.wait()
        except TimeoutError:
            for puller in pullers:
                if is_overdue and now >= puller._lost_at:
                    await puller._lose_request()
