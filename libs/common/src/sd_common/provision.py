"""Create or update the streams and the bucket of pictures: `python -m sd_common.provision`.

Idempotent. Services never create streams: run this once before them, with credentials that may.
"""

from __future__ import annotations

import asyncio
import contextlib

import structlog
from nats.js import JetStreamContext
from nats.js.api import ConsumerInfo, KeyValueConfig, StreamConfig
from nats.js.errors import APIError, BucketNotFoundError, NotFoundError

from sd_common.errors import StoreFull, Unavailable
from sd_common.full_stores import is_store_full
from sd_common.logs import LogSettings, configure_logs
from sd_common.nats_client import connect
from sd_common.nats_settings import NatsSettings
from sd_common.picture_bucket import RetentionSettings, create_bucket, set_max_age
from sd_common.s3_client import MinioSettings, S3Client
from sd_common.settings import load_settings
from sd_common.streams import (
    DUPLICATE_WINDOW_S,
    JOBS,
    StreamSettings,
    events_stream,
    idempotency_keys_bucket,
    is_jobs_consumer,
    jobs_stream,
    revoked_tokens_bucket,
    users_bucket,
)

log = structlog.get_logger(__name__)


async def provision_streams(js: JetStreamContext, settings: StreamSettings) -> None:
    """Create what is missing, update what differs, and delete consumers of jobs that no worker of ours makes.

    Raises `StoreFull` where NATS has not as much as `JOBS_MAX_BYTES` to give.
    """
    for stream in (jobs_stream(settings), events_stream(settings)):
        try:
            await _create_or_update(js, stream)
        except APIError as error:
            if is_store_full(error.err_code, error.description):
                raise StoreFull(f"NATS ({error.description}; JOBS_MAX_BYTES is {settings.jobs_max_bytes:,})") from error
            raise
    await _delete_foreign_consumers(js)
    for bucket in (users_bucket(settings), idempotency_keys_bucket(settings), revoked_tokens_bucket(settings)):
        await _create_or_update_bucket(js, bucket)


async def _delete_foreign_consumers(js: JetStreamContext) -> None:
    """A worker's rights cannot say which consumers of jobs it makes. One that pushes, with the name of a lane's, keeps
    all workers from that lane."""
    found: list[ConsumerInfo] = []
    while some := await js.consumers_info(JOBS, offset=len(found)):
        found += some
    for consumer in found:
        if not is_jobs_consumer(consumer):
            config = consumer.config
            log.warning(
                "consumer_deleted",
                name=consumer.name,
                filter_subject=config.filter_subject,
                deliver_subject=config.deliver_subject,
            )
            with contextlib.suppress(NotFoundError):  # another provisioning was faster
                await js.delete_consumer(JOBS, consumer.name)


async def _create_or_update(js: JetStreamContext, stream: StreamConfig) -> None:
    try:
        await js.stream_info(str(stream.name))
    except NotFoundError:
        await js.add_stream(stream)
    else:
        await js.update_stream(stream)


async def _create_or_update_bucket(js: JetStreamContext, bucket: KeyValueConfig) -> None:
    try:
        status = await (await js.key_value(bucket.bucket)).status()
    except BucketNotFoundError:
        await js.create_key_value(bucket)
    else:
        stream = status.stream_info.config
        # No message id is remembered for longer than its message: the server refuses that.
        window_s = min(bucket.ttl or DUPLICATE_WINDOW_S, DUPLICATE_WINDOW_S)
        await js.update_stream(
            stream,
            max_age=bucket.ttl,
            duplicate_window=window_s,
            num_replicas=bucket.replicas,
            allow_direct=bucket.direct,
            republish=bucket.republish,
        )


async def provision(
    nats_settings: NatsSettings,
    stream_settings: StreamSettings,
    minio_settings: MinioSettings,
    retention_settings: RetentionSettings,
) -> None:
    """Make NATS and the S3 server ready for the services.

    Raises `StoreFull`, and `Unavailable` where the S3 server does not answer, or refuses.
    """
    client = await connect(nats_settings, "provision")
    try:
        await provision_streams(client.jetstream(), stream_settings)
    finally:
        await client.shut()
    async with S3Client(minio_settings) as s3:
        await create_bucket(s3)
        await set_max_age(s3, retention_settings.pictures_max_age_days)
    log.info("provisioned")


def main() -> None:
    configure_logs(load_settings(LogSettings), "provision")
    settings = (
        load_settings(NatsSettings),
        load_settings(StreamSettings),
        load_settings(MinioSettings),
        load_settings(RetentionSettings),
    )
    try:
        asyncio.run(provision(*settings))
    except Unavailable as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
