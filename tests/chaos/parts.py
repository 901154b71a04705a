"""The processes that can be disturbed, each in the same way."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from sd_embedded.child_process import ProcessNotReady
from support.stack import Service

PartKind = Literal["worker", "gateway", "auth", "nats-server", "S3 server"]


class Part(Protocol):
    """One process of the fleet."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> PartKind: ...
    @property
    def pid(self) -> int: ...

    def start(self) -> None:
        """Start it anew, where its predecessor was. Returns when it works."""

    def kill(self) -> None:
        """End it as a crash would (SIGKILL)."""

    def terminate(self) -> None:
        """Have it end in order (SIGTERM). Returns when it has."""


class Server(Protocol):
    """nats-server or the S3 server."""

    @property
    def pid(self) -> int: ...
    def start(self) -> None: ...
    def kill(self) -> None: ...
    def terminate(self) -> None: ...


@dataclass
class ServerPart:
    """A server, as a part."""

    name: str
    kind: PartKind
    server: Server

    @property
    def pid(self) -> int:
        return self.server.pid

    def start(self) -> None:
        self.server.start()

    def kill(self) -> None:
        self.server.kill()

    def terminate(self) -> None:
        self.server.terminate()


#: Seconds a service has to end once it is told to.
_ENDS_WITHIN_S = 60.0
_START_ATTEMPTS = 5


class ServicePart:
    """A service, as a part."""

    def __init__(self, name: str, kind: PartKind, start: Callable[[], Service], log_when_ready: str) -> None:
        self.name = name
        self.kind = kind
        self._start = start
        self._log_when_ready = log_when_ready
        self.service = start()
        #: Exit codes of those that were told to end.
        self.exit_codes: list[int] = []

    @property
    def pid(self) -> int:
        return self.service.process.pid

    def wait_until_ready(self) -> None:
        """Return when it works."""
        self.service.wait_for_log(self._log_when_ready)

    def start(self) -> None:
        for attempt in range(1, _START_ATTEMPTS + 1):
            self.service = self._start()
            try:
                return self.wait_until_ready()
            except ProcessNotReady as error:
                # A connection of somebody else's may hold its port as its own end, for a moment.
                if attempt == _START_ATTEMPTS or "address already in use" not in str(error):
                    raise

    def kill(self) -> None:
        self.service.process.kill()

    def terminate(self) -> None:
        self.exit_codes.append(self.service.process.terminate(_ENDS_WITHIN_S))


def pause(part: Part) -> None:
    """Have it stand still (SIGSTOP)."""
    os.kill(part.pid, signal.SIGSTOP)


def resume(part: Part) -> None:
    """Have it go on (SIGCONT)."""
    os.kill(part.pid, signal.SIGCONT)
