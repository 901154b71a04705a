"""Several job sources on one server: who takes which job, and how few ask what waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import timedelta

import pytest
import pytest_asyncio
from nats.aio.msg import Msg

from sd_common import job_queue, retries, subjects
from sd_common.backlog import Backlog, HeldModels, LaneBacklog
from sd_common.errors import Unavailable
from sd_common.job_queue import JobQueue
from sd_common.lanes import LANES, Lane
from sd_common.messages import now
from sd_common.model_names import model_key
from sd_common.nats_client import NatsClient, connect
from sd_common.nats_settings import NatsSettings
from sd_common.puller import Puller
from sd_common.streams import JOBS, StreamSettings, jobs_consumer_name, jobs_stream
from sd_common.subjects import ModelLane
from sd_worker import backlog_watch, job_source
from sd_worker.backlog_watch import INTERVAL_S
from sd_worker.engine.reports import ModelsHere
from sd_worker.job_source import JobSource
from support import servers
from support.jobs import STRAY_SUBJECTS
from support.servers import NatsServer, nats_settings_of
from support.waiting import PATIENCE_S


class Worker:
    """Takes jobs; a model is in its memory as soon as a job of it was taken."""

    def __init__(self, client: NatsClient, name: str, resident: list[str], swap_after_s: float) -> None:
        self.name = name
        self.resident = resident
        self.taken: asyncio.Queue[tuple[str, Msg]] = asyncio.Queue()
        self.source = JobSource(client, JobQueue(client), lambda: ModelsHere(self.resident), swap_after_s, name)
        self._working: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._working = asyncio.create_task(self._work())

    async def next(self) -> Msg:
        """The next job, acknowledged, after which its model is resident."""
        async with asyncio.timeout(PATIENCE_S):
            job = await self.source.next()
        self.resident = [_model_of(job)]
        await job.ack_sync()
        return job

    async def stop(self) -> None:
        if self._working is not None:
            self._working.cancel()
            await asyncio.wait([self._working])
        await self.source.close()

    async def _work(self) -> None:
        while True:
            self.taken.put_nowait((self.name, await self.next()))


CreateWorker = Callable[..., Awaitable[Worker]]


@pytest.fixture
def nats_server() -> Iterator[NatsServer]:
    """Without users: workers hear only each other."""
    with servers.nats_server() as server:
        yield server


@pytest_asyncio.fixture
async def create_worker(provisioned: NatsSettings, nats_server: NatsServer) -> AsyncIterator[CreateWorker]:
    """Creates workers on connections of their own; all are stopped when the test ends."""
    workers: list[tuple[Worker, NatsClient]] = []

    async def create(name: str, *resident: str, swap_after_s: float = 30.0) -> Worker:
        client = await connect(nats_settings_of(nats_server, "worker"), "worker")
        workers.append((Worker(client, name, list(resident), swap_after_s), client))
        return workers[-1][0]

    yield create
    for worker, client in workers:
        await worker.stop()
        await client.shut()


class Heard:
    """Hears what goes over a subject."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[Msg] = asyncio.Queue()

    async def start(self, client: NatsClient, subject: str) -> Heard:
        await client.subscribe(subject, cb=self.messages.put)
        await client.flush()
        return self

    async def next(self) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return (await self.messages.get()).data

    async def backlogs(self, count: int) -> list[Backlog]:
        return [Backlog.model_validate_json(await self.next()) for _ in range(count)]

    async def until_held(self, *workers: str, keys: list[str]) -> None:
        """Return once each of these workers has told that it holds these."""
        missing = set(workers)
        while missing:
            told = HeldModels.model_validate_json(await self.next())
            if told.model_keys == keys:
                missing.discard(told.worker)


async def _publish(client: NatsClient, model: str, lane: Lane = "first") -> None:
    await client.jetstream().publish(subjects.jobs_of(model, lane), b"job")


def _model_of(job: Msg) -> str:
    return subjects.parse_jobs_subject(job.subject).model_key.rpartition("-")[0]


