"""Sends the events of a session to one websocket client: what it missed, from the log, then what comes.

A client that names the last sequence that it has (`since`) gets what came after it from the log first (ADR 21).
"""

from __future__ import annotations

from pydantic_core import from_json

from sd_common import subjects
from sd_common.logged_event import LoggedEvent
from sd_common.task_log import TaskLog
from sd_gateway.authn import Identity
from sd_gateway.client_socket import ClientSocket
from sd_gateway.event_feed import EventFeed
from sd_gateway.outbox import Outbox

#: Ended tasks that are remembered, to be told no progress of: a worker drops a cancelled one at its next step, by which
#: hardly more tasks of a session end. As many may be unfinished by default.
_NUM_ENDED = 1000


class SessionEvents:
    """The events of one session, to one client."""

    def __init__(
        self,
        identity: Identity,
        feed: EventFeed,
        task_log: TaskLog,
        outbox: Outbox,
        client: ClientSocket,
        send_timeout_s: float,
    ) -> None:
        self._identity = identity
        self._feed = feed
        self._task_log = task_log
        self._outbox = outbox
        self._client = client
        self._send_timeout_s = send_timeout_s
        #: The tasks whose terminal event was sent, the last of them: their ids, in the order of their ends.
        self._ended: dict[str, None] = {}

    async def send(self, since: int | None) -> None:
        """Send what was stored after the sequence `since`, where given, then what the outbox is given.

        Returns never. Raises `asyncio.QueueFull` and `TimeoutError` where the client is too slow, `ConnectionError`
        where it has gone, and `Unavailable` where the log cannot be read.
        """
        replayed_to = 0 if since is None else await self._replay(since)
        while True:
            message = await self._outbox.get()
            if isinstance(message, LoggedEvent):
                if message.sequence <= replayed_to:
                    continue
                replayed_to = 0  # the feed is past it: a lower sequence would be that of a stream made anew
                await self._send_event(message)
            elif str(from_json(message).get("task_id")) not in self._ended:
                await self._client.send(message, self._send_timeout_s)

    async def _send_event(self, event: LoggedEvent) -> None:
        await self._client.send(event.shown(), self._send_timeout_s)
        if event.is_terminal:
            self._ended[event.ref.task_id] = None
            if len(self._ended) > _NUM_ENDED:
                del self._ended[next(iter(self._ended))]

    async def _replay(self, since: int) -> int:
        """Send what was stored after `since`, and return the sequence up to which the outbox adds nothing to it.

        What is told meanwhile waits in the outbox. Should it not hold all that, it begins anew and the log is read on.
        """
        user, session = self._identity.user, self._identity.session
        sent = since
        while True:
            self._outbox.begin_anew()
            recent = self._feed.recent.of_session(user, session, sent)
            async for event in self._task_log.replay(subjects.events_of_session(user, session), sent + 1):
                await self._send_event(event)
                sent = event.sequence
            for event in recent:  # a replica that lags has not shown these
                if event.sequence > sent:
                    await self._send_event(event)
                    sent = event.sequence
            if not self._outbox.is_full:
                self._outbox.drop_progress()  # of tasks that may have been told to have ended since
                return sent
