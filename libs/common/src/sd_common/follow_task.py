"""A task's events as they are stored, for those who may read its last one and no earlier one."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Iterator
from contextlib import AsyncExitStack

import structlog
from nats.aio.msg import Msg
from pydantic import ValidationError

from sd_common import subjects
from sd_common.errors import EndOfLaterVersion, Unavailable
from sd_common.events import ProgressEvent, StoredEvent
from sd_common.logged_event import LoggedEvent, event_of_feed
from sd_common.nats_client import NatsClient
from sd_common.retries import retried_while_away
from sd_common.subjects import TaskRef
from sd_common.task_log import TaskLog

log = structlog.get_logger(__name__)

#: Seconds of silence after which a task's last event is read; each time twice as many. In a cluster, other servers hear
#: of a new subscription a moment late, and a replica may be behind. Where each task had a subscription of its own, the
#: feed never told the end of 3 of 400 tasks that were followed from their beginning on.
_FIRST_SILENCE_S = 0.5
_MAX_SILENCE_S = 15.0


class TaskFollower:
    """Follows tasks of one user, by one subscription to all of them: it stands before most of the tasks begin."""

    def __init__(self, client: NatsClient, task_log: TaskLog, user: str) -> None:
        self._client = client
        self._task_log = task_log
        self._feed = subjects.feed_of_user(user)
        self._subscribing = asyncio.Lock()
        self._is_listening = False
        self._of_task: defaultdict[TaskRef, list[_Heard]] = defaultdict(list)

    async def listen(self) -> None:
        """Hear the feed from now on, if not yet. Raises `Unavailable`."""
        async with self._subscribing:
            if not self._is_listening:
                await retried_while_away(lambda: self._client.subscribe(self._feed, cb=self._on_feed))
                self._is_listening = True

    async def follow(
        self, ref: TaskRef, *, progress: bool = False
    ) -> AsyncGenerator[StoredEvent | ProgressEvent, None]:
        """The task's events from its last one on, each once and in order, up to the terminal one. Waits where it has
        none.

        After a reconnect it goes on with the event that is the last by then: those before it that were missed are not
        told; the terminal one always is. `progress`: tell steps too, some of which may be missed. Events of a later
        version are passed over, but for the terminal one: that raises `EndOfLaterVersion`. Raises `Unavailable` where
        NATS does not answer at first.
        """
        heard = _Heard(self._task_log, ref)
        async with AsyncExitStack() as stack:
            stack.enter_context(self._registered(heard))
            await self.listen()  # before the log is read: what is stored later is heard
            if progress:
                await self._hear_progress(stack, heard)
            stack.callback(self._client.on_reconnect(heard.look_again))
            await heard.look()
            last_sequence = 0
            while True:
                told = await heard.next()
                if isinstance(told, ProgressEvent):
                    yield told
                elif told.sequence > last_sequence:
                    last_sequence = told.sequence
                    event = told.known_event
                    if event is None and told.is_terminal:
                        raise EndOfLaterVersion(ref.task_id, told.event_type)
                    if event is None:
                        log.warning("event_of_a_later_version_ignored", task_id=ref.task_id, sequence=told.sequence)
                        continue
                    yield event
                    if told.is_terminal:
                        return

    async def _hear_progress(self, stack: AsyncExitStack, heard: _Heard) -> None:
        def subscribe() -> Awaitable[object]:
            return stack.enter_async_context(self._client.subscribed(heard.ref.progress, heard.on_progress))

        await retried_while_away(subscribe)

    @contextlib.contextmanager
    def _registered(self, heard: _Heard) -> Iterator[None]:
        self._of_task[heard.ref].append(heard)
        try:
            yield
        finally:
            self._of_task[heard.ref].remove(heard)
            if not self._of_task[heard.ref]:
                del self._of_task[heard.ref]

    async def _on_feed(self, message: Msg) -> None:
        try:
            event = event_of_feed(message)
        except ValueError:
            log.warning("feed_message_ignored", subject=message.subject)
            return
        for heard in self._of_task.get(event.ref, ()):
            heard.add(event)


class _Heard:
    """What the feed and the log tell of a task, in the order in which it came."""

    def __init__(self, task_log: TaskLog, ref: TaskRef) -> None:
        self.ref = ref
        self._task_log = task_log
        self._silence_s = _FIRST_SILENCE_S
        self._queue: asyncio.Queue[LoggedEvent | ProgressEvent] = asyncio.Queue()

    async def next(self) -> LoggedEvent | ProgressEvent:
        """What comes next. The log is read where nothing does for long."""
        while True:
            try:
                async with asyncio.timeout(self._silence_s):
                    return await self._queue.get()
            except TimeoutError:
                silence_s = self._silence_s
                await self.look_again()
                self._silence_s = min(2 * silence_s, _MAX_SILENCE_S)

    async def look(self) -> None:
        """Read the task's last event. Raises `Unavailable`.

        It stands behind what was heard before the answer: of two events at once the feed has both, the log the last.
        """
        if (last := await self._task_log.last(self.ref)) is not None:
            self._queue.put_nowait(last)

    async def look_again(self) -> None:
        """As `look`; where NATS does not answer, the next reconnect or silence leads here again."""
        self._silence_s = _FIRST_SILENCE_S
        with contextlib.suppress(Unavailable):
            await self.look()

    def add(self, event: LoggedEvent) -> None:
        """Take what the feed tells."""
        self._queue.put_nowait(event)

    async def on_progress(self, message: Msg) -> None:
        with contextlib.suppress(ValidationError):  # of a later version
            self._queue.put_nowait(ProgressEvent.model_validate_json(message.data))
