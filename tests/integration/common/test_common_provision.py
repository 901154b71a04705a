"""Streams, consumers and buckets, as the services expect them, on a real nats-server and S3 server."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from integration.common.makers import KEY, REST, new_bucket_name, new_job
from minio import Minio
from nats.js.api import AckPolicy, ConsumerConfig

from sd_common.blob_store import BlobStore
from sd_common.job_queue import JobQueue
from sd_common.nats_client import NatsClient
from sd_common.nats_settings import NatsSettings
from sd_common.picture_bucket import RetentionSettings
from sd_common.provision import provision, provision_streams
from sd_common.s3_client import MinioSettings
from sd_common.streams import CONSUMER_IDLE_S, StreamSettings, events_stream, jobs_consumer, jobs_consumer_name
from sd_common.subjects import ModelLane
from support.servers import NatsServer, S3Server, nats_env, nats_settings_of

_NS = 10**9
_NAMES = ("JOBS", "EVENTS", "KV_users", "KV_idempotency_keys", "KV_revoked_tokens")
_STREAMS = StreamSettings(_env_file=None, nats_replicas=1, events_max_age_s=86_400, jobs_max_per_model=10_000)


async def _config_of(client: NatsClient, stream: str) -> dict[str, Any]:
    answer = json.loads((await client.request(f"$JS.API.STREAM.INFO.{stream}", b"")).data)
    config: dict[str, Any] = answer["config"]
    return config


def _chosen(config: dict[str, Any], expected: dict[str, Any]) -> dict[str, Any]:
    return {name: config.get(name) for name in expected}


async def test_jobs_is_a_work_queue_with_a_cap_per_lane(nats_client: NatsClient, provisioned: NatsSettings) -> None:
    expected = {
        "subjects": ["jobs.*", "jobs.*.first", "jobs.*.next"],
        "retention": "workqueue",
        "storage": "file",
        "num_replicas": 1,
        "allow_direct": True,
        "duplicate_window": 120 * _NS,
        "max_consumers": 10_000,
        "max_msgs_per_subject": 10_000,
        "discard": "new",
        "discard_new_per_subject": True,
        "max_age": 0,
        "max_msgs": -1,
        "max_bytes": 256 * 1024 * 1024,
    }
    assert _chosen(await _config_of(nats_client, "JOBS"), expected) == expected


async def test_events_are_kept_for_a_day_and_republished(nats_client: NatsClient, provisioned: NatsSettings) -> None:
    expected = {
        "subjects": ["events.*.*.*"],
        "retention": "limits",
        "storage": "file",
        "num_replicas": 1,
        "allow_direct": True,
        "max_age": 24 * 3600 * _NS,
        "republish": {"src": "events.>", "dest": "feed.>"},
        "max_msgs_per_subject": -1,
        "max_msgs": -1,
    }
    assert _chosen(await _config_of(nats_client, "EVENTS"), expected) == expected


async def test_users_are_kept_without_history(nats_client: NatsClient, provisioned: NatsSettings) -> None:
    expected = {"max_msgs_per_subject": 1, "storage": "file", "allow_direct": False, "max_age": 0}
    assert _chosen(await _config_of(nats_client, "KV_users"), expected) == expected


async def test_idempotency_keys_are_kept_for_as_long_as_events(
    nats_client: NatsClient, provisioned: NatsSettings
) -> None:
    expected = {"max_msgs_per_subject": 1, "storage": "file", "allow_direct": False, "max_age": 24 * 3600 * _NS}
    assert _chosen(await _config_of(nats_client, "KV_idempotency_keys"), expected) == expected


async def test_revoked_tokens_are_told_once_stored_and_have_a_life_of_their_own(
    nats_client: NatsClient, provisioned: NatsSettings
) -> None:
    expected = {
        "max_msgs_per_subject": 1,
        "storage": "file",
        "allow_direct": True,
        "allow_msg_ttl": True,
        "republish": {"src": "$KV.revoked_tokens.*", "dest": "revoked_tokens.{{wildcard(1)}}"},
    }
    assert _chosen(await _config_of(nats_client, "KV_revoked_tokens"), expected) == expected


async def test_the_consumer_of_a_model_is_as_the_contract_says(
    nats_client: NatsClient, provisioned: NatsSettings
) -> None:
    queue = JobQueue(nats_client)
    for _ in range(2):  # every worker does so
        await queue.create_consumer(REST)
    answer = json.loads((await nats_client.request(f"$JS.API.CONSUMER.INFO.JOBS.{KEY}", b"")).data)
    expected = {
        "name": KEY,
        "durable_name": KEY,
        "filter_subject": f"jobs.{KEY}",
        "ack_policy": "explicit",
        "ack_wait": 30 * _NS,
        "max_deliver": -1,
        "max_ack_pending": 10_000,
        "max_waiting": 4096,
        "inactive_threshold": 600 * _NS,
    }
    assert _chosen(answer["config"], expected) == expected


async def test_a_consumer_that_has_another_ack_wait_is_changed(
    nats_client: NatsClient, provisioned: NatsSettings
) -> None:
    await JobQueue(nats_client).create_consumer(REST)
    consumer = await JobQueue(nats_client, ack_wait_s=5).create_consumer(REST)
    assert consumer.config.ack_wait == 5


async def test_a_consumer_from_before_it_could_go_away_is_changed(
    nats_client: NatsClient, provisioned: NatsSettings
) -> None:
    js = nats_client.jetstream()
    await js.add_consumer("JOBS", jobs_consumer(REST).evolve(inactive_threshold=None))
    assert not (await js.consumer_info("JOBS", KEY)).config.inactive_threshold
    consumer = await JobQueue(nats_client).create_consumer(REST)
    assert consumer.config.inactive_threshold == CONSUMER_IDLE_S


_PUSH = ConsumerConfig(name=KEY, durable_name=KEY, filter_subject=REST.jobs, ack_policy=AckPolicy.EXPLICIT)


@pytest.mark.parametrize(
    "foreign",
    [
        _PUSH.evolve(deliver_subject="auth.log_in"),
        _PUSH.evolve(deliver_subject="sink", deliver_group="group"),
        _PUSH,  # of another max_deliver and no end
        jobs_consumer(REST).evolve(headers_only=True),
        jobs_consumer(REST).evolve(filter_subject="jobs.*"),
        jobs_consumer(REST).evolve(filter_subject="jobs.other"),
        jobs_consumer(REST).evolve(inactive_threshold=None),
    ],
)
async def test_a_consumer_in_the_place_of_a_lanes_is_deleted_and_the_jobs_are_had_again(
    nats_client: NatsClient, provisioned: NatsSettings, foreign: ConsumerConfig
) -> None:
    js, queue = nats_client.jetstream(), JobQueue(nats_client)
    other = ModelLane("another", "first")
    await queue.create_consumer(other)
    await js.add_consumer("JOBS", foreign)
    await queue.publish(new_job())
    await provision_streams(js, _STREAMS)
    assert [consumer.name for consumer in await js.consumers_info("JOBS")] == [jobs_consumer_name(other)]
    assert [lane.model_lane for lane in (await queue.backlog("asker")).lanes] == [REST]


async def test_consumers_with_jobs_in_progress_outlive_provisioning(
    nats_client: NatsClient, provisioned: NatsSettings
) -> None:
    js, queue = nats_client.jetstream(), JobQueue(nats_client, ack_wait_s=7)
    await js.add_consumer("JOBS", jobs_consumer(REST).evolve(inactive_threshold=None))  # of an older version
    lanes = [ModelLane(f"model-{number}", "next") for number in range(300)]  # more than one answer has
    await asyncio.gather(*map(queue.create_consumer, lanes))
    await queue.publish(new_job())
    await (await js.pull_subscribe_bind(KEY, "JOBS")).fetch(1)
    await provision_streams(js, _STREAMS)
    assert (await js.stream_info("JOBS")).state.consumer_count == 301


async def test_provisioning_again_changes_nothing(nats_client: NatsClient, provisioned: NatsSettings) -> None:
    before = [await _config_of(nats_client, stream) for stream in _NAMES]
    await JobQueue(nats_client).publish(new_job())
    users = await nats_client.jetstream().key_value("users")
    await users.put("alice", b"hash")
    await asyncio.gather(*(provision_streams(nats_client.jetstream(), _STREAMS) for _ in range(5)))
    assert [await _config_of(nats_client, stream) for stream in _NAMES] == before
    assert (await nats_client.jetstream().stream_info("JOBS")).state.messages == 1
    assert (await users.get("alice")).value == b"hash"


async def test_several_that_provision_an_empty_server_at_once_agree(
    nats_client: NatsClient,
) -> None:
    await asyncio.gather(*(provision_streams(nats_client.jetstream(), _STREAMS) for _ in range(5)))
    streams = {info.config.name for info in await nats_client.jetstream().streams_info()}
    assert streams == set(_NAMES)


async def test_a_changed_setting_is_applied_and_jobs_stay(nats_client: NatsClient, provisioned: NatsSettings) -> None:
    await JobQueue(nats_client).publish(new_job())
    for max_age_s in (60, 600):
        changed = _STREAMS.model_copy(update={"events_max_age_s": max_age_s, "jobs_max_per_model": 5})
        await provision_streams(nats_client.jetstream(), changed)
        assert (await _config_of(nats_client, "EVENTS"))["max_age"] == max_age_s * _NS
        assert (await _config_of(nats_client, "KV_idempotency_keys"))["max_age"] == max_age_s * _NS
    assert (await _config_of(nats_client, "JOBS"))["max_msgs_per_subject"] == 5
    assert (await nats_client.jetstream().stream_info("JOBS")).state.messages == 1


async def test_everything_is_provisioned_for_the_services(
    nats_client: NatsClient, nats_settings: NatsSettings, s3_server: S3Server
) -> None:
    minio_settings = s3_server.minio_settings(new_bucket_name())
    for _ in range(2):
        await provision(nats_settings, _STREAMS, minio_settings, RetentionSettings(_env_file=None))
    await JobQueue(nats_client).publish(new_job())
    async with BlobStore(minio_settings) as blobs:
        await blobs.check_available()


@pytest.fixture
def environment(nats_server: NatsServer, s3_server: S3Server, tmp_path: Path) -> dict[str, str]:
    """Variables as an operator sets them."""
    minio: MinioSettings = s3_server.minio_settings(new_bucket_name())
    return {
        **os.environ,
        **nats_env(nats_settings_of(nats_server, "provision")),
        "MINIO_ENDPOINT": minio.minio_endpoint,
        "MINIO_ACCESS_KEY": minio.minio_access_key,
        "MINIO_SECRET_KEY": minio.minio_secret_key.get_secret_value(),
        "MINIO_BUCKET": minio.minio_bucket,
        "EVENTS_MAX_AGE_S": "120",
        "PICTURES_MAX_AGE_DAYS": "3",
    }


def _run_command(environment: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "sd_common.provision"]
    return subprocess.run(argv, env=environment, cwd=cwd, capture_output=True, text=True, timeout=60)


async def test_the_command_provisions(environment: dict[str, str], nats_client: NatsClient, tmp_path: Path) -> None:
    done = await asyncio.to_thread(_run_command, environment, tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stderr.splitlines()[-1])["event"] == "provisioned"
    assert (await _config_of(nats_client, "EVENTS"))["max_age"] == 120 * _NS
    assert _expiry_of(environment) == {"pictures-max-age": 3}


def _expiry_of(environment: dict[str, str]) -> dict[str | None, int | None]:
    """The days of each rule of the bucket's lifecycle."""
    client = Minio(
        environment["MINIO_ENDPOINT"],
        access_key=environment["MINIO_ACCESS_KEY"],
        secret_key=environment["MINIO_SECRET_KEY"],
        secure=False,
    )
    lifecycle = client.get_bucket_lifecycle(environment["MINIO_BUCKET"])
    return {rule.rule_id: rule.expiration.days for rule in (lifecycle.rules if lifecycle else []) if rule.expiration}