def _lane_of(job: Msg) -> Lane:
    return subjects.parse_jobs_subject(job.subject).lane


async def _take(client: NatsClient, model: str) -> tuple[Puller, Msg]:
    """A job that somebody was given and has not acknowledged."""
    await _publish(client, model)
    lane = ModelLane(model_key(model), "first")
    await JobQueue(client).create_consumer(lane)
    puller = Puller(client, JOBS, jobs_consumer_name(lane))
    await puller.start()
    job = await puller.next(PATIENCE_S)
    assert job is not None
    return puller, job


async def test_of_many_idle_workers_few_ask_and_not_always_the_same(
    create_worker: CreateWorker, nats_client: NatsClient
) -> None:
    num_workers = 20
    for number in range(num_workers):
        (await create_worker(f"idle-{number}", "home")).start()
    heard = await Heard().start(nats_client, subjects.BACKLOG)
    await heard.backlogs(num_workers)  # each asks at its start, at most
    least_in_an_interval = float(num_workers)  # as many as where each asks for itself
    askers = set()
    for _ in range(5):  # where this process has stood still, all of them ask at once
        started = time.perf_counter()
        backlogs = await heard.backlogs(16)
        num_intervals = (time.perf_counter() - started) / INTERVAL_S
        least_in_an_interval = min(least_in_an_interval, len(backlogs) / num_intervals)
        askers |= {backlog.worker for backlog in backlogs}
        if least_in_an_interval < 5:
            break
    assert least_in_an_interval < 5
    assert len(askers) > 3


