"""The servers of tests as containers, where a Docker engine answers."""

from __future__ import annotations

import contextlib
import gc
import os
import secrets
import socket
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import docker  # type: ignore[import-untyped]
from docker.errors import APIError, DockerException  # type: ignore[import-untyped]
from pydantic import SecretStr
from testcontainers.community.minio import MinioContainer
from testcontainers.core.container import DockerContainer

from sd_common.s3_client import MinioSettings
from support.ports import free_port

NATS_IMAGE = os.environ.get("NATS_IMAGE", "nats:2.15.1-alpine")
#: Docker Hub no longer has `minio/minio`; this is its maintained fork.
MINIO_IMAGE = os.environ.get("MINIO_IMAGE", "pgsty/silo:RELEASE.2026-09-03T13-18-01Z")

_NATS_PORT = 4222
_READY_WITHIN_S = 60.0
_POLL_S = 0.05


def docker_answers() -> bool:
    """Whether there is a Docker engine."""
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        try:
            with contextlib.closing(docker.from_env(timeout=2)) as client:
                return bool(client.ping())
        except (DockerException, OSError):
            pass
        gc.collect()  # docker-py leaves its socket open where nobody answers
    return False


class ContainerNatsServer:
    """nats-server in a container, on a host port that it keeps through restarts."""

    def __init__(self) -> None:
        # A port that Docker chooses changes with every start of the container.
        self._port = free_port()
        # Not testcontainers' NatsContainer: it warns of its own deprecated parts, and warnings are errors here.
        self._container = DockerContainer(NATS_IMAGE).with_command("-js").with_bind_ports(_NATS_PORT, self._port)
        self._is_created = False

    @property
    def url(self) -> str:
        """Where it listens, the same after every start."""
        return f"nats://{self._host}:{self._port}"

    @property
    def _host(self) -> str:
        return self._container.get_container_host_ip()

    def start(self) -> None:
        """Start it on the port and the store that it had. Returns when it is ready."""
        if self._is_created:
            self._container.get_wrapped_container().start()
        else:
            self._container.start()
            self._is_created = True
        deadline = time.monotonic() + _READY_WITHIN_S
        while not _greets(self._host, self._port):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{NATS_IMAGE} was not ready: {self._container.get_logs()}")
            time.sleep(_POLL_S)

    def kill(self) -> None:
        """End it as a crash would."""
        with contextlib.suppress(APIError):  # it is not running
            self._container.get_wrapped_container().kill()

    def terminate(self) -> None:
        """End it in order."""
        self._container.get_wrapped_container().stop(timeout=10)

    def remove(self) -> None:
        """Leave nothing of it."""
        self._container.stop()


@contextlib.contextmanager
def nats_container() -> Iterator[ContainerNatsServer]:
    """A fresh nats-server."""
    server = ContainerNatsServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@dataclass(frozen=True)
class ContainerS3Server:
    """An S3 server in a container."""

    endpoint: str
    access_key: str
    secret_key: SecretStr

    def minio_settings(self, bucket: str) -> MinioSettings:
        """Settings that lead to a bucket of this server. Does not create it."""
        return MinioSettings(
            _env_file=None,
            minio_endpoint=self.endpoint,
            minio_access_key=self.access_key,
            minio_secret_key=self.secret_key,
            minio_bucket=bucket,
        )


@contextlib.contextmanager
def s3_container() -> Iterator[ContainerS3Server]:
    """A fresh S3 server."""
    access_key, secret_key = "test", secrets.token_hex(20)
    container = MinioContainer(MINIO_IMAGE, access_key=access_key, secret_key=secret_key)
    # The class sets the names of these that MinIO has deprecated.
    container.with_env("MINIO_ROOT_USER", access_key).with_env("MINIO_ROOT_PASSWORD", secret_key)
    with container:
        yield ContainerS3Server(str(container.get_config()["endpoint"]), access_key, SecretStr(secret_key))


def _greets(host: str, port: int) -> bool:
    """Whether nats-server speaks first, as it does: Docker's proxy takes connections before the server is there."""
    try:
        with socket.create_connection((host, port), timeout=1) as connection:
            return connection.recv(4) == b"INFO"
    except OSError:
        return False
