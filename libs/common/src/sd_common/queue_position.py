"""How many jobs are taken before a job: its position in its model's queue, from where NATS stands (ADR 18).

Nothing is kept for it. Of each lane, its consumer tells how many jobs no worker was given yet; a direct get tells how
many of a lane are behind a job.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import nats.errors
from nats.js.errors import NotFoundError

from sd_common.errors import SubjectError, Unavailable
from sd_common.lanes import LANES, NUM_IN_A_ROW, Lane
from sd_common.nats_client import NatsClient
from sd_common.stream_reader import StreamReader
from sd_common.streams import JOBS, jobs_consumer_name
from sd_common.subjects import ModelLane, parse_jobs_subject

#: A position is told beside what was asked for: that must not wait long for it.
_TIMEOUT_S = 1.0


def position(lane: Lane, place: int, num_waiting: Mapping[Lane, int]) -> int:
    """The position of the job that is `place`-th in its lane, from 1, by the jobs that wait in each lane.

    As the lanes have turns (`sd_worker.lane_turns`), beginning with the earliest. Where a worker is elsewhere in its
    turns, it takes the job up to three later.
    """
    index = LANES.index(lane)
    num_later = sum(num_waiting[later] for later in LANES[index + 1 :])
    num_taken = place + min(num_later, (place - 1) // NUM_IN_A_ROW)
    for earlier in reversed(LANES[:index]):
        num_taken += min(num_waiting[earlier], NUM_IN_A_ROW * num_taken)
    return num_taken


class QueuePositions:
    """Positions of jobs."""

    def __init__(self, client: NatsClient) -> None:
        self._js = client.jetstream(timeout=_TIMEOUT_S)
        self._reader = StreamReader(client, JOBS)

    async def of(self, job_sequence: int) -> int | None:
        """The job's position: 1 is taken next. None where it is gone or of no lane, or NATS does not tell in
        time."""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                return await self._of(job_sequence)
        except (SubjectError, Unavailable, nats.errors.Error, TimeoutError):
            return None

    async def _of(self, job_sequence: int) -> int:
        job = await self._js.get_msg(JOBS, seq=job_sequence, direct=True)
        own = parse_jobs_subject(str(job.subject))
        lanes = [ModelLane(own.model_key, lane) for lane in LANES]
        *waiting, num_from_job_on = await asyncio.gather(
            *(self._num_waiting(lane) for lane in lanes), self._reader.num_from(own.jobs, job_sequence)
        )
        num_waiting = dict(zip(LANES, waiting, strict=True))
        # Less than 1 where it was given out before: handed back, it is the next.
        place = num_waiting[own.lane] - num_from_job_on + 1
        return position(own.lane, place, num_waiting) if place >= 1 else 1

    async def _num_waiting(self, lane: ModelLane) -> int:
        """Jobs that no worker was given yet."""
        try:
            return (await self._js.consumer_info(JOBS, jobs_consumer_name(lane))).num_pending or 0
        except NotFoundError:  # no worker has looked at this lane
            return await self._reader.num_from(lane.jobs, 1)
