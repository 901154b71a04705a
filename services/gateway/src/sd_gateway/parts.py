"""The gateway's parts, and how they are wired: what the handlers of requests work with."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from sd_common.abort import Aborter
from sd_common.blob_store import BlobStore
from sd_common.job_queue import JobQueue
from sd_common.nats_client import NatsClient
from sd_common.queue_position import QueuePositions
from sd_common.task_log import TaskLog
from sd_gateway.account_limits import AccountLimits
from sd_gateway.auth_client import AuthClient
from sd_gateway.authn import Authenticator
from sd_gateway.byte_budget import ByteBudget
from sd_gateway.event_feed import EventFeed
from sd_gateway.fleet_metrics import FleetMetrics
from sd_gateway.heard_backlog import HeardBacklog
from sd_gateway.idempotency_keys import IdempotencyKeys
from sd_gateway.idempotent_submit import IdempotentSubmitter
from sd_gateway.input_pictures import InputPictures
from sd_gateway.metrics import GatewayMetrics
from sd_gateway.rate_limits import RateLimit
from sd_gateway.readiness import Readiness
from sd_gateway.remote_pictures import RemotePictures
from sd_gateway.revoked_tokens import RevokedTokens
from sd_gateway.served_models import ServedModels
from sd_gateway.settings import GatewaySettings
from sd_gateway.submit import Submitter
from sd_gateway.task_pages import TaskPages
from sd_gateway.unfinished_tasks import UnfinishedTasks
from sd_gateway.websocket import Websockets


@dataclass(frozen=True)
class Parts:
    """All of them. None is started yet."""

    settings: GatewaySettings
    metrics: GatewayMetrics
    nats: NatsClient
    auth: AuthClient
    authenticator: Authenticator
    requests_of_holder: RateLimit
    revoked_tokens: RevokedTokens
    account_limits: AccountLimits
    body_bytes: ByteBudget
    answer_bytes: ByteBudget
    blobs: BlobStore
    task_log: TaskLog
    task_pages: TaskPages
    feed: EventFeed
    served_models: ServedModels
    backlog: HeardBacklog
    fleet_metrics: FleetMetrics
    input_pictures: InputPictures
    unfinished_tasks: UnfinishedTasks
    submitter: Submitter
    idempotent_submitter: IdempotentSubmitter
    queue_positions: QueuePositions
    aborter: Aborter
    websockets: Websockets
    readiness: Readiness


#: Bodies of the largest size that are in memory at once; each is there about twice, as it came and as what it says.
_LARGEST_BODIES = 3
#: Pictures of the largest size that are being sent at once.
_LARGEST_PICTURES = 6

PARTS = web.AppKey("parts", Parts)


def create_parts(
    settings: GatewaySettings,
    metrics: GatewayMetrics,
    client: NatsClient,
    blobs: BlobStore,
    remote_pictures: RemotePictures,
) -> Parts:
    """Wire the parts on connections that may still be opened."""
    task_log = TaskLog(client, metrics.process.tasks)
    queue = JobQueue(client)
    auth = AuthClient(client)
    revoked_tokens = RevokedTokens(client)
    authenticator = Authenticator(auth, revoked_tokens)
    feed = EventFeed(client, task_log)
    body_bytes = ByteBudget(_LARGEST_BODIES * settings.largest_body_bytes, "bodies of requests")
    input_pictures = InputPictures(blobs, remote_pictures, body_bytes, settings.base_url, settings)
    unfinished_tasks = UnfinishedTasks(client, queue, feed, settings.max_unfinished_tasks_per_user)
    served_models = ServedModels(client)
    backlog = HeardBacklog(client)
    submitter = Submitter(queue, task_log, input_pictures, unfinished_tasks, settings)
    return Parts(
        settings=settings,
        metrics=metrics,
        nats=client,
        auth=auth,
        authenticator=authenticator,
        revoked_tokens=revoked_tokens,
        account_limits=AccountLimits(settings),
        requests_of_holder=RateLimit(settings.request_rate, "requests"),
        body_bytes=body_bytes,
        answer_bytes=ByteBudget(_LARGEST_PICTURES * settings.largest_picture_bytes, "answers"),
        blobs=blobs,
        task_log=task_log,
        task_pages=TaskPages(task_log),
        feed=feed,
        served_models=served_models,
        backlog=backlog,
        fleet_metrics=FleetMetrics(served_models, unfinished_tasks, backlog, settings.allowed_models),
        input_pictures=input_pictures,
        submitter=submitter,
        idempotent_submitter=IdempotentSubmitter(IdempotencyKeys(client), task_log, submitter),
        unfinished_tasks=unfinished_tasks,
        queue_positions=QueuePositions(client),
        aborter=Aborter(client, queue, task_log),
        websockets=Websockets(client, feed, task_log, authenticator, settings, metrics),
        readiness=Readiness(client, blobs, authenticator, feed, revoked_tokens, unfinished_tasks),
    )