async def test_the_command_tells_wrong_settings(environment: dict[str, str], tmp_path: Path) -> None:
    environment["EVENTS_MAX_AGE_S"] = "a day"
    done = await asyncio.to_thread(_run_command, environment, tmp_path)
    assert done.returncode == 2
    assert "EVENTS_MAX_AGE_S: " in done.stderr
    assert "Traceback" not in done.stderr


async def test_the_command_tells_that_the_picture_store_is_away(
    environment: dict[str, str], tmp_path: Path, refusing_endpoint: str
) -> None:
    environment["MINIO_ENDPOINT"] = refusing_endpoint
    done = await asyncio.to_thread(_run_command, environment, tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("The picture store does not answer")
    assert "Traceback" not in done.stderr


async def test_a_bucket_from_before_revoked_tokens_were_told_is_changed(
    nats_client: NatsClient, provisioned: NatsSettings
) -> None:
    js = nats_client.jetstream()
    stream = (await js.stream_info("KV_revoked_tokens")).config
    assert stream.republish is not None
    await js.update_stream(stream, republish=None)
    assert "republish" not in await _config_of(nats_client, "KV_revoked_tokens")
    await provision_streams(js, _STREAMS)
    told = {"src": "$KV.revoked_tokens.*", "dest": "revoked_tokens.{{wildcard(1)}}"}
    assert (await _config_of(nats_client, "KV_revoked_tokens"))["republish"] == told


async def test_a_stream_that_took_any_subject_of_events_is_changed(
    nats_client: NatsClient, provisioned: NatsSettings
) -> None:
    js = nats_client.jetstream()
    wide = replace(events_stream(StreamSettings(_env_file=None)), subjects=["events.>"])
    await js.update_stream(wide)
    await provision_streams(js, StreamSettings(_env_file=None))
    assert (await _config_of(nats_client, "EVENTS"))["subjects"] == ["events.*.*.*"]
