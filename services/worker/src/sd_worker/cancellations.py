"""Which running tasks are to be dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import structlog
from nats.aio.msg import Msg

from sd_common import subjects
from sd_common.errors import SubjectError, Unavailable
from sd_common.events import TERMINAL_TYPES
from sd_common.nats_client import NatsClient
from sd_common.subjects import TaskRef
from sd_common.task_log import TaskLog

log = structlog.get_logger(__name__)


@dataclass(eq=False)
class Cancellation:
    """Whether one task is to be dropped."""

    ref: TaskRef
    requested: bool = False
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
    """Listens to `cancels.*` for the tasks that this worker runs."""

    def __init__(self, client: NatsClient, task_log: TaskLog) -> None:
        self._client = client
        self._task_log = task_log
        self._watched: dict[str, Cancellation] = {}

    async def start(self) -> None:
        await self._client.subscribe(subjects.CANCELS, cb=self._on_cancel)
        self._client.on_reconnect(self._recheck)

    @contextmanager
    def watched(self, ref: TaskRef) -> Iterator[Cancellation]:
        """Listen for the task's cancellation while inside. Enter before `started` is written: whoever aborts the
        task after that sends a cancel, whoever did before makes that write fail."""
        cancellation = Cancellation(ref)
        self._watched[ref.task_id] = cancellation
        try:
            yield cancellation
        finally:
            if self._watched.get(ref.task_id) is cancellation:
                del self._watched[ref.task_id]

    async def _on_cancel(self, message: Msg) -> None:
        try:
            task_id = subjects.task_id_of_cancel(message.subject)
        except SubjectError:
            return
        if cancellation := self._watched.get(task_id):
            cancellation.request()

    async def _recheck(self) -> None:
        """Cancels are not stored: those sent while this worker was away are found in the log."""
        for cancellation in list(self._watched.values()):
            try:
                last = await self._task_log.last(cancellation.ref)
            except Unavailable:
                log.warning("recheck_of_cancellations_failed")
                return
            if last is not None and last.event_type in TERMINAL_TYPES:
                cancellation.request()
