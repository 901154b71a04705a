"""The bucket of pictures at a real S3 server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from integration.common.makers import new_bucket_name
from minio import Minio
from minio.commonconfig import ENABLED, Filter
from minio.lifecycleconfig import Expiration, LifecycleConfig, Rule

from sd_common.blob_ids import new_blob_id
from sd_common.blob_store import BlobStore
from sd_common.errors import Unavailable
from sd_common.picture_bucket import create_bucket, set_max_age
from sd_common.s3_client import MinioSettings, S3Client
from support.servers import S3Server


@pytest_asyncio.fixture
async def s3(minio_settings: MinioSettings) -> AsyncIterator[S3Client]:
    """What provisioning calls the server with."""
    async with S3Client(minio_settings) as s3:
        yield s3


async def test_several_that_create_the_bucket_at_once_agree(s3_server: S3Server) -> None:
    settings = s3_server.minio_settings(new_bucket_name())
    async with S3Client(settings) as s3, BlobStore(settings) as blobs:
        await asyncio.gather(*(create_bucket(s3) for _ in range(10)))
        await create_bucket(s3)
        await blobs.check_available()


async def test_a_server_that_is_away_is_told(minio_settings: MinioSettings, refusing_endpoint: str) -> None:
    async with S3Client(minio_settings.model_copy(update={"minio_endpoint": refusing_endpoint})) as s3:
        for call in (create_bucket(s3), set_max_age(s3, 7)):
            with pytest.raises(Unavailable, match=r"^The picture store does not answer at the moment"):
                await call


@pytest.fixture
def operator(minio_settings: MinioSettings) -> Minio:
    """What an operator sets rules with."""
    return Minio(
        minio_settings.minio_endpoint,
        access_key=minio_settings.minio_access_key,
        secret_key=minio_settings.minio_secret_key.get_secret_value(),
        secure=False,
        region=minio_settings.minio_region,
    )


def _days_of(operator: Minio, bucket: str) -> dict[str | None, int | None]:
    lifecycle = operator.get_bucket_lifecycle(bucket)
    return {rule.rule_id: rule.expiration.days for rule in (lifecycle.rules if lifecycle else []) if rule.expiration}


async def test_a_max_age_is_set_changed_and_taken_away(
    s3: S3Client, blob_store: BlobStore, minio_settings: MinioSettings, operator: Minio
) -> None:
    bucket = minio_settings.minio_bucket
    for days in (None, 7, 7, 30):
        await set_max_age(s3, days)
        assert _days_of(operator, bucket) == ({} if days is None else {"pictures-max-age": days})
    blob_id = new_blob_id()
    await blob_store.put(blob_id, b"data", "image/png")
    assert (await blob_store.get(blob_id)).data == b"data"
    for _ in range(2):
        await set_max_age(s3, None)
        assert _days_of(operator, bucket) == {}


async def test_rules_of_the_operator_stay(s3: S3Client, minio_settings: MinioSettings, operator: Minio) -> None:
    bucket = minio_settings.minio_bucket
    own = Rule(ENABLED, rule_filter=Filter(prefix="backups/"), rule_id="own", expiration=Expiration(days=5))
    operator.set_bucket_lifecycle(bucket, LifecycleConfig([own]))
    await set_max_age(s3, 7)
    assert _days_of(operator, bucket) == {"own": 5, "pictures-max-age": 7}
    await set_max_age(s3, None)
    assert _days_of(operator, bucket) == {"own": 5}
