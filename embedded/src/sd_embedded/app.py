"""The embedded mode: starts the servers, provisions them, runs every service, and stops all in the reverse order."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import structlog
from pydantic import SecretStr

from sd_auth.app import AuthApp
from sd_auth.metrics import AuthMetrics
from sd_auth.settings import AuthSettings
from sd_common.metrics import ProcessMetrics
from sd_common.nats_users import AUTH, GATEWAY, PROVISION, WORKER
from sd_common.picture_bucket import RetentionSettings
from sd_common.provision import provision
from sd_common.settings import load_settings
from sd_common.streams import StreamSettings
from sd_embedded.child_process import ProcessNotReady
from sd_embedded.kept_secrets import keep_secrets, write_private
from sd_embedded.nats_access import NatsAccess, adopt_streams
from sd_embedded.nats_server import NatsServer
from sd_embedded.s3_server import S3Server
from sd_embedded.settings import EmbeddedSettings
from sd_gateway.app import GatewayApp
from sd_gateway.metrics import GatewayMetrics
from sd_gateway.settings import GatewaySettings
from sd_worker.app import WorkerApp
from sd_worker.metrics import WorkerMetrics
from sd_worker.settings import WorkerSettings

log = structlog.get_logger(__name__)

_REVIVE_INTERVAL_S = 1.0


class CannotStart(Exception):
    """Somebody else has what is needed; the message says what to do."""


class EmbeddedApp:
    """The whole service in this process, and two servers as its children. Start it from the main thread: children end
    with the thread that started them."""

    def __init__(self, settings: EmbeddedSettings) -> None:
        self._settings = settings
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        """Return when requests are served. What had started is stopped again where a part fails."""
        settings = self._settings
        async with AsyncExitStack() as stack:
            gateway_settings = load_settings(
                GatewaySettings,
                default_model=settings.default_model,
                link_query=settings.link_query,
                health_port=settings.health_port,
            )
            metrics = ProcessMetrics()
            worker_metrics = WorkerMetrics(metrics)
            listening = stack.enter_context(listen(gateway_settings.host, gateway_settings.port))
            port = listening.getsockname()[1]
            if "base_url" not in gateway_settings.model_fields_set:
                gateway_settings = gateway_settings.model_copy(update={"base_url": f"http://localhost:{port}"})
            self.base_url = gateway_settings.base_url
            data_dir = settings.data_dir.resolve()
            make_private(data_dir)
            stack.enter_context(lock(data_dir))
            kept = keep_secrets(data_dir)
            access = NatsAccess(kept.nats_passwords)
            nats_dir = _directory(data_dir / "nats")
            self.nats = NatsServer(nats_dir, access.arguments(nats_dir / "nats.conf"), env=access.environment())
            adopt_streams(self.nats.store)
            stack.callback(self.nats.terminate)
            self.nats.start()
            write_private(data_dir / "publisher.env", access.publisher_env(self.nats.url))
            self.s3 = S3Server(_directory(data_dir / "s3"), kept.s3_access_key, kept.s3_secret_key)
            stack.callback(self.s3.terminate)
            self.s3.start()
            watching = asyncio.create_task(self._revive_servers(), name="revive-servers")
            stack.callback(watching.cancel)
            minio_settings = self.s3.minio_settings()
            await provision(
                access.settings_of(PROVISION.name, self.nats.url),
                load_settings(StreamSettings, nats_replicas=1),
                minio_settings,
                load_settings(RetentionSettings),
            )
            auth = AuthApp(
                load_settings(
                    AuthSettings,
                    secret_key=settings.secret_key or SecretStr(kept.secret_key),
                    print_link_with_token=settings.print_link_with_token,
                    health_port=None,
                ),
                access.settings_of(AUTH.name, self.nats.url),
                AuthMetrics(metrics),
            )
            worker_settings = load_settings(WorkerSettings, base_url=self.base_url, health_port=None)
            workers = [
                WorkerApp(
                    worker_settings.model_copy(update={"worker_name": f"{worker_settings.worker_name}-{number}"}),
                    access.settings_of(WORKER.name, self.nats.url),
                    minio_settings,
                    worker_metrics,
                )
                for number in range(settings.workers)
            ]
            self._workers = workers
            self._gateway = GatewayApp(
                gateway_settings,
                access.settings_of(GATEWAY.name, self.nats.url),
                minio_settings,
                metrics=GatewayMetrics(metrics),
            )
            stack.push_async_callback(auth.stop)
            for worker in workers:
                stack.push_async_callback(worker.stop)
            await asyncio.gather(auth.start(), *(worker.start() for worker in workers))
            await self._gateway.start(listening)
            stack.push_async_callback(self._gateway.stop)
            await self._gateway.ready()
            self._stack = stack.pop_all()

    async def link_with_token(self) -> str | None:
        """A link that makes a picture; None where it is not wanted."""
        return await self._gateway.link_with_token() if self._settings.print_link_with_token else None

    async def raise_once_failed(self) -> None:
        """Raises `EngineFailed` once the engine of a worker can do nothing any more: workers share this process, and
        mostly their device. Returns where there are no workers."""
        await asyncio.gather(*(worker.raise_once_failed() for worker in self._workers))

    async def _revive_servers(self) -> None:
        """Start a server again that has ended: its data is on disk, and its clients connect again by themselves."""
        while True:
            await asyncio.sleep(_REVIVE_INTERVAL_S)
            for server in (self.nats, self.s3):
                if not server.is_running:
                    log.error("server_ended", server=type(server).__name__)
                    try:
                        server.start()
                    except ProcessNotReady:
                        log.exception("server_not_started")

    async def stop(self) -> None:
        """Stop everything: the gateway first, the servers last. Idempotent."""
        await self._stack.aclose()


@contextlib.contextmanager
def lock(data_dir: Path) -> Iterator[None]:
    """Keep a second start away from the data of this one. Raises `CannotStart`."""
    with (data_dir / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise CannotStart(
                f"Another process uses {data_dir}: stop it, or set DATA_DIR to another directory"
            ) from error
        yield


def make_private(data_dir: Path) -> None:
    """Make the directory one for its owner alone, also where it is there: files of the servers below it are readable by
    all. Raises `CannotStart`."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        data_dir.chmod(0o700)
    except OSError as error:
        raise CannotStart(
            f"{data_dir} cannot be made a directory for you alone ({error.strerror}): set DATA_DIR to another one"
        ) from error


def listen(host: str, port: int) -> socket.socket:
    """Take the gateway's port, before anything else is started. Raises `CannotStart`."""
    try:
        return socket.create_server((host, port), backlog=1024)
    except OSError as error:
        raise CannotStart(f"Cannot listen on {host}:{port} ({error.strerror}): set PORT to another one") from error


def _directory(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path
