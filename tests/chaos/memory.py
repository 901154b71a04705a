"""How much memory the processes take that must not grow."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import psutil

from chaos.fleet import Fleet
from chaos.parts import PartKind

_WATCHED: tuple[PartKind, ...] = ("gateway", "nats-server")
_SAMPLE_S = 0.5
#: Seconds of its life after which a process counts as started: it has imported and connected by then.
_STARTED_AFTER_S = 3.0


@dataclass
class Growth:
    """The resident memory of one process, in bytes."""

    kind: PartKind
    at_start: int
    at_most: int

    @property
    def num_bytes(self) -> int:
        return self.at_most - self.at_start


class MemoryWatch:
    """One entry for each process that lived long enough to be looked at."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._processes: dict[int, Growth] = {}

    def worst(self, kind: PartKind) -> Growth | None:
        """The process of this kind that grew most."""
        grown = [growth for growth in self._processes.values() if growth.kind == kind]
        return max(grown, key=lambda growth: growth.num_bytes, default=None)

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Look twice a second while inside."""
        watching = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        first_seen: dict[int, float] = {}
        while True:
            for part in self._fleet.parts.values():
                if part.kind not in _WATCHED:
                    continue
                pid = part.pid
                if loop.time() - first_seen.setdefault(pid, loop.time()) < _STARTED_AFTER_S:
                    continue
                with contextlib.suppress(psutil.NoSuchProcess):
                    rss = psutil.Process(pid).memory_info().rss
                    growth = self._processes.setdefault(pid, Growth(part.kind, rss, rss))
                    growth.at_most = max(growth.at_most, rss)
            await asyncio.sleep(_SAMPLE_S)
