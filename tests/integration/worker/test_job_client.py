"""A publisher, with its rights and no more, and a real worker."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from integration.worker.conftest import BASE_URL, StartWorker, Tasks
from nats.aio.msg import Msg
from PIL import Image
from pydantic import SecretStr

from sd_common.blob_ids import new_blob_id
from sd_common.blob_store import BlobStore
from sd_common.blob_urls import blob_id_of
from sd_common.errors import EndOfLaterVersion, QueueFull, SubjectError, TaskAborted, Unavailable
from sd_common.events import AbortedEvent, ProgressEvent, StartedEvent
from sd_common.job_client import JobClient
from sd_common.nats_client import NatsClient, connect
from sd_common.nats_settings import NatsSettings
from sd_common.parameters import Txt2ImgParameters
from sd_common.provision import provision_streams
from sd_common.streams import StreamSettings
from sd_common.subjects import TaskRef
from sd_worker.engine.engine_thread import EngineThread
from sd_worker.engine.running_samples import RunningSamples
from support.jobs import num_jobs
from support.publisher import PUBLISHER, strict_nats_server
from support.servers import NatsServer, nats_settings_of
from support.waiting import PATIENCE_S


@pytest.fixture
def nats_server() -> Iterator[NatsServer]:
    with strict_nats_server() as server:
        yield server


@pytest_asyncio.fixture
async def publisher(nats_server: NatsServer, provisioned: NatsSettings) -> AsyncIterator[NatsClient]:
    client = await connect(nats_settings_of(nats_server, PUBLISHER), "publisher")
    yield client
    await client.shut()


@pytest.fixture
def jobs(publisher: NatsClient) -> JobClient:
    return JobClient(publisher)


def _parameters(**parameters: Any) -> Txt2ImgParameters:
    wanted = {"prompt": "x", "model": "tiny", "steps": 2, "width": 64, "height": 64} | parameters
    return Txt2ImgParameters.model_validate(wanted)


async def test_a_task_is_followed_to_its_picture(
    jobs: JobClient, start_worker: StartWorker, blob_store: BlobStore
) -> None:
    ref = await jobs.submit(_parameters(steps=3))
    told = jobs.follow(ref, progress=True)
    types = [(await anext(told)).event_type]  # nobody runs it yet
    await start_worker()
    async with asyncio.timeout(PATIENCE_S):
        events = [event async for event in told]
    types += [event.event_type for event in events if not isinstance(event, ProgressEvent)]
    assert (ref.user, types) == (PUBLISHER, ["pending", "started", "finished"])
    steps = [event.step for event in events if isinstance(event, ProgressEvent) and event.stage == "denoising"]
    assert [step for step in steps if step] == [1, 2, 3]
    blob_id = blob_id_of(BASE_URL, (await jobs.wait(ref)).result.blob_url)
    assert blob_id is not None
    assert Image.open(io.BytesIO((await blob_store.get(blob_id)).data)).size == (64, 64)


async def test_a_picture_goes_where_the_publisher_wants_it(jobs: JobClient, start_worker: StartWorker) -> None:
    await start_worker()
    blob_id = new_blob_id()
    ref = await jobs.submit(_parameters(), task_id="mine", blob_id=blob_id)
    assert ref.task_id == "mine"
    assert (await jobs.wait(ref, PATIENCE_S)).result.blob_url == f"{BASE_URL}/blob/{blob_id}"


@pytest.fixture
def two_sessions(publisher: NatsClient) -> list[JobClient]:
    return [JobClient(publisher, session=session) for session in ("orders", "reminders")]


async def _wait_until_begun(jobs: JobClient, ref: TaskRef) -> None:
    async with asyncio.timeout(PATIENCE_S), contextlib.aclosing(jobs.follow(ref, progress=True)) as events:
        async for event in events:
            if isinstance(event, ProgressEvent) and event.stage == "denoising":
                return
    raise AssertionError(f"{ref} ended before it was seen to run")


def _hold_passes(monkeypatch: pytest.MonkeyPatch, num_samples: int, until: str, num_calls: int = 1) -> None:
    """Have engines make no pass once so many samples run, until that method of them was called so often. The first is
    made: of it they learn how many may run."""
    make_a_pass, method = RunningSamples.make_a_pass, getattr(EngineThread, until)
    passes: list[int] = []
    calls: list[str] = []
    called = threading.Event()

    def held_pass(running: RunningSamples) -> None:
        assert not passes or len(running) < num_samples or called.wait(PATIENCE_S)
        passes.append(len(running))
        make_a_pass(running)

    def counted(engine: EngineThread, argument: Any) -> None:
        method(engine, argument)
        calls.append(until)
        if len(calls) == num_calls:
            called.set()

    monkeypatch.setattr(RunningSamples, "make_a_pass", held_pass)
    monkeypatch.setattr(EngineThread, until, counted)


async def test_tasks_of_two_sessions_with_the_same_id_run_at_one_worker_at_once(
    two_sessions: list[JobClient], start_worker: StartWorker, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    _hold_passes(monkeypatch, 1, until="submit", num_calls=2)
    await start_worker(max_rows=8)
    first, second = two_sessions
    long = await first.submit(_parameters(steps=300), task_id="invoice-17")
    await _wait_until_begun(first, long)
    short = await second.submit(_parameters(), task_id="invoice-17")
    finished = [await second.wait(short, PATIENCE_S), await first.wait(long, PATIENCE_S)]
    assert len({event.result.blob_url for event in finished}) == 2
    # Neither job had to be given out again.
    started = [logged.event for logged in await tasks.events("invoice-17") if isinstance(logged.event, StartedEvent)]
    assert [event.delivery for event in started] == [1, 1]


async def test_a_cancel_leaves_the_task_of_the_same_id_of_another_session_alone(
    two_sessions: list[JobClient],
    start_worker: StartWorker,
    tasks: Tasks,
    nats_client: NatsClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _hold_passes(monkeypatch, 2, until="cancel")
    steps: list[int] = []

    async def note(message: Msg) -> None:
        steps.append(json.loads(message.data)["step"] or 0)

    first, second = two_sessions
    dropped = await first.submit(_parameters(steps=500), task_id="invoice-17")
    kept = await second.submit(_parameters(steps=60), task_id="invoice-17")
    await nats_client.subscribe(dropped.progress, cb=note)
    both_begun = asyncio.gather(_wait_until_begun(first, dropped), _wait_until_begun(second, kept))
    await start_worker(max_rows=8)
    await both_begun
    await first.cancel(dropped)
    await second.wait(kept, PATIENCE_S)
    await tasks.wait_until_queue_is_empty()
    assert max(steps) < 500
    with pytest.raises(TaskAborted):
        await first.wait(dropped, PATIENCE_S)


async def test_waiting_for_a_picture_that_cannot_be_made_tells_why(jobs: JobClient, start_worker: StartWorker) -> None:
    await start_worker()
    ref = await jobs.submit(_parameters(model="missing"))
    with pytest.raises(TaskAborted, match="missing") as raised:
        await jobs.wait(ref, PATIENCE_S)
    assert raised.value.event.code == "model_unavailable"


async def test_an_end_that_cannot_be_read_is_told_to_who_waits(jobs: JobClient, nats_client: NatsClient) -> None:
    ref = await jobs.submit(_parameters())
    await nats_client.jetstream().publish(ref.events, b'{"v": 2, "event_type": "finished"}')
    with pytest.raises(EndOfLaterVersion, match="upgrade its sd-common"):
        await jobs.wait(ref, PATIENCE_S)


async def test_waiting_ends_in_time_and_the_task_goes_on(jobs: JobClient, start_worker: StartWorker) -> None:
    ref = await jobs.submit(_parameters())
    with pytest.raises(TimeoutError):
        await jobs.wait(ref, 0.1)
    await start_worker()
    await jobs.wait(ref, PATIENCE_S)


async def test_a_queued_task_is_cancelled_at_once_and_dropped_by_the_worker_that_takes_it(
    jobs: JobClient, start_worker: StartWorker, tasks: Tasks, nats_client: NatsClient
) -> None:
    ref = await jobs.submit(_parameters())
    for _ in range(2):  # again is no error
        await jobs.cancel(ref)
    with pytest.raises(TaskAborted) as raised:
        await jobs.wait(ref, PATIENCE_S)
    assert raised.value.event.code == "cancelled"
    assert await num_jobs(nats_client) == 1
    await start_worker()
    await tasks.wait_until_queue_is_empty()
    assert await tasks.event_types(ref.task_id) == ["pending", "aborted"]


async def test_a_task_that_is_cancelled_before_it_is_submitted_is_not_run(
    jobs: JobClient, start_worker: StartWorker, tasks: Tasks
) -> None:
    """As by another process of the publisher, which knows the ids."""
    await jobs.cancel(TaskRef(PUBLISHER, "jobs", "mine"))
    await jobs.submit(_parameters(), task_id="mine")
    await start_worker()
    await tasks.wait_until_queue_is_empty()
    assert await tasks.event_types("mine") == ["aborted"]


async def test_a_running_task_is_dropped_once_it_is_cancelled(
    jobs: JobClient, start_worker: StartWorker, tasks: Tasks
) -> None:
    await start_worker()
    ref = await jobs.submit(_parameters(steps=500, width=256, height=256))
    async with asyncio.timeout(PATIENCE_S):
        async for event in jobs.follow(ref, progress=True):
            if isinstance(event, ProgressEvent) and event.step == 1:
                await jobs.cancel(ref)
            if isinstance(event, AbortedEvent):
                assert event.code == "cancelled"
    await tasks.wait_until_queue_is_empty()
    assert await tasks.event_types(ref.task_id) == ["pending", "started", "aborted"]


async def test_a_full_queue_refuses(nats_client: NatsClient, jobs: JobClient) -> None:
    await provision_streams(nats_client.jetstream(), StreamSettings(_env_file=None, jobs_max_per_model=1))
    await jobs.submit(_parameters())
    with pytest.raises(QueueFull, match="The queue of model 'tiny' is full"):
        await jobs.submit(_parameters())


async def test_a_submission_during_a_restart_of_nats_is_one_job(
    jobs: JobClient, nats_server: NatsServer, nats_client: NatsClient, start_worker: StartWorker
) -> None:
    await asyncio.to_thread(nats_server.kill)
    submitting = asyncio.ensure_future(jobs.submit(_parameters()))
    nats_server.start()
    ref = await submitting
    assert await jobs.submit(_parameters(), task_id=ref.task_id) == ref
    assert await num_jobs(nats_client) == 1
    await start_worker()
    await jobs.wait(ref, PATIENCE_S)


async def test_a_publisher_whose_connection_is_closed_is_told(jobs: JobClient, publisher: NatsClient) -> None:
    await publisher.shut()
    with pytest.raises(Unavailable):
        await jobs.submit(_parameters())


def test_a_url_without_a_user_is_refused_with_what_to_do(nats_server: NatsServer) -> None:
    settings = NatsSettings(_env_file=None, nats_url=SecretStr("nats://127.0.0.1:4222"))
    with pytest.raises(ValueError, match="nats://USER:PASSWORD@HOST:PORT"):
        JobClient(NatsClient(settings, "test"))
    with pytest.raises(SubjectError):
        JobClient(NatsClient(settings, "test"), user="a.b")
