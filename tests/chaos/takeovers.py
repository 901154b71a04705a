"""How long a task waits for another worker once its own is gone: under chaos, and with nothing else disturbed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import pairwise

from chaos.disturbances import Happened
from chaos.evidence import Told, by_task
from chaos.fleet import Fleet
from support.client import Client

#: Some seconds on one core.
_LONG = {"prompt": "x", "model": "shapes", "steps": 300, "width": 128, "height": 128, "scheduler": "ddim"}


async def measure_takeovers_s(fleet: Fleet, num_kills: int) -> list[float]:
    """Kill a worker in the middle of the one task that there is, again and again. Leaves the fleet as it was."""
    takeovers_s: list[float] = []
    async with Client(fleet.gateway_urls()[fleet.names_of("gateway")[0]]) as session:
        await session.take_public_token()
        for _ in range(num_kills):
            async with (
                session.events() as events
            ):  # pings are answered while somebody listens: not while a worker starts
                task_id = await session.submit(**_LONG)
                worker = fleet.parts[(await events.until(task_id, "started"))["worker"]]
                killed_at = time.time()
                await fleet.do(worker.kill)
                again = await events.until(task_id, "started")
            takeovers_s.append(datetime.fromisoformat(again["time"]).timestamp() - killed_at)
            await session.delete(f"/task/{task_id}")
            await fleet.do(worker.start)
    return takeovers_s


def takeover_times_s(happened: Iterable[Happened], events: Sequence[Told]) -> list[float]:
    """From each SIGKILL of a worker to the next start of every task that it ran, sorted."""
    killed = [
        (entry.disturbance.part, entry.at_s)
        for entry in happened
        if entry.disturbance.kind == "worker" and entry.disturbance.deed == "killed"
    ]
    return sorted(seconds for worker, at_s in killed for seconds in _after_kill(worker, at_s, events))


def _after_kill(worker: str, at_s: float, events: Sequence[Told]) -> Iterator[float]:
    for told in by_task(events).values():
        for event, following in pairwise(told):
            ran_then = event.type == "started" and event.body["worker"] == worker and event.at_s < at_s
            if ran_then and following.at_s > at_s and following.type == "started":
                yield following.at_s - at_s
