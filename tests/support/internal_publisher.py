"""A nats-server that lets an internal publisher do what it needs, and nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from pydantic import SecretStr

from sd_common.settings import NatsSettings
from sd_embedded.nats_server import NatsServer
from support import servers

PUBLISHER = "internal"
_CONFIG = """
authorization {
  users: [
    { user: admin, password: pw }
    { user: internal, password: pw, permissions: {
        publish: ["jobs.*", "events.internal.*.*", "cancels.*", "$JS.API.DIRECT.GET.EVENTS.events.internal.>"]
        subscribe: ["feed.internal.>", "progress.internal.>", "_INBOX_internal.>"] } }
  ]
}
"""


@contextlib.contextmanager
def restricted_nats_server(directory: Path) -> Iterator[NatsServer]:
    """Its users are `admin` and `PUBLISHER`. Whatever anybody was refused fails the test at the end."""
    config = directory / "nats.conf"
    config.write_text(_CONFIG)
    with servers.nats_server(extra_args=("-c", str(config))) as server:
        assert isinstance(server, NatsServer)
        yield server
        refused = [line for line in server.log.splitlines() if "Violation" in line]
        assert not refused


def settings_of(url: str, user: str) -> NatsSettings:
    """Settings that lead to the server at `url`, as `user`."""
    return NatsSettings(_env_file=None, nats_url=SecretStr(url.replace("nats://", f"nats://{user}:pw@")))
