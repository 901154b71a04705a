"""The bucket of pictures, as provisioning makes it: that there is one, and how long it keeps pictures."""

from __future__ import annotations

from minio import Minio
from minio.commonconfig import ENABLED, Filter
from minio.error import S3Error
from minio.lifecycleconfig import Expiration, LifecycleConfig, Rule
from pydantic import Field

from sd_common.s3_client import S3Client
from sd_common.settings import Settings

#: The id of the rule of the bucket's lifecycle that is ours.
_MAX_AGE_RULE = "pictures-max-age"


class RetentionSettings(Settings):
    """How long pictures are kept; only provisioning reads these."""

    pictures_max_age_days: int | None = Field(
        default=None,
        ge=1,
        description="Days after which the S3 server deletes a picture, made or uploaded. Default: kept for ever.",
    )


async def create_bucket(s3: S3Client) -> None:
    """Create the bucket where there is none. Raises `Unavailable`."""

    def create(minio: Minio) -> None:
        if not minio.bucket_exists(s3.bucket):
            try:
                minio.make_bucket(s3.bucket)
            except S3Error as error:
                if error.code != "BucketAlreadyOwnedByYou":  # somebody was first
                    raise

    await s3.call("create_bucket", create)


async def set_max_age(s3: S3Client, days: int | None) -> None:
    """Have the server delete pictures that are older, or none. Other rules of the bucket's lifecycle stay. Raises
    `Unavailable`."""

    def set_rule(minio: Minio) -> None:
        lifecycle = minio.get_bucket_lifecycle(s3.bucket)
        before = lifecycle.rules if lifecycle else []
        rules = [rule for rule in before if rule.rule_id != _MAX_AGE_RULE]
        if days is not None:
            every_blob, expiration = Filter(prefix=""), Expiration(days=days)
            rules.append(Rule(ENABLED, rule_filter=every_blob, rule_id=_MAX_AGE_RULE, expiration=expiration))
        if rules:
            minio.set_bucket_lifecycle(s3.bucket, LifecycleConfig(rules))
        elif before:
            minio.delete_bucket_lifecycle(s3.bucket)

    await s3.call("set_max_age", set_rule)
