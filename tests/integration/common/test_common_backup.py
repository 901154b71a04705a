"""Streams that were saved come back as they were, on a server without any."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from sd_common import backup
from sd_common.backup import STREAMS, restore, save
from sd_common.errors import BackupError
from sd_common.nats_client import NatsClient
from sd_common.nats_settings import NatsSettings
from sd_common.provision import provision_streams
from sd_common.streams import (
    EVENTS,
    JOBS,
    USERS_BUCKET,
    StreamSettings,
    events_stream,
    jobs_consumer,
)
from sd_common.subjects import ModelLane
from support import servers
from support.connections import connected
from support.nats_cluster import NUM_NODES, nats_cluster
from support.servers import NatsServer, nats_settings_of

#: Of events: more than a few chunks, even after nats-server's compression.
_EVENT_BYTES = 100_000
_NUM_EVENTS = 12
_NUM_JOBS = 3


@pytest_asyncio.fixture
async def cluster_without_streams() -> AsyncIterator[NatsClient]:
    with nats_cluster() as cluster:
        async with connected(nats_settings_of(next(iter(cluster.nodes.values())))) as client:
            yield client


async def _fill(client: NatsClient) -> None:
    js = client.jetstream()
    await provision_streams(js, StreamSettings(_env_file=None))
    for number in range(_NUM_EVENTS):
        await js.publish(f"events.alice.s.{number}", secrets.token_bytes(_EVENT_BYTES))
    for number in range(_NUM_JOBS):
        await js.publish("jobs.tiny-0", str(number).encode())
    await js.add_consumer(JOBS, jobs_consumer(ModelLane("tiny-0", "rest")))
    await (await js.key_value(USERS_BUCKET)).put("alice", b"a hash")


async def _contents(client: NatsClient) -> dict[str, dict[int, tuple[str | None, bytes | None]]]:
    """Of each stream: by sequence, subject and data."""
    js = client.jetstream()
    contents: dict[str, dict[int, tuple[str | None, bytes | None]]] = {}
    for stream in STREAMS:
        state = (await js.stream_info(stream)).state
        contents[stream] = {}
        for sequence in range(state.first_seq, state.last_seq + 1) if state.messages else ():
            message = await js.get_msg(stream, sequence)
            contents[stream][sequence] = (message.subject, message.data)
    return contents


def _command(settings: NatsSettings, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """`python -m sd_common.backup`."""
    env = {**os.environ, **servers.nats_env(settings)}
    command = [sys.executable, "-m", "sd_common.backup", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


async def test_a_restored_server_has_the_messages_with_their_sequences_and_what_workers_had_taken(
    nats_client: NatsClient, nats_server: NatsServer, tmp_path: Path
) -> None:
    """By provisioning's user, to which the rights are given."""
    await _fill(nats_client)
    done, _taken = await (await nats_client.jetstream().pull_subscribe_bind("tiny-0", JOBS)).fetch(2)
    await done.ack_sync()
    contents = await _contents(nats_client)
    assert len(contents[JOBS]) == _NUM_JOBS - 1
    saved = _command(nats_settings_of(nats_server, "provision"), "save", tmp_path / "saved")
    assert saved.returncode == 0, saved.stderr
    with servers.nats_server_with_users() as other:
        restored = _command(nats_settings_of(other, "provision"), "restore", tmp_path / "saved")
        assert restored.returncode == 0, restored.stderr
        async with connected(nats_settings_of(other)) as client:
            assert await _contents(client) == contents
            consumer = await client.jetstream().consumer_info(JOBS, "tiny-0")
            assert (consumer.num_ack_pending, consumer.num_pending) == (1, _NUM_JOBS - 2)


async def test_streams_of_one_server_are_restored_to_a_cluster_with_three_copies(
    nats_client: NatsClient, cluster_without_streams: NatsClient, tmp_path: Path
) -> None:
    await _fill(nats_client)
    await save(nats_client, tmp_path / "saved")
    await restore(cluster_without_streams, tmp_path / "saved", NUM_NODES)
    assert await _contents(cluster_without_streams) == await _contents(nats_client)
    for stream in STREAMS:
        assert (await cluster_without_streams.jetstream().stream_info(stream)).config.num_replicas == NUM_NODES


async def test_streams_that_are_there_are_left_alone(nats_client: NatsClient, tmp_path: Path) -> None:
    await _fill(nats_client)
    await save(nats_client, tmp_path / "saved")
    with servers.nats_server_with_users() as other:
        async with connected(nats_settings_of(other)) as client:
            await client.jetstream().add_stream(events_stream(StreamSettings(_env_file=None)))
            refused = _command(nats_settings_of(other), "restore", tmp_path / "saved")
            assert refused.returncode == 1
            assert "NATS has a stream EVENTS: restore to an empty server, before provisioning" in refused.stderr
            assert [stream.config.name for stream in await client.jetstream().streams_info()] == [EVENTS]


async def test_a_backup_that_is_not_complete_makes_no_stream(nats_client: NatsClient, tmp_path: Path) -> None:
    await _fill(nats_client)
    await save(nats_client, tmp_path / "saved")
    (tmp_path / "saved" / STREAMS[-1] / "backup.json").unlink()
    with servers.nats_server_with_users() as other:
        async with connected(nats_settings_of(other)) as client:
            with pytest.raises(BackupError, match=f"{STREAMS[-1]} holds no complete backup"):
                await restore(client, tmp_path / "saved", 1)
            assert await client.jetstream().streams_info() == []


async def test_a_damaged_backup_is_refused_by_nats_server(nats_client: NatsClient, tmp_path: Path) -> None:
    await _fill(nats_client)
    await save(nats_client, tmp_path / "saved")
    data = tmp_path / "saved" / EVENTS / "stream.tar.s2"
    data.write_bytes(data.read_bytes()[:-1000])
    with servers.nats_server_with_users() as other:
        async with connected(nats_settings_of(other)) as client:
            with pytest.raises(BackupError, match="Stream EVENTS: nats-server answers: "):
                await restore(client, tmp_path / "saved", 1)


@pytest.mark.parametrize("goes_away", [True, False])
async def test_a_nats_that_does_not_answer_is_told(
    nats_client: NatsClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, goes_away: bool
) -> None:
    """It went away for longer than a backup waits, or the connection is closed."""
    await _fill(nats_client)
    await save(nats_client, tmp_path / "saved")
    with servers.nats_server_with_users() as other:
        async with connected(nats_settings_of(other)) as client:
            if goes_away:
                other.kill()
                monkeypatch.setattr(backup, "_PATIENCE_S", 0.1)
            else:
                await client.shut()
            with pytest.raises(BackupError, match=r"NATS did not answer \("):
                await save(client, tmp_path / "of another")
            with pytest.raises(BackupError, match=r"NATS did not answer \("):
                await restore(client, tmp_path / "saved", 1)


async def test_a_backup_is_not_written_over_another(nats_client: NatsClient, tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="is there already: name a new directory"):
        await save(nats_client, tmp_path)
