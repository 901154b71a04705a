"""What waits in the queue, from whichever worker told it last: the gateway asks nobody for it."""

from __future__ import annotations

import time
from collections.abc import Sequence

from nats.aio.msg import Msg
from pydantic import ValidationError

from sd_common import subjects
from sd_common.backlog import Backlog, LaneBacklog
from sd_common.nats_client import NatsClient

#: Workers tell it three or four times a second while one is idle, else every 5 to 7 s. What is older than this says
#: nothing of now: no worker is there.
_GOOD_FOR_S = 15.0


class HeardBacklog:
    """Keeps the last backlog as it came, and reads it when somebody asks."""

    def __init__(self, client: NatsClient) -> None:
        self._client = client
        self._last: tuple[float, bytes] | None = None

    async def start(self) -> None:
        """Listen."""
        await self._client.subscribe(subjects.BACKLOG, cb=self._on_backlog)

    def current(self) -> Sequence[LaneBacklog] | None:
        """The lanes that have jobs; None where no worker has told lately. Any thread may call it."""
        if self._last is None or time.monotonic() - self._last[0] > _GOOD_FOR_S:
            return None
        try:
            return Backlog.model_validate_json(self._last[1]).lanes
        except ValidationError:  # of a later version
            return None

    async def _on_backlog(self, message: Msg) -> None:
        self._last = time.monotonic(), message.data
