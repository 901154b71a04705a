"""What a run has shown: every broken promise, as a sentence."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from chaos.asked import AskedTask
from chaos.evidence import Bucket, Leftovers, Told, by_task
from chaos.memory import MemoryWatch
from chaos.parts import PartKind
from support.deployment import ACK_WAIT_S

#: Megabytes by which a process may grow in a run. A gateway keeps no task; nats-server caches blocks of its streams.
MAX_GROWTH_MB: dict[PartKind, int] = {"gateway": 64, "nats-server": 128}
_MB = 1_000_000
#: 2,000 tasks in ten minutes.
_MIN_ACCEPTED_PER_S = 2000 / 600
#: Seconds within which another worker runs the task of a killed one.
MAX_TAKEOVER_S = ACK_WAIT_S + 1.0
#: Seconds from acceptance within which a task must end: no part is away for long, so nothing may wait for long.
_ENDS_WITHIN_S = 120.0
#: The code of tasks that somebody gave up: nothing else ends one here without a picture.
_CANCELLED = "cancelled"
#: Clocks of one machine; NATS stamps an event before it answers.
_CLOCK_TOLERANCE_S = 0.005


@dataclass(frozen=True)
class Findings:
    """What was found out about the tasks of a run."""

    accepted: Sequence[AskedTask]
    events: Mapping[str, Sequence[Told]]

    def num_ended(self, event_type: str) -> int:
        """Accepted tasks whose terminal event is of this type."""
        return sum(1 for task in self.accepted if _types(self._told(task))[event_type])

    @property
    def num_lost(self) -> int:
        return sum(1 for task in self.accepted if not _num_terminal(self._told(task)))

    @property
    def num_doubled(self) -> int:
        """Of all tasks, not only of those accepted."""
        return sum(1 for told in self.events.values() if _num_terminal(told) > 1)

    def seconds_to_end(self) -> list[float]:
        """From the answer to the submission to the terminal event, sorted. Deleted tasks do not count."""
        return sorted(
            told[-1].at_s - task.accepted_at_s
            for task in self.accepted
            if task.accepted_at_s is not None and task.deleted_at_s is None and _num_terminal(told := self._told(task))
        )

    def _told(self, task: AskedTask) -> Sequence[Told]:
        return self.events.get(str(task.task_id), ())


def findings(asked: Iterable[AskedTask], events: Iterable[Told]) -> Findings:
    """Bring together what clients know and what the stream holds."""
    return Findings([task for task in asked if task.was_accepted], by_task(events))


def broken_promises_of_tasks(asked: Sequence[AskedTask], events: Sequence[Told]) -> Iterator[str]:
    """Every accepted task ended, each task ended once, and in order; what was answered is so."""
    tasks = by_task(events)
    for task in asked:
        told = tasks.get(str(task.task_id), [])
        if task.was_accepted and not _num_terminal(told):
            yield f"lost: {task} was accepted and has {_sequence_of(told)}"
        if task.accepted_at_s is not None and told and told[-1].at_s > task.accepted_at_s + _ENDS_WITHIN_S:
            yield f"took longer than {_ENDS_WITHIN_S:g} s: {task} has {_sequence_of(told)}"
        if task.was_accepted and task.manner != "deletes" and _types(told)["aborted"]:
            yield f"aborted though nobody asked for it: {task}: {told[-1].body}"
        if task.deleted_at_s is not None and told and told[-1].at_s > task.deleted_at_s + _CLOCK_TOLERANCE_S:
            yield f"deleted, and not ended when that was answered: {task} has {_sequence_of(told)}"
    for task_id, told in tasks.items():
        if _num_terminal(told) != 1:
            yield f"{_num_terminal(told)} terminal events: {task_id} has {_sequence_of(told)}"
        elif told[0].type != "pending" or not told[-1].is_terminal:
            yield f"out of order: {task_id} has {_sequence_of(told)}"
        codes = [event.body["code"] for event in told if event.type == "aborted"]
        if any(code != _CANCELLED for code in codes):
            yield f"aborted with {codes}: {task_id} was to be finished or cancelled"
        attempts = [event.body["attempt"] for event in told if event.type == "started"]
        if attempts != sorted(attempts) or set(attempts) != set(range(1, len(set(attempts)) + 1)):
            yield f"attempts {attempts} of {task_id}"
        finished = [event.body["attempt"] for event in told if event.type == "finished"]
        if finished and finished != attempts[-1:]:
            yield f"{task_id} was finished by attempt {finished} of {attempts}"
    urls = {event.body["result"]["blob_url"] for event in events if event.type == "finished"}
    for task in asked:
        if task.blob_url is not None and task.blob_url not in urls:
            yield f"answered with a picture of no finished task: {task}"


def broken_promises_of_keys(asked: Sequence[AskedTask], events: Sequence[Told]) -> Iterator[str]:
    """A submission that was tried again is one task. Tasks are known by the seeds of their pictures."""
    submitted = {task.number: task.task_id for task in asked if task.was_accepted}
    for event in events:
        if event.type != "finished":
            continue
        task_id = submitted.get(event.body["result"]["parameters_used"]["seed"], event.task_id)
        if task_id != event.task_id:
            yield f"{event.task_id} was finished besides {task_id}, for one submission"


async def broken_promises_of_pictures(asked: Sequence[AskedTask], events: Sequence[Told], bucket: Bucket) -> list[str]:
    """Every finished task has its picture, a whole PNG of the size that was asked for."""
    sizes = {task.number: (task.width, task.height) for task in asked}
    broken: list[str] = []
    at_once = asyncio.Semaphore(8)

    async def look(event: Told) -> None:
        result = event.body["result"]
        asked_size = sizes[result["parameters_used"]["seed"]]
        async with at_once:
            size = await bucket.size_of(result["blob_url"])
        if size != asked_size:
            broken.append(f"{event.task_id} has a picture of {size} where {asked_size} was asked for: {result}")

    await asyncio.gather(*(look(event) for event in events if event.type == "finished"))
    return broken


def broken_promises_of_leftovers(left: Leftovers) -> Iterator[str]:
    """JOBS is empty, and no consumer holds an acknowledgement pending."""
    if left.num_jobs:
        yield f"{left.num_jobs} jobs are left"
    for consumer, num_pending in left.acks_pending.items():
        yield f"{consumer} waits for {num_pending} acknowledgements"


def broken_promises_of_memory(memory: MemoryWatch) -> Iterator[str]:
    """Nothing grew beyond its bound."""
    for kind, max_mb in MAX_GROWTH_MB.items():
        growth = memory.worst(kind)
        if growth is not None and growth.num_bytes > max_mb * _MB:
            yield f"a {kind} grew by {growth.num_bytes / _MB:.0f} MB: more than {max_mb}"


def broken_promises_of_load(num_accepted: int, seconds: float) -> Iterator[str]:
    """A run in which little was asked for has shown little."""
    wanted = _MIN_ACCEPTED_PER_S * seconds
    if num_accepted < wanted:
        yield f"{num_accepted} tasks were accepted in {seconds:g} s: fewer than {wanted:.0f}"


def broken_promises_of_takeovers(takeovers_s: Iterable[float]) -> Iterator[str]:
    """`takeovers_s`: seconds from the SIGKILL of a worker to the next start of its task, nothing else disturbed."""
    for seconds in takeovers_s:
        if seconds > MAX_TAKEOVER_S:
            yield f"a killed worker's task was taken over after {seconds:.2f} s: later than {MAX_TAKEOVER_S:g}"


def _types(told: Sequence[Told]) -> Counter[str]:
    return Counter(event.type for event in told)


def _num_terminal(told: Sequence[Told]) -> int:
    return sum(event.is_terminal for event in told)


def _sequence_of(told: Sequence[Told]) -> str:
    return (
        " → ".join(f"{event.type}@{event.sequence} (+{event.at_s - told[0].at_s:.1f} s)" for event in told)
        or "no event"
    )
