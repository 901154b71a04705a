"""Workers in this process, on real servers and a tiny model."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from huggingface_hub import constants
from nats.aio.msg import Msg

from sd_common import subjects
from sd_common.blob_ids import new_blob_id
from sd_common.events import PendingEvent, StartedEvent
from sd_common.job_queue import JobQueue
from sd_common.jobs import Job
from sd_common.logged_event import LoggedEvent, event_of_feed
from sd_common.nats_client import NatsClient
from sd_common.nats_settings import NatsSettings
from sd_common.parameters import Txt2ImgParameters
from sd_common.s3_client import MinioSettings
from sd_common.task_log import TaskLog
from sd_worker.app import WorkerApp
from sd_worker.settings import WorkerSettings
from support import tiny_pipelines
from support.deployment import Deployment
from support.hub import Hub, serve_hub
from support.jobs import until_no_jobs
from support.servers import NatsServer, nats_settings_of
from support.waiting import PATIENCE_S

BASE_URL = "http://gateway.test"
#: Of the model "own-defaults".
OWN_DEFAULTS = {"width": 72, "height": 80, "steps": 3, "guidance": 2.0, "scheduler": "ddim"}


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("worker-models")
    for name in ("tiny", "other", "own-defaults"):
        tiny_pipelines.save_sd1(root / name)
    (root / "own-defaults" / "default_parameters.json").write_text(json.dumps(OWN_DEFAULTS))
    tiny_pipelines.save_sd1(root / "flagging", safety_checker="flags all")
    return root


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A stand-in of the hub, without repositories; downloads go into `tmp_path/cache`."""
    # So that little is lost of the tiny files when a connection is cut.
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    with serve_hub(monkeypatch, tmp_path / "cache") as hub:
        yield hub


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model for the hub."""
    directory = tiny_pipelines.save_sd1(tmp_path_factory.mktemp("hub") / "tiny", safety_checker="flags none")
    (directory / "default_parameters.json").write_text('{"steps": 7}')
    return directory


@pytest.fixture
def own_tiny(tmp_path: Path, tiny: Path) -> Path:
    """A copy of that model, for a test to change."""
    return Path(shutil.copytree(tiny, tmp_path / "tiny"))


def worker_settings(model_dir: Path, name: str = "worker", **settings: Any) -> WorkerSettings:
    """Settings of a worker on the CPU, whatever the environment says."""
    return WorkerSettings(
        _env_file=None,
        base_url=BASE_URL,
        model_dir=model_dir,
        device="cpu",
        worker_name=name,
        **{"health_port": None, **settings},
    )


CreateWorker = Callable[..., WorkerApp]
StartWorker = Callable[..., Awaitable[WorkerApp]]


@pytest_asyncio.fixture
async def create_worker(
    provisioned: NatsSettings, nats_server: NatsServer, minio_settings: MinioSettings, model_dir: Path
) -> AsyncIterator[CreateWorker]:
    """Makes a worker of a name, to be started; all are stopped when the test ends."""
    workers: list[WorkerApp] = []

    def create(name: str = "worker", **settings: Any) -> WorkerApp:
        nats_settings = nats_settings_of(nats_server, "worker")
        worker = WorkerApp(worker_settings(model_dir, name, **settings), nats_settings, minio_settings)
        workers.append(worker)
        return worker

    yield create
    for worker in workers:
        await worker.stop()


@pytest.fixture
def start_worker(create_worker: CreateWorker) -> StartWorker:
    """Starts a worker of a name."""

    async def start(name: str = "worker", **settings: Any) -> WorkerApp:
        worker = create_worker(name, **settings)
        await worker.start()
        return worker

    return start


@pytest.fixture
def deployment(
    provisioned: NatsSettings, nats_server: NatsServer, minio_settings: MinioSettings, model_dir: Path, tmp_path: Path
) -> Iterator[Deployment]:
    """For workers that are processes of their own, which tests start; all are killed when the test ends."""
    deployment = Deployment(tmp_path, nats_server, minio_settings, model_dir)
    yield deployment
    deployment.stop()


class Tasks:
    """Publishes jobs as a publisher does, and hears what becomes of them."""

    def __init__(self, client: NatsClient) -> None:
        self._client = client
        self.queue = JobQueue(client)
        self.log = TaskLog(client)
        self._told: defaultdict[str, list[LoggedEvent]] = defaultdict(list)
        self._begun: set[str] = set()
        self._download_totals: dict[str, int] = {}
        self._changed = asyncio.Condition()

    async def start(self) -> None:
        await self._client.subscribe(subjects.FEED, cb=self._on_feed)
        await self._client.subscribe("progress.>", cb=self._on_progress)
        await self._client.flush()

    async def publish(self, task_id: str, **parameters: Any) -> Job:
        wanted = {"prompt": "x", "model": "tiny", "steps": 2, "width": 64, "height": 64} | parameters
        job = Job(
            task_id=task_id,
            user="service",
            session="batch",
            blob_id=new_blob_id(),
            parameters=Txt2ImgParameters.model_validate(wanted),
        )
        await self.queue.publish(job)
        return job

    async def events(self, task_id: str) -> list[LoggedEvent]:
        return [event async for event in self.log.replay(f"events.*.*.{task_id}", 0)]

    async def event_types(self, task_id: str) -> list[str]:
        return [event.event_type for event in await self.events(task_id)]

    async def starts(self, task_id: str) -> list[StartedEvent]:
        events = [logged.event for logged in await self.events(task_id)]
        return [event for event in events if isinstance(event, StartedEvent)]

    async def starts_and_returns(self, task_id: str) -> list[tuple[str, int | str]]:
        """`started` events with their worker, `pending` ones with the attempts that count."""
        told: list[tuple[str, int | str]] = []
        for logged in await self.events(task_id):
            match logged.event:
                case PendingEvent(num_attempts=num_attempts):
                    told.append(("pending", num_attempts))
                case StartedEvent(worker=worker, attempt=1):
                    told.append(("started", worker))
        return told

    async def wait_for(self, task_id: str, *event_types: str) -> LoggedEvent:
        """The task's last event, once it is of one of these types."""

        def has_come() -> bool:
            return bool(self._told[task_id]) and self._told[task_id][-1].event.event_type in event_types

        try:
            async with asyncio.timeout(PATIENCE_S), self._changed:
                await self._changed.wait_for(has_come)
        except TimeoutError:
            raise AssertionError(f"{task_id}: {[logged.event for logged in self._told[task_id]]}") from None
        return self._told[task_id][-1]

    async def wait_until_begun(self, task_id: str) -> None:
        """Return when a worker's engine runs the task."""
        async with asyncio.timeout(PATIENCE_S), self._changed:
            await self._changed.wait_for(lambda: task_id in self._begun)

    async def wait_until_downloading(self, task_id: str) -> int:
        """Return when the task's model is downloaded: how many bytes there are of it."""
        async with asyncio.timeout(PATIENCE_S), self._changed:
            await self._changed.wait_for(lambda: task_id in self._download_totals)
        return self._download_totals[task_id]

    async def wait_until_queue_is_empty(self) -> None:
        """Acknowledgements follow the last event."""
        await until_no_jobs(self._client)

    async def _on_feed(self, message: Msg) -> None:
        event = event_of_feed(message)
        async with self._changed:
            self._told[event.ref.task_id].append(event)
            self._changed.notify_all()

    async def _on_progress(self, message: Msg) -> None:
        _, ref = subjects.parse_task_subject(message.subject)
        progress = json.loads(message.data)
        async with self._changed:
            if progress["stage"] == "denoising":
                self._begun.add(ref.task_id)
            elif progress["stage"] == "downloading":
                self._download_totals[ref.task_id] = progress["total_bytes"]
            self._changed.notify_all()


@pytest_asyncio.fixture
async def tasks(provisioned: NatsSettings, nats_client: NatsClient) -> Tasks:
    tasks = Tasks(nats_client)
    await tasks.start()
    return tasks
