"""Which running tasks are to be dropped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import nats.errors
import structlog
from nats.aio.msg import Msg

from sd_common import subjects
from sd_common.errors import SubjectError, Unavailable
from sd_common.nats_client import NatsClient
from sd_common.subjects import TaskRef
from sd_common.task_log import TaskLog

log = structlog.get_logger(__name__)

#: Before another look, where NATS did not answer for long.
_RETRY_PAUSE_S = 1.0


@dataclass(eq=False)
class Cancellation:
    """Whether one task is to be dropped."""

    ref: TaskRef
    requested: bool = False
    #: Somebody says that it is: look into the log.
    told: asyncio.Event = field(default_factory=asyncio.Event)
    _on_request: list[Callable[[], None]] = field(default_factory=list)

    def on_request(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the task is to be dropped; at once if it is already."""
        self._on_request.append(callback)
        if self.requested:
            callback()

    def request(self) -> None:
        if not self.requested:
            self.requested = True
            for callback in self._on_request:
                callback()


class Cancellations:
    """Listens to `cancels.*` for the tasks that this worker runs.

    A cancel counts for nothing by itself: others than gateways may send one. It has the worker look into the task's
    log, whether it has ended: of each task of that id, since users and sessions may have the same. So has a reconnect,
    since cancels that are sent meanwhile are lost.
    """

    def __init__(self, client: NatsClient, task_log: TaskLog) -> None:
        self._client = client
        self._task_log = task_log
        self._watched: set[Cancellation] = set()

    async def start(self) -> None:
        await self._client.subscribe(subjects.CANCELS, cb=self._on_cancel)
        self._client.on_reconnect(self._look_at_all)

    @contextmanager
    def watched(self, ref: TaskRef) -> Iterator[Cancellation]:
        """Listen for the task's cancellation while inside. Enter before `started` is written: whoever aborts the
        task after that sends a cancel, whoever did before makes that write fail."""
        cancellation = Cancellation(ref)
        self._watched.add(cancellation)
        looking = asyncio.create_task(self._look_when_told(cancellation), name="look-for-end")
        try:
            yield cancellation
        finally:
            looking.cancel()
            self._watched.discard(cancellation)

    async def _on_cancel(self, message: Msg) -> None:
        try:
            task_id = subjects.task_id_of_cancel(message.subject)
        except SubjectError:
            return
        for cancellation in self._watched:
            if cancellation.ref.task_id == task_id:
                cancellation.told.set()

    async def _look_at_all(self) -> None:
        for cancellation in self._watched:
            cancellation.told.set()

    async def _look_when_told(self, cancellation: Cancellation) -> None:
        """One look at a time, however many cancels come."""
        while not cancellation.requested:
            await cancellation.told.wait()
            cancellation.told.clear()
            try:
                # The leader's: a replica may not have it yet.
                last = await self._task_log.last(cancellation.ref, of_leader=True)
            except (Unavailable, nats.errors.Error):
                log.warning("cancel_not_looked_up", task_id=cancellation.ref.task_id)
                cancellation.told.set()
                await asyncio.sleep(_RETRY_PAUSE_S)
                continue
            if last is not None and last.is_terminal:
                cancellation.request()
