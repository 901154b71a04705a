"""Servers whose store is soon full, and what fills it."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

from nats.js import JetStreamContext
from nats.js.errors import APIError

from sd_common.blob_store import BlobStore
from sd_common.errors import Unavailable
from sd_common.nats_client import NatsClient
from sd_common.s3_client import MinioSettings
from sd_common.streams import StreamSettings
from sd_embedded.s3_server import S3Server
from support.servers import NatsServer, nats_server, running

#: Whose limit is reached.
Limited = Literal["server", "account"]
_STORE_BYTES = 4 * 1024 * 1024
#: Of streams that fit.
SMALL_STREAMS = StreamSettings(_env_file=None, jobs_max_bytes=1024 * 1024)
_CONFIGURATIONS: dict[Limited, str] = {
    "server": "jetstream {{ max_file_store: {bytes} }}\n",
    "account": "accounts {{ A {{ users: [{{ user: a, password: a }}], jetstream: {{ max_file: {bytes} }} }} }}\n"
    "no_auth_user: a\n",
}
_FILLERS = ("events.filler.filler.large", "events.filler.filler.small")
_FILLER_BYTES = (64 * 1024, 100)
#: By `fill`.
NUM_REFUSED_BY_FILL = len(_FILLERS)


@contextlib.contextmanager
def small_nats_server(directory: Path, limited: Limited = "server") -> Iterator[NatsServer]:
    """A fresh one without users, of four megabytes."""
    file = directory / "small-nats.conf"
    file.write_text(_CONFIGURATIONS[limited].format(bytes=_STORE_BYTES))
    with nats_server(["-c", str(file)]) as server:
        yield server


async def fill(client: NatsClient) -> None:
    """Return when no event finds room any more."""
    for subject, num_bytes in zip(_FILLERS, _FILLER_BYTES, strict=True):
        with contextlib.suppress(APIError):
            while True:
                await client.jetstream().publish(subject, bytes(num_bytes), stream="EVENTS")


async def make_room(js: JetStreamContext) -> None:
    """Take away what `fill` has stored."""
    await js.purge_stream("EVENTS", subject="events.filler.>")


class SmallS3Server(S3Server):
    """Of some volumes of a megabyte, until it is given room."""

    _has_room = False

    def _command(self) -> list[str]:
        command = super()._command()
        return command if self._has_room else [*command, "-volume.max=1", "-master.volumeSizeLimitMB=1"]

    async def fill(self, settings: MinioSettings) -> None:
        """Return when the bucket of these settings takes no more pictures."""
        async with BlobStore(settings) as blobs:
            with contextlib.suppress(Unavailable):
                while True:
                    await blobs.put("filler", secrets.token_bytes(700_000), "image/png")

    def terminate(self) -> None:
        """End it as a crash would: told to end, it waits for room."""
        self.kill()

    def give_room(self) -> None:
        """Start it again with as many volumes as it likes."""
        self.terminate()
        self._has_room = True
        self.start()


def small_s3_server(directory: Path) -> AbstractContextManager[SmallS3Server]:
    """A fresh one."""
    return running(SmallS3Server(directory, "test", secrets.token_hex(20)))
