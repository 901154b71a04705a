"""What the handlers of requests work with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from sd_common.abort import Aborter
from sd_common.blob_store import BlobStore
from sd_common.nats_client import NatsClient
from sd_common.queue_position import QueuePositions
from sd_common.task_log import TaskLog
from sd_gateway.account_limits import AccountLimits
from sd_gateway.auth_client import AuthClient
from sd_gateway.authn import Authenticator
from sd_gateway.event_feed import EventFeed
from sd_gateway.idempotent_submit import IdempotentSubmitter
from sd_gateway.input_pictures import InputPictures
from sd_gateway.metrics import GatewayMetrics
from sd_gateway.rate_limits import RateLimit
from sd_gateway.revoked_tokens import RevokedTokens
from sd_gateway.served_models import ServedModels
from sd_gateway.settings import GatewaySettings
from sd_gateway.submit import Submitter
from sd_gateway.task_pages import TaskPages
from sd_gateway.unfinished_tasks import UnfinishedTasks
from sd_gateway.websocket import Websockets


@dataclass(frozen=True)
class Parts:
    """The gateway's parts, wired in `app.py`."""

    settings: GatewaySettings
    metrics: GatewayMetrics
    nats: NatsClient
    auth: AuthClient
    authenticator: Authenticator
    requests_of_user: RateLimit
    revoked_tokens: RevokedTokens
    account_limits: AccountLimits
    blobs: BlobStore
    task_log: TaskLog
    task_pages: TaskPages
    feed: EventFeed
    served_models: ServedModels
    input_pictures: InputPictures
    unfinished_tasks: UnfinishedTasks
    submitter: Submitter
    idempotent_submitter: IdempotentSubmitter
    queue_positions: QueuePositions
    aborter: Aborter
    websockets: Websockets
    readiness: Callable[[], Awaitable[dict[str, str | None]]]


PARTS = web.AppKey("parts", Parts)
