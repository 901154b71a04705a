"""Three nats-servers on loopback that keep three copies of every stream."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from sd_embedded.nats_server import NatsServer

NUM_NODES = 3
#: What a node logs of the one that it will follow in all that is about streams.
_LED = "new metadata leader"
_LED_WITHIN_S = 30.0
_POLL_S = 0.05


class NatsCluster:
    """The nodes, by name. Streams belong to it once they are made with `NATS_REPLICAS=3`."""

    def __init__(self, directory: Path) -> None:
        ports = _free_ports(NUM_NODES)
        routes = ",".join(f"nats://127.0.0.1:{port}" for port in ports)
        self.nodes: dict[str, NatsServer] = {}
        for number, port in enumerate(ports, start=1):
            name = f"node-{number}"
            (directory / name).mkdir()
            args = ["--name", name, "--cluster_name", "chaos", "--cluster", f"nats://127.0.0.1:{port}"]
            self.nodes[name] = NatsServer(directory / name, [*args, "--routes", routes])

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


@contextlib.contextmanager
def nats_cluster() -> Iterator[NatsCluster]:
    """A fresh cluster."""
    with tempfile.TemporaryDirectory(prefix="sd-nats-", ignore_cleanup_errors=True) as directory:
        cluster = NatsCluster(Path(directory))
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.kill()


def _free_ports(num_ports: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(num_ports)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
