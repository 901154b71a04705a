"""The embedded mode: starts the servers, provisions them, runs every service, and stops all in the reverse order."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import structlog
from pydantic import SecretStr

from sd_auth.app import AuthApp
from sd_auth.metrics import AuthMetrics
from sd_common.errors import StoreFull
from sd_common.metrics import ProcessMetrics
from sd_common.nats_users import AUTH, GATEWAY, PROVISION, WORKER
from sd_common.provision import provision
from sd_embedded.child_process import ProcessNotReady
from sd_embedded.kept_secrets import SECRETS_FILE, keep_secrets, write_private
from sd_embedded.nats_access import NatsAccess, adopt_streams
from sd_embedded.nats_server import NatsServer
from sd_embedded.s3_server import S3Server
from sd_embedded.settings import AllSettings
from sd_gateway.app import GatewayApp
from sd_gateway.metrics import GatewayMetrics
from sd_worker.app import WorkerApp
from sd_worker.metrics import WorkerMetrics

log = structlog.get_logger(__name__)

_REVIVE_INTERVAL_S = 1.0
#: What the kernel takes as the path of a socket, less that of the S3 server below the data directory.
_MAX_DATA_DIR_BYTES = (107 if sys.platform == "linux" else 103) - len("/s3/s3.sock")
#: What a data directory may hold before there are secrets in it: the last two are of file systems and of macOS.
_NOT_OF_OTHERS = {"lock", f".{SECRETS_FILE}.new", "lost+found", ".DS_Store"}


class CannotStart(Exception):
    """Somebody else has what is needed; the message says what to do."""


class EmbeddedApp:
    """The whole service in this process, and two servers as its children. Start it from the main thread: children end
    with the thread that started them."""

    def __init__(self, settings: AllSettings) -> None:
        self._settings = settings
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        """Return when requests are served. What had started is stopped again where a part fails."""
        settings = self._settings
        async with AsyncExitStack() as stack:
            gateway_settings = settings.gateway
            metrics = ProcessMetrics()
            worker_metrics = WorkerMetrics(metrics)
            listening = stack.enter_context(listen(gateway_settings.host, gateway_settings.port))
            port = listening.getsockname()[1]
            if "base_url" not in gateway_settings.model_fields_set:
                gateway_settings = gateway_settings.model_copy(update={"base_url": f"http://localhost:{port}"})
            self.base_url = gateway_settings.base_url
            data_dir = settings.embedded.data_dir.resolve()
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
            provision_settings = access.settings_of(PROVISION.name, self.nats.url)
            try:
                await provision(provision_settings, settings.streams, minio_settings, settings.retention)
            except StoreFull as error:
                num_bytes = settings.streams.jobs_max_bytes
                raise CannotStart(
                    f"{data_dir} has too little room for the queues and their {num_bytes:,} bytes: free some on its "
                    "disk, set DATA_DIR to a directory of another one, or set JOBS_MAX_BYTES lower"
                ) from error
            auth_settings = settings.auth
            if "secret_key" not in auth_settings.model_fields_set:
                auth_settings = auth_settings.model_copy(update={"secret_key": SecretStr(kept.secret_key)})
            auth = AuthApp(auth_settings, access.settings_of(AUTH.name, self.nats.url), AuthMetrics(metrics))
            worker_settings = settings.worker.model_copy(update={"base_url": self.base_url})
            workers = [
                WorkerApp(
                    worker_settings.model_copy(update={"worker_name": f"{worker_settings.worker_name}-{number}"}),
                    access.settings_of(WORKER.name, self.nats.url),
                    minio_settings,
                    worker_metrics,
                )
                for number in range(settings.embedded.workers)
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
        return await self._gateway.link_with_token() if self._settings.auth.print_link_with_token else None

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
    all. Raises `CannotStart`, also where it has other things than ours in it, and leaves it as it is then."""
    num_bytes = len(os.fsencode(data_dir))
    if num_bytes > _MAX_DATA_DIR_BYTES:
        raise CannotStart(
            f"The path of DATA_DIR has {num_bytes} bytes, and the sockets below it find room within "
            f"{_MAX_DATA_DIR_BYTES}: set DATA_DIR to a shorter one"
        )
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        names = {path.name for path in data_dir.iterdir()}
        # A start that was cut short may have left no secrets.
        is_ours = SECRETS_FILE in names or {"nats", "s3"} <= names or names <= _NOT_OF_OTHERS
        if is_ours:
            data_dir.chmod(0o700)
    except OSError as error:
        raise CannotStart(
            f"{data_dir} cannot be made a directory for you alone ({error.strerror}): set DATA_DIR to another one"
        ) from error
    if not is_ours:
        raise CannotStart(
            f"{data_dir} has files in it that are not of this service: set DATA_DIR to a directory of its own, one "
            "that is empty or not there yet"
        )


def listen(host: str, port: int) -> socket.socket:
    """Take the gateway's port, before anything else is started. Raises `CannotStart`."""
    try:
        socket.getaddrinfo(host, port, socket.AF_INET)  # create_server makes no difference between its errors
        return socket.create_server((host, port), backlog=1024)
    except OSError as error:
        is_host_wrong = isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL
        remedy = "HOST to an address of this machine, such as 127.0.0.1" if is_host_wrong else "PORT to another one"
        raise CannotStart(f"Cannot listen on {host}:{port} ({error.strerror}): set {remedy}") from error


def _directory(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path
