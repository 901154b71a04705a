"""One task's events as they are stored, for who may read no more of the log than the last of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack

import nats.errors
import structlog
from nats.aio.msg import Msg
from pydantic import ValidationError

from sd_common.errors import Unavailable
from sd_common.events import ProgressEvent, is_terminal
from sd_common.nats_client import NatsClient
from sd_common.subjects import TaskRef
from sd_common.task_log import LoggedEvent, StoredEventModel, TaskLog, event_of_feed

log = structlog.get_logger(__name__)

#: Seconds of silence after which the last event is read: a replica that was behind may have hidden it before.
_LOOK_EVERY_S = 15.0


async def follow_task(
    client: NatsClient, task_log: TaskLog, ref: TaskRef, *, progress: bool = False
) -> AsyncGenerator[StoredEventModel | ProgressEvent, None]:
    """The task's events from its last one on, each once and in order, up to the terminal one. Waits where it has none.

    After a reconnect it goes on with the event that is the last by then: those before it that were missed are not told;
    the terminal one always is. `progress`: tell steps too, some of which may be missed. Raises `Unavailable` where NATS
    does not answer at first.
    """
    heard = _Heard(task_log, ref)
    async with AsyncExitStack() as stack:
        # Before the log is read: what is stored later is heard.
        await stack.enter_async_context(_subscribed(client, ref.feed, heard.on_feed))
        if progress:
            await stack.enter_async_context(_subscribed(client, ref.progress, heard.on_progress))
        stack.callback(client.on_reconnect(heard.look_again))
        await heard.look()
        last_sequence = 0
        while True:
            told = await heard.next()
            if isinstance(told, ProgressEvent):
                yield told
            elif told.sequence > last_sequence:
                last_sequence = told.sequence
                try:
                    event = told.event
                except ValidationError:
                    log.warning("event_of_a_later_version_ignored", task_id=ref.task_id, sequence=told.sequence)
                    continue
                yield event
                if is_terminal(event):
                    return


class _Heard:
    """What the feed and the log tell of a task, in the order in which it came."""

    def __init__(self, task_log: TaskLog, ref: TaskRef) -> None:
        self._task_log = task_log
        self._ref = ref
        self._queue: asyncio.Queue[LoggedEvent | ProgressEvent] = asyncio.Queue()

    async def next(self) -> LoggedEvent | ProgressEvent:
        """What comes next. The log is read where nothing does for long."""
        while True:
            try:
                async with asyncio.timeout(_LOOK_EVERY_S):
                    return await self._queue.get()
            except TimeoutError:
                await self.look_again()

    async def look(self) -> None:
        """Read the task's last event. Raises `Unavailable`.

        It stands behind what was heard before the answer: of two events at once the feed has both, the log the last.
        """
        if (last := await self._task_log.last(self._ref)) is not None:
            self._queue.put_nowait(last)

    async def look_again(self) -> None:
        """As `look`; where NATS does not answer, the next reconnect or silence leads here again."""
        with contextlib.suppress(Unavailable):
            await self.look()

    async def on_feed(self, message: Msg) -> None:
        self._queue.put_nowait(event_of_feed(message))

    async def on_progress(self, message: Msg) -> None:
        with contextlib.suppress(ValidationError):  # of a later version
            self._queue.put_nowait(ProgressEvent.model_validate_json(message.data))


@contextlib.asynccontextmanager
async def _subscribed(
    client: NatsClient, subject: str, callback: Callable[[Msg], Awaitable[None]]
) -> AsyncGenerator[None, None]:
    subscription = await client.subscribe(subject, cb=callback)
    try:
        yield
    finally:
        with contextlib.suppress(nats.errors.Error):  # the connection was closed
            await subscription.unsubscribe()
