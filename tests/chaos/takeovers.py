"""How long a task waits for another worker once its own is gone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from chaos.disturbances import Happened
from chaos.evidence import Told, by_task


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