async def test_what_waits_is_told_while_all_workers_are_busy(
    create_worker: CreateWorker, nats_client: NatsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Operators ask for it just then."""
    monkeypatch.setattr(backlog_watch, "_TOLD_EVERY_S", 0.1)
    monkeypatch.setattr(backlog_watch, "_BUSY_SPREAD_S", 0.1)
    worker = await create_worker("busy")
    await _publish(nats_client, "a")
    await worker.next()
    heard = await Heard().start(nats_client, subjects.BACKLOG)
    await _publish(nats_client, "a")
    while not (await heard.backlogs(1))[0].lanes:
        pass


async def test_a_job_goes_to_the_worker_that_holds_its_model_while_others_have_nothing_to_do(
    create_worker: CreateWorker, nats_client: NatsClient
) -> None:
    held = await Heard().start(nats_client, subjects.HELD_MODELS)
    ours, theirs = await create_worker("ours", "a"), await create_worker("theirs", "b")
    for worker in (ours, theirs):
        worker.start()
    await held.until_held("ours", keys=[model_key("a")])
    await held.until_held("theirs", keys=[model_key("b")])
    for _ in range(10):
        for worker, model in ((ours, "a"), (theirs, "b")):
            await _publish(nats_client, model)
            async with asyncio.timeout(PATIENCE_S):
                _, job = await worker.taken.get()
            assert _model_of(job) == model


async def test_one_of_many_idle_workers_loads_a_model_that_nobody_holds(
    create_worker: CreateWorker, nats_client: NatsClient
) -> None:
    workers = [await create_worker(f"idle-{number}", f"own-{number}") for number in range(8)]
    shared: asyncio.Queue[tuple[str, Msg]] = asyncio.Queue()
    held = await Heard().start(nats_client, subjects.HELD_MODELS)
    for number, worker in enumerate(workers):
        worker.taken = shared
        worker.start()
        await held.until_held(worker.name, keys=[model_key(f"own-{number}")])
    takers = []
    for _ in range(10):
        await _publish(nats_client, "cold")
        async with asyncio.timeout(PATIENCE_S):
            takers.append((await shared.get())[0])
    assert len(set(takers)) == 1


async def test_a_model_that_waited_too_long_is_taken_amid_the_backlog_of_another_and_then_has_its_turn(
    create_worker: CreateWorker, nats_client: NatsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await create_worker("busy", "hot", swap_after_s=PATIENCE_S)
    for model in ("cold", "cold", *["hot"] * 10):
        await _publish(nats_client, model)
    assert [_model_of(await worker.next()) for _ in range(3)] == ["hot"] * 3
    aged = backlog_watch._aged
    monkeypatch.setattr(backlog_watch, "_aged", lambda lane, age_s: aged(lane, age_s + 2 * PATIENCE_S))
    assert [_model_of(await worker.next()) for _ in range(2)] == ["cold", "cold"]
    assert [_model_of(await worker.next()) for _ in range(7)] == ["hot"] * 7


async def test_of_two_models_in_memory_the_longest_wait_comes_first(
    create_worker: CreateWorker, nats_client: NatsClient
) -> None:
    worker = await create_worker("both")
    worker.resident = ["a", "b"]
    for model in ("a", "b", "a", "b"):
        await _publish(nats_client, model)
    taken = []
    for _ in range(4):
        async with asyncio.timeout(PATIENCE_S):
            job = await worker.source.next()
        await job.ack_sync()
        taken.append(_model_of(job))
    assert taken[0] == "a"
    assert sorted(taken) == ["a", "a", "b", "b"]


async def test_a_backlog_that_cannot_be_read_or_is_of_another_time_is_ignored(
    create_worker: CreateWorker, nats_client: NatsClient
) -> None:
    worker = await create_worker("careful", "home")
    worker.start()

    async def lie() -> None:
        while True:
            for time_of_it in (now() - timedelta(hours=1), now() + timedelta(hours=1)):
                lie = Backlog(worker="liar", time=time_of_it, lanes=[])
                await nats_client.publish(subjects.BACKLOG, lie.model_dump_json().encode())
            await nats_client.publish(subjects.BACKLOG, b"not json")
            await nats_client.publish(subjects.BACKLOG, b'{"v": 1, "worker": "liar", "lanes": [{"num_jobs": -1}]}')
            await asyncio.sleep(INTERVAL_S / 10)

    lying = asyncio.create_task(lie())
    await _publish(nats_client, "cold")
    async with asyncio.timeout(PATIENCE_S):
        _, job = await worker.taken.get()
    assert _model_of(job) == "cold"
    lying.cancel()
    await asyncio.wait([lying])


async def test_a_worker_that_finds_nothing_behind_a_key_does_not_try_it_again_before_the_next_backlog(
    create_worker: CreateWorker, nats_client: NatsClient
) -> None:
    heard = await Heard().start(nats_client, subjects.BACKLOG)
    tries = await Heard().start(nats_client, f"$JS.API.CONSUMER.MSG.NEXT.{JOBS}.*")
    for lane in LANES:
        await JobQueue(nats_client).create_consumer(ModelLane("ghost", lane))
    (await create_worker("credulous")).start()
    await heard.backlogs(2)
    ghost = LaneBacklog(model_key="ghost", lane="rest", num_jobs=5, num_waiting=5, oldest_wait_s=1.0)
    wrong = Backlog(worker="other", time=now(), lanes=[ghost])
    await nats_client.publish(subjects.BACKLOG, wrong.model_dump_json().encode())
    assert [backlog.worker for backlog in await heard.backlogs(3)] == ["other", "credulous", "credulous"]
    assert tries.messages.qsize() == 1  # of the lane that is said to have jobs


async def test_a_job_that_was_handed_back_is_found_by_one_of_several_idle_workers(
    create_worker: CreateWorker, nats_client: NatsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_source, "_TRY_RUNNING_AFTER_S", 3600.0)  # whoever asks the server tries at once
    puller, job = await _take(nats_client, "cold")
    shared: asyncio.Queue[tuple[str, Msg]] = asyncio.Queue()
    heard = await Heard().start(nats_client, subjects.BACKLOG)
    for number in range(3):
        worker = await create_worker(f"idle-{number}", "home")
        worker.taken = shared
        worker.start()
    await heard.backlogs(6)
    await job.nak()
    async with asyncio.timeout(15):  # far below ack_wait
        _, taken = await shared.get()
    assert _model_of(taken) == "cold"
    await puller.close()


async def test_messages_of_no_lane_keep_no_worker_from_the_jobs(
    create_worker: CreateWorker, nats_client: NatsClient
) -> None:
    for subject in STRAY_SUBJECTS:
        await nats_client.jetstream().publish(subject, b"{}")
    await _publish(nats_client, "home")
    assert _model_of(await (await create_worker("undeterred")).next()) == "home"


async def test_the_next_job_of_the_model_used_last_arrives_without_a_look_at_the_backlog(
    create_worker: CreateWorker, nats_client: NatsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog_watch, "INTERVAL_S", 3600.0)  # there is the look at its start, and no other
    worker = await create_worker("idle", "home")
    worker.start()
    for _ in range(20):
        await _publish(nats_client, "home")
        async with asyncio.timeout(PATIENCE_S):
            await worker.taken.get()


async def test_a_model_that_no_worker_holds_has_consumers_for_lanes_with_jobs_alone(
    create_worker: CreateWorker, nats_client: NatsClient
) -> None:
    for _ in range(2):
        await _publish(nats_client, "made-up", "rest")
    worker = await create_worker("idle")
    async with asyncio.timeout(PATIENCE_S):
        for _ in range(2):  # taken, and nothing was loaded
            await (await worker.source.next()).ack_sync()
    consumers = await nats_client.jetstream().consumers_info(JOBS)
    assert [consumer.name for consumer in consumers] == [model_key("made-up")]


async def test_a_worker_takes_jobs_where_there_are_as_many_consumers_as_there_may_be(
    create_worker: CreateWorker, nats_client: NatsClient
) -> None:
    js = nats_client.jetstream()
    await js.delete_stream(JOBS)
    await js.add_stream(jobs_stream(StreamSettings(_env_file=None)).evolve(max_consumers=1))
    await JobQueue(nats_client).create_consumer(ModelLane(model_key("home"), "first"))
    await _publish(nats_client, "made-up")
    worker = await create_worker("idle", "home")
    worker.start()
    for _ in range(3):
        await _publish(nats_client, "home")
        async with asyncio.timeout(PATIENCE_S):
            _, job = await worker.taken.get()
        assert _model_of(job) == "home"


async def test_a_model_whose_consumer_was_deleted_is_found_again(
    create_worker: CreateWorker, nats_client: NatsClient
) -> None:
    worker = await create_worker("idle", "home")
    worker.start()
    await _publish(nats_client, "home")
    async with asyncio.timeout(PATIENCE_S):
        await worker.taken.get()
        await nats_client.jetstream().delete_consumer(JOBS, jobs_consumer_name(ModelLane(model_key("home"), "first")))
        await _publish(nats_client, "home")
        await worker.taken.get()


async def test_others_hear_what_a_worker_holds_when_they_come_and_that_it_holds_nothing_when_it_stops(
    create_worker: CreateWorker, nats_client: NatsClient
) -> None:
    first = await create_worker("first", "a")
    first.start()
    held = await Heard().start(nats_client, subjects.HELD_MODELS)
    (await create_worker("second", "b")).start()
    await held.until_held("first", keys=[model_key("a")])
    first.resident = ["c"]
    await held.until_held("first", keys=[model_key("c")])
    await first.stop()
    await held.until_held("first", keys=[])


async def test_a_server_that_stays_away_is_told(
    create_worker: CreateWorker, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_queue, "REQUEST_TIMEOUT_S", 0.5)
    monkeypatch.setattr(retries.retried_while_away, "__defaults__", (0.5,))
    worker = await create_worker("cut-off", "home")
    taking = asyncio.create_task(worker.source.next())
    await asyncio.to_thread(nats_server.kill)
    with pytest.raises(Unavailable):
        async with asyncio.timeout(PATIENCE_S):
            await taking
    nats_server.start()
