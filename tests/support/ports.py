"""Ports for servers of tests."""

from __future__ import annotations

import os
import random
import socket
from itertools import islice

#: Below those that the system gives to connections, which would take one while its server is away, and below those of
#: the S3 server.
_PORTS = range(3_000, 12_000)
#: Of the processes of pytest-xdist that run side by side.
_NUM_PROCESSES = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_NUMBER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_OURS = _PORTS[_NUMBER::_NUM_PROCESSES]
#: None is given out twice: the server that it is for may not listen yet.
_candidates = iter(random.SystemRandom().sample(_OURS, len(_OURS)))


def free_ports(num_ports: int) -> list[int]:
    """So many ports of the loopback at which nobody listens."""
    ports = list(islice(filter(_is_free, _candidates), num_ports))
    assert len(ports) == num_ports, "there are no free ports"
    return ports


def free_port() -> int:
    """One of them."""
    [port] = free_ports(1)
    return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
