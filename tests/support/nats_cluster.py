"""Three nats-servers on loopback that keep three copies of every stream."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

from sd_common.nats_settings import NatsSettings
from sd_embedded.nats_access import NatsAccess
from sd_embedded.nats_server import NatsServer
from support.ports import free_ports
from support.servers import new_access

NUM_NODES = 3
#: What a node logs of the one that it will follow in all that is about streams.
_LED = "new metadata leader"
_LED_WITHIN_S = 30.0
_POLL_S = 0.05


class NatsCluster:
    """The nodes, by name. Streams belong to it once they are made with `NATS_REPLICAS=3`."""

    def __init__(self, directory: Path, access: NatsAccess | None = None) -> None:
        """`access`: its users; without, who comes may do everything."""
        ports, route_ports = free_ports(NUM_NODES), free_ports(NUM_NODES)
        routes = ",".join(f"nats://127.0.0.1:{port}" for port in route_ports)
        env = access.environment() if access else None
        self.nodes: dict[str, NatsServer] = {}
        for number, (port, route_port) in enumerate(zip(ports, route_ports, strict=True), start=1):
            name = f"node-{number}"
            (directory / name).mkdir()
            args = ["--name", name, "--cluster_name", "chaos", "--cluster", f"nats://127.0.0.1:{route_port}"]
            args += ["--routes", routes, *(access.arguments(directory / name / "nats.conf") if access else ())]
            self.nodes[name] = NatsServer(directory / name, args, port=port, env=env)

    @property
    def url(self) -> str:
        """Where the nodes listen, the same after every start."""
        return ",".join(node.url for node in self.nodes.values())

    def start(self) -> None:
        """Returns when the nodes have chosen who leads."""
        for node in self.nodes.values():
            node.start()
        deadline = time.monotonic() + _LED_WITHIN_S
        while not any(_LED in node.log for node in self.nodes.values()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"The nodes chose no leader within {_LED_WITHIN_S:g} s")
            time.sleep(_POLL_S)

    def kill(self) -> None:
        """End all as a crash would."""
        for node in self.nodes.values():
            node.kill()

    def terminate(self) -> None:
        """End all in order."""
        for node in self.nodes.values():
            node.terminate()


class NatsClusterWithUsers(NatsCluster):
    """One with the users of `servers.new_access`."""

    def __init__(self, directory: Path) -> None:
        self._access = new_access()
        super().__init__(directory, self._access)

    def settings_of(self, user: str) -> NatsSettings:
        """Settings with which to connect as this user."""
        return self._access.settings_of(user, self.url)


_C = TypeVar("_C", bound=NatsCluster)


@contextlib.contextmanager
def _running(new: Callable[[Path], _C]) -> Iterator[_C]:
    with tempfile.TemporaryDirectory(prefix="sd-nats-", ignore_cleanup_errors=True) as directory:
        cluster = new(Path(directory))
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.kill()


def nats_cluster() -> AbstractContextManager[NatsCluster]:
    """A fresh cluster."""
    return _running(NatsCluster)


def nats_cluster_with_users() -> AbstractContextManager[NatsClusterWithUsers]:
    """A fresh cluster with the users of the services."""
    return _running(NatsClusterWithUsers)
