"""Save the streams and restore them: `python -m sd_common.backup save DIRECTORY`, and `restore DIRECTORY`.

Each stream becomes a directory with `stream.tar.s2` and `backup.json`, made and read by nats-server through its
snapshot API, while everything runs. It is what `nats stream backup` writes and `nats stream restore` reads. Pictures
are not among it: save them after the streams.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nats.errors
import structlog

from sd_common.errors import BackupError
from sd_common.logs import LogSettings, configure_logs
from sd_common.nats_client import NatsClient, connect
from sd_common.nats_settings import NatsSettings
from sd_common.settings import load_settings
from sd_common.streams import (
    EVENTS,
    IDEMPOTENCY_KEYS_BUCKET,
    JOBS,
    REVOKED_TOKENS_BUCKET,
    USERS_BUCKET,
    StreamSettings,
    stream_of_bucket,
)

log = structlog.get_logger(__name__)

#: In the order in which they are saved, so that what is named is saved after what names it: a key names a task, a task
#: its user. Of a job that ends between JOBS and EVENTS the end is saved, and it is not run again.
STREAMS = (
    stream_of_bucket(IDEMPOTENCY_KEYS_BUCKET),
    JOBS,
    EVENTS,
    stream_of_bucket(USERS_BUCKET),
    stream_of_bucket(REVOKED_TOKENS_BUCKET),
)
_DATA = "stream.tar.s2"
_ABOUT = "backup.json"
_CHUNK_BYTES = 128 * 1024
#: nats-server checks a stream before it answers, and makes it after the last chunk: both take longer than a request.
_PATIENCE_S = 60.0
#: Ends a snapshot that is complete.
_COMPLETE = "204"


async def save(client: NatsClient, directory: Path) -> None:
    """Save all streams to `directory`, which is made. Raises `BackupError`."""
    _make(directory)
    with _answered():
        for stream in STREAMS:
            await _save_stream(client, stream, directory / stream)


async def restore(client: NatsClient, directory: Path, replicas: int) -> None:
    """Make all streams from `directory`, with so many copies each. Raises `BackupError`: where a stream is there
    already or a backup is not complete, before any is made."""
    with _answered():
        for stream in STREAMS:
            if not (directory / stream / _ABOUT).exists():
                raise BackupError(f"{directory / stream} holds no complete backup: it has no {_ABOUT}")
            if "error" not in await _ask(client, f"$JS.API.STREAM.INFO.{stream}"):
                raise BackupError(f"NATS has a stream {stream}: restore to an empty server, before provisioning")
        for stream in STREAMS:
            await _restore_stream(client, stream, directory / stream, replicas)


@contextlib.contextmanager
def _answered() -> Iterator[None]:
    try:
        yield
    except nats.errors.Error as error:
        raise BackupError(f"NATS did not answer ({type(error).__name__})") from error


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True)
    except FileExistsError:
        raise BackupError(f"{directory} is there already: name a new directory") from None


async def _save_stream(client: NatsClient, stream: str, directory: Path) -> None:
    _make(directory)
    inbox = client.new_inbox()
    async with client.subscribed(inbox) as chunks:
        wanted = {"deliver_subject": inbox, "chunk_size": _CHUNK_BYTES, "jsck": True}
        about = _checked(stream, await _ask(client, f"$JS.API.STREAM.SNAPSHOT.{stream}", wanted))
        with (directory / _DATA).open("wb") as file:
            while data := (chunk := await chunks.next_msg(timeout=_PATIENCE_S)).data:
                await asyncio.to_thread(file.write, data)
                if chunk.reply:  # it waits for this before it sends more
                    await client.publish(chunk.reply)
        status = (chunk.headers or {}).get("Status", _COMPLETE)
        if status != _COMPLETE:
            raise BackupError(f"Stream {stream} was not saved: nats-server ended with {status}")
    # Written last: a backup without it is not complete.
    (directory / _ABOUT).write_text(json.dumps({"config": about["config"], "state": about["state"]}, indent=2))
    log.info(
        "stream_saved", stream=stream, messages=about["state"]["messages"], bytes=(directory / _DATA).stat().st_size
    )


async def _restore_stream(client: NatsClient, stream: str, directory: Path, replicas: int) -> None:
    about = json.loads((directory / _ABOUT).read_text())
    about["config"]["num_replicas"] = replicas
    subject = _checked(stream, await _ask(client, f"$JS.API.STREAM.RESTORE.{stream}", about))["deliver_subject"]
    with (directory / _DATA).open("rb") as file:
        while data := await asyncio.to_thread(file.read, _CHUNK_BYTES):
            _checked(stream, await _send(client, subject, data))
    made = _checked(stream, await _send(client, subject, b""))
    log.info("stream_restored", stream=stream, messages=made["state"]["messages"])


async def _ask(client: NatsClient, subject: str, request: Any = None) -> dict[str, Any]:
    return await _send(client, subject, b"" if request is None else json.dumps(request).encode())


async def _send(client: NatsClient, subject: str, data: bytes) -> dict[str, Any]:
    """nats-server's answer; to a chunk it took, an empty one."""
    answer = await client.request(subject, data, timeout=_PATIENCE_S)
    told: dict[str, Any] = json.loads(answer.data or b"{}")
    return told


def _checked(stream: str, answer: dict[str, Any]) -> dict[str, Any]:
    if "error" in answer:
        raise BackupError(f"Stream {stream}: nats-server answers: {answer['error']['description']}")
    return answer


async def _run(action: str, directory: Path) -> None:
    client = await connect(load_settings(NatsSettings), "backup")
    try:
        if action == "save":
            await save(client, directory)
        else:
            await restore(client, directory, load_settings(StreamSettings).nats_replicas)
    finally:
        await client.shut()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sd_common.backup", description=__doc__)
    parser.add_argument("action", choices=["save", "restore"])
    parser.add_argument("directory", type=Path)
    chosen = parser.parse_args()
    configure_logs(load_settings(LogSettings), "backup")
    try:
        asyncio.run(_run(chosen.action, chosen.directory))
    except BackupError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
