"""The streams and the consumers of jobs, as data. Nothing else defines any."""

from __future__ import annotations

from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    ConsumerInfo,
    DeliverPolicy,
    DiscardPolicy,
    KeyValueConfig,
    ReplayPolicy,
    RePublish,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from pydantic import Field

from sd_common import subjects
from sd_common.errors import SubjectError
from sd_common.settings import Settings
from sd_common.subjects import ModelLane

JOBS = "JOBS"
EVENTS = "EVENTS"
USERS_BUCKET = "users"
IDEMPOTENCY_KEYS_BUCKET = "idempotency_keys"
REVOKED_TOKENS_BUCKET = "revoked_tokens"

#: A job that nobody acknowledged, nor marked as in progress, for this many seconds goes to another worker, unless the
#: workers' settings say otherwise.
DEFAULT_ACK_WAIT_S = 30.0
#: A consumer of jobs that nobody pulled from for this many seconds, and of which no job is in progress, goes away:
#: anybody may name models that there are not. The next worker that finds jobs there makes it anew.
CONSUMER_IDLE_S = 600.0
#: A retried submission with the same task_id is one job within this many seconds.
DUPLICATE_WINDOW_S = 120.0


class StreamSettings(Settings):
    """How the streams are made; only provisioning reads these."""

    nats_replicas: int = Field(default=1, ge=1, le=5, description="Copies of each stream; 3 in a cluster.")
    events_max_age_s: int = Field(
        default=86_400, ge=60, description="Seconds for which the events of a task can be read."
    )
    jobs_max_per_model: int = Field(
        default=10_000,
        ge=1,
        description="Jobs that each lane of a model's queue holds; a submission beyond them is refused with 429.",
    )
    jobs_max_bytes: int = Field(
        default=256 * 1024 * 1024,
        ge=1024 * 1024,
        description="Bytes that all queues hold together, so that the events of what is queued find room; a submission "
        "beyond them is refused with 503.",
    )


def jobs_stream(settings: StreamSettings) -> StreamConfig:
    """Work to do. A job stays until it is acknowledged."""
    return StreamConfig(
        name=JOBS,
        subjects=list(subjects.JOBS),
        retention=RetentionPolicy.WORK_QUEUE,
        storage=StorageType.FILE,
        num_replicas=settings.nats_replicas,
        allow_direct=True,
        duplicate_window=DUPLICATE_WINDOW_S,
        max_consumers=10_000,  # nats-server 2.15 refuses the 1,001st unless told
        max_msgs_per_subject=settings.jobs_max_per_model,
        max_bytes=settings.jobs_max_bytes,  # jobs that fill the disk would keep the events from it that end them
        discard=DiscardPolicy.NEW,
        discard_new_per_subject=True,
    )


def events_stream(settings: StreamSettings) -> StreamConfig:
    """The life of every task. Clients are fed from the republished subjects: those carry only what was stored."""
    return StreamConfig(
        name=EVENTS,
        subjects=[subjects.EVENTS],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        num_replicas=settings.nats_replicas,
        allow_direct=True,
        max_age=settings.events_max_age_s,
        republish=RePublish(src="events.>", dest=subjects.FEED),
    )


def users_bucket(settings: StreamSettings) -> KeyValueConfig:
    """Users by name. Read from the leader: a replica that is behind denies a user who has just signed up."""
    return _bucket(USERS_BUCKET, settings)


def idempotency_keys_bucket(settings: StreamSettings) -> KeyValueConfig:
    """The task of each `Idempotency-Key`, for as long as its events can be read. Read from the leader, as `users`."""
    return _bucket(IDEMPOTENCY_KEYS_BUCKET, settings, ttl=settings.events_max_age_s)


def revoked_tokens_bucket(settings: StreamSettings) -> KeyValueConfig:
    """Revoked tokens by id. Each entry has a life of its own, as long as that of its token."""
    republish = RePublish(src=f"$KV.{REVOKED_TOKENS_BUCKET}.*", dest="revoked_tokens.{{wildcard(1)}}")
    return _bucket(REVOKED_TOKENS_BUCKET, settings, direct=True, republish=republish)


def _bucket(
    name: str,
    settings: StreamSettings,
    *,
    ttl: float | None = None,
    direct: bool = False,
    republish: RePublish | None = None,
) -> KeyValueConfig:
    return KeyValueConfig(
        bucket=name,
        history=1,
        ttl=ttl,
        storage=StorageType.FILE,
        replicas=settings.nats_replicas,
        direct=direct,
        republish=republish,
    )


def stream_of_bucket(name: str) -> str:
    """The stream that holds a bucket."""
    return f"KV_{name}"


def keys_of_bucket(name: str) -> str:
    """The subjects of all keys of a bucket."""
    return f"$KV.{name}.>"


def jobs_consumer_name(lane: ModelLane) -> str:
    """A model key ends in hex digits: none is the name of another model's lane."""
    return lane.model_key if lane.lane == "rest" else f"{lane.model_key}-{lane.lane}"


def jobs_consumer(lane: ModelLane, ack_wait_s: float = DEFAULT_ACK_WAIT_S) -> ConsumerConfig:
    """The consumer of one lane of a model's jobs, shared by all workers. `max_deliver` is unbounded: a worker counts
    attempts itself, since a message past `max_deliver` stays in the stream and counts as backlog."""
    return ConsumerConfig(
        name=jobs_consumer_name(lane),
        durable_name=jobs_consumer_name(lane),
        filter_subject=lane.jobs,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=ack_wait_s,
        max_deliver=-1,
        max_ack_pending=10_000,
        max_waiting=4096,
        inactive_threshold=CONSUMER_IDLE_S,
    )


def is_jobs_consumer(found: ConsumerInfo) -> bool:
    """Whether a consumer of JOBS is that of a lane, whatever its ack_wait. One from before there was
    `inactive_threshold` is, while it has jobs in progress."""
    config = found.config
    try:
        lane = subjects.parse_jobs_subject(config.filter_subject or "")
    except SubjectError:
        return False
    expected = jobs_consumer(lane, config.ack_wait or DEFAULT_ACK_WAIT_S).evolve(
        deliver_policy=DeliverPolicy.ALL,
        replay_policy=ReplayPolicy.INSTANT,
        num_replicas=config.num_replicas,
        metadata=config.metadata,
    )
    if found.num_ack_pending and not config.inactive_threshold:
        expected = expected.evolve(inactive_threshold=config.inactive_threshold)
    return _said(config) == _said(expected)


def _said(config: ConsumerConfig) -> dict[str, object]:
    return {field: value for field, value in config.as_dict().items() if value}
