"""For publishers: submit tasks without a gateway, follow them, wait for their pictures, cancel them.

It asks NATS for no more than a publisher may, whose user name is NAME:

    publish      jobs.*  events.NAME.*.*  cancels.*  $JS.API.DIRECT.GET.EVENTS.events.NAME.>
    subscribe    feed.NAME.>  progress.NAME.>  _INBOX_NAME.>

With these a task's last event can be read, and no earlier one.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator

from sd_common.abort import Aborter
from sd_common.blob_ids import new_blob_id
from sd_common.errors import TaskAborted
from sd_common.events import AbortedEvent, FinishedEvent, ProgressEvent, StoredEvent
from sd_common.follow_task import TaskFollower
from sd_common.job_queue import JobQueue
from sd_common.jobs import Job
from sd_common.nats_client import NatsClient
from sd_common.parameters import AnyParameters
from sd_common.queue_task import queue_task
from sd_common.subjects import TaskRef, check_token
from sd_common.task_log import TaskLog


class JobClient:
    """Tasks of one publisher, over a connection that it brings."""

    def __init__(self, client: NatsClient, user: str | None = None, session: str = "jobs") -> None:
        """Tasks belong to `user`, which is the user name in `NATS_URL` unless given, and to `session`, a name of the
        publisher's choice. Raises `SubjectError` for names that cannot stand in a subject, `ValueError` without a user.
        """
        user = user or client.user
        if user is None:
            raise ValueError("NATS_URL has no user name: write nats://USER:PASSWORD@HOST:PORT, or give `user`")
        self._user, self._session = check_token(user), check_token(session)
        self._queue = JobQueue(client)
        self._task_log = TaskLog(client, asks_leader=False)
        self._aborter = Aborter(client, None, self._task_log)
        self._follower = TaskFollower(client, self._task_log, self._user)

    async def submit(
        self, parameters: AnyParameters, *, task_id: str | None = None, blob_id: str | None = None
    ) -> TaskRef:
        """Queue a task, with its picture to go to `blob_id`. Both ids are drawn unless given.

        Raises `QueueFull`: nothing is queued then; and `Unavailable` after 12 s without NATS, where nobody knows
        whether it is: submit with a `task_id` of your own, and once more with the same one, which makes no second task.
        """
        job = Job(
            task_id=task_id or str(uuid.uuid4()),
            user=self._user,
            session=self._session,
            blob_id=blob_id or new_blob_id(),
            parameters=parameters,
        )
        await self._follower.listen()  # other servers of a cluster have heard of it when the task is followed
        await queue_task(self._queue, self._task_log, job)
        return job.ref

    def follow(self, ref: TaskRef, *, progress: bool = False) -> AsyncGenerator[StoredEvent | ProgressEvent, None]:
        """The task's events, as `TaskFollower.follow` tells them. Raises `EndOfLaterVersion` and `Unavailable` as that
        does."""
        return self._follower.follow(ref, progress=progress)

    async def wait(self, ref: TaskRef, timeout_s: float | None = None) -> FinishedEvent:
        """Wait for the picture: the gateway serves it at `result.blob_url` of the returned event, to whoever knows that
        URL. Its last part is the blob id, which is the picture's name in the bucket.

        Raises `TaskAborted`, whose `event` says why; `TimeoutError` after `timeout_s`, when the task goes on; and
        `EndOfLaterVersion` and `Unavailable` as `follow` does.
        """
        async with asyncio.timeout(timeout_s), contextlib.aclosing(self.follow(ref)) as events:
            async for event in events:
                if isinstance(event, FinishedEvent):
                    return event
                if isinstance(event, AbortedEvent):
                    raise TaskAborted(event)
        raise AssertionError("a task is followed to its terminal event")

    async def cancel(self, ref: TaskRef) -> None:
        """End the task, queued or running, unless it has ended. The job of a queued one stays in the queue until a
        worker takes it, and drops it. Raises `Unavailable`."""
        await self._aborter.abort(ref)
