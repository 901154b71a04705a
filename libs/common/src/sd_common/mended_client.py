"""nats-py's client without faults of it that lose requests, break connections and swallow cancellations."""

from __future__ import annotations

import asyncio
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg


class MendedClient(Client):
    """Used as nats-py's; raises what that does."""

    async def flush(self, timeout: int = 10) -> None:
        """Return when the server has read all that was sent before.

        nats-py alone sends its PING ahead of the buffer: 2 of 1,500 requests right after a subscription found nobody.
        Cancelling its flush would be swallowed, or break the connection when the PONG comes; so it is never cancelled.
        """
        flushing = asyncio.ensure_future(self._flush_all(timeout))
        flushing.add_done_callback(lambda done: done.cancelled() or done.exception())  # told here where anybody waits
        await asyncio.shield(flushing)

    async def _flush_pending(self, force_flush: bool = False) -> Any:
        """As nats-py's, and as that on asyncio's own loop: uvloop refuses to write to a connection that has just gone,
        before nats-py knows that it has. What is pending stays so, and is sent after the reconnect."""
        try:
            return await super()._flush_pending(force_flush)
        except RuntimeError:
            flushed = asyncio.get_running_loop().create_future()
            flushed.set_result(None)
            return flushed

    async def _flush_all(self, timeout_s: int) -> None:
        await self._flush_pending(force_flush=True)
        await super().flush(timeout_s)

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        timeout: float = 0.5,
        old_style: bool = False,
        headers: dict[str, Any] | None = None,
    ) -> Msg:
        """nats-py alone swallows a cancellation that comes together with the answer (`asyncio.wait_for` of Python
        3.11): a service told to stop would go on."""
        task = asyncio.current_task()
        num_cancellations = task.cancelling() if task else 0
        answer = await super().request(subject, payload, timeout, old_style, headers)
        if task is not None and task.cancelling() > num_cancellations:
            raise asyncio.CancelledError
        return answer
