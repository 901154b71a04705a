"""A nats-server with whose rights a publisher has to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from sd_common.nats_users import DEFAULT_PUBLISHER
from support.servers import NatsServerWithUsers, nats_server_with_users

PUBLISHER = DEFAULT_PUBLISHER


@contextlib.contextmanager
def strict_nats_server() -> Iterator[NatsServerWithUsers]:
    """Whatever anybody was refused fails the test at the end."""
    with nats_server_with_users() as server:
        yield server
        refused = [line for line in server.log.splitlines() if "Violation" in line]
        assert not refused
