"""The gateway: wires its parts, and owns the order in which they start and stop."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack

import structlog
from aiohttp import web

from sd_common.abort import Aborter
from sd_common.blob_store import SHORT_PATIENCE, BlobStore
from sd_common.errors import Unavailable
from sd_common.health import serving_health
from sd_common.job_queue import JobQueue
from sd_common.nats_client import NatsClient
from sd_common.queue_position import QueuePositions
from sd_common.settings import MinioSettings, NatsSettings
from sd_common.task_log import TaskLog
from sd_gateway.account_limits import AccountLimits
from sd_gateway.auth_client import AuthClient
from sd_gateway.authn import Authenticator
from sd_gateway.errors import AccountRefused
from sd_gateway.event_feed import EventFeed
from sd_gateway.heard_backlog import HeardBacklog
from sd_gateway.http.connections import ConnectionsOfAddresses
from sd_gateway.http.content_encoding import content_encoding_middleware
from sd_gateway.http.middleware import problem_middleware
from sd_gateway.http.openapi import create_document
from sd_gateway.http.operations import add_operations
from sd_gateway.http.origins import add_cors_headers, origin_middleware
from sd_gateway.http.routes import OPERATIONS
from sd_gateway.http.runner import MAX_LINE_BYTES, GatewayRunner
from sd_gateway.http.security_headers import add_security_headers
from sd_gateway.http.service import add_documents
from sd_gateway.idempotency_keys import IdempotencyKeys
from sd_gateway.idempotent_submit import IdempotentSubmitter
from sd_gateway.input_pictures import InputPictures
from sd_gateway.metrics import FleetMetrics, GatewayMetrics
from sd_gateway.parts import PARTS, Parts
from sd_gateway.rate_limits import RateLimit
from sd_gateway.remote_pictures import INTERNET, Reach, RemotePictures
from sd_gateway.revoked_tokens import RevokedTokens
from sd_gateway.served_models import ServedModels
from sd_gateway.settings import GatewaySettings
from sd_gateway.submit import Submitter
from sd_gateway.task_pages import TaskPages
from sd_gateway.unfinished_tasks import UnfinishedTasks
from sd_gateway.websocket import Websockets

log = structlog.get_logger(__name__)

#: Pause between tries to reach a part that is not there yet.
_RETRY_PAUSE_S = 0.2
#: For how long a connection is still read whose answer was given before its body was: a refused upload's.
#: aiohttp's 10 s would hold up a stop by as much after a websocket client has vanished.
_LINGERING_S = 2.0
#: Seconds for which a connection may send no whole head of a request: silent ones are closed, and those that send it by
#: the byte. Longer than proxies in front keep a connection that is not used (nginx: 60 s), so that they close it.
_MAX_HEAD_S = 75.0
#: A readiness check that takes longer has failed.
_READINESS_TIMEOUT_S = 2.0
#: Base64 is 4/3 of the bytes, and a task may bring two pictures.
_BODY_BYTES_PER_PICTURE_BYTE = 3


class GatewayApp:
    """One gateway process, or the gateway's part of one."""

    def __init__(
        self,
        settings: GatewaySettings,
        nats_settings: NatsSettings,
        minio_settings: MinioSettings,
        reach: Reach = INTERNET,
        metrics: GatewayMetrics | None = None,
    ) -> None:
        self._settings = settings
        self._metrics = metrics or GatewayMetrics()
        self._reach = reach
        self._nats_settings = nats_settings
        self._minio_settings = minio_settings
        #: The port for operators, where there is one.
        self.health_port: int | None = None
        self._stack = AsyncExitStack()

    async def start(self, listening: socket.socket | None = None) -> None:
        """Listen, on `listening` where given, else on the address of the settings, and connect.

        Returns when requests are answered. Parts that are away are waited for in the background: `/readyz` tells.
        """
        async with AsyncExitStack() as stack:
            process = self._metrics.process
            self._client = NatsClient(self._nats_settings, "gateway", process.nats)
            stack.push_async_callback(self._client.shut)
            blobs = await stack.enter_async_context(BlobStore(self._minio_settings, SHORT_PATIENCE, process.s3))
            remote_pictures = RemotePictures(
                self._settings.remote_images,
                self._settings.max_upload_bytes,
                self._settings.remote_images_timeout_s,
                self._reach,
            )
            await stack.enter_async_context(remote_pictures)
            self._parts = self._wire(self._client, blobs, remote_pictures)
            stack.callback(self._parts.feed.stop)
            stack.callback(self._parts.unfinished_tasks.stop)
            stack.callback(self._parts.revoked_tokens.stop)
            self._starting = asyncio.create_task(self._start_parts(), name="gateway-start-parts")
            stack.callback(self._starting.cancel)
            stack.enter_context(self._metrics.showing(self._fleet_metrics))
            host, port = self._settings.health_host, self._settings.health_port
            health = serving_health(host, port, self._readiness, process.registry)
            self.health_port = await stack.enter_async_context(health)
            runner = GatewayRunner(
                create_web_app(self._parts),
                ConnectionsOfAddresses(self._settings.max_connections_per_address, self._settings.trusted_proxies),
                handler_cancellation=True,  # a client that goes away cancels its request, which aborts its task
                access_log=None,
                shutdown_timeout=self._settings.shutdown_timeout_s,
                keepalive_timeout=_MAX_HEAD_S,
                lingering_time=_LINGERING_S,
                auto_decompress=False,  # what a refused body unpacks to would be read too
                max_line_size=MAX_LINE_BYTES,
                max_field_size=MAX_LINE_BYTES,
            )
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            if listening is not None:
                site: web.BaseSite = web.SockSite(runner, listening)
            else:
                site = web.TCPSite(runner, self._settings.host, self._settings.port)
            await site.start()
            stack.push_async_callback(self._parts.websockets.close_all)
            stack.push_async_callback(site.stop)
            self._stack = stack.pop_all()
        log.info(
            "gateway_listening",
            port=runner.addresses[0][1],
            base_url=self._settings.base_url,
            health_port=self.health_port,
        )

    async def stop(self) -> None:
        """Stop listening, let requests under way end, then close what they needed. Idempotent."""
        await self._stack.aclose()

    async def ready(self) -> None:
        """Return when every part is there."""
        await self._starting
        while any((await self._readiness()).values()):  # noqa: ASYNC110 - other processes become ready
            await asyncio.sleep(_RETRY_PAUSE_S)

    async def link_with_token(self) -> str | None:
        """The link of `PRINT_LINK_WITH_TOKEN`: it makes a picture. None where the auth service does not allow it."""
        try:
            token = await self._parts.auth.link_token()
        except AccountRefused as error:
            log.warning("no_link_with_token", reason=str(error))
            return None
        return f"{self._settings.base_url}/txt2img?{self._settings.link_query}&token={token.access_token}"

    def _wire(self, client: NatsClient, blobs: BlobStore, remote_pictures: RemotePictures) -> Parts:
        settings = self._settings
        task_log = TaskLog(client, self._metrics.process.tasks)
        queue = JobQueue(client)
        auth = AuthClient(client)
        revoked_tokens = RevokedTokens(client)
        authenticator = Authenticator(auth, revoked_tokens)
        feed = EventFeed(client, task_log)
        input_pictures = InputPictures(blobs, remote_pictures, settings.base_url, settings)
        unfinished_tasks = UnfinishedTasks(client, queue, feed, settings.max_unfinished_tasks_per_user)
        served_models = ServedModels(client)
        self._backlog = HeardBacklog(client)
        self._fleet_metrics = FleetMetrics(served_models, unfinished_tasks, self._backlog, settings.allowed_models)
        submitter = Submitter(queue, task_log, input_pictures, unfinished_tasks, settings)
        return Parts(
            settings=settings,
            metrics=self._metrics,
            nats=client,
            auth=auth,
            authenticator=authenticator,
            revoked_tokens=revoked_tokens,
            account_limits=AccountLimits(settings),
            requests_of_user=RateLimit(settings.request_rate, "requests"),
            blobs=blobs,
            task_log=task_log,
            task_pages=TaskPages(task_log),
            feed=feed,
            served_models=served_models,
            input_pictures=input_pictures,
            submitter=submitter,
            idempotent_submitter=IdempotentSubmitter(IdempotencyKeys(client), task_log, submitter),
            unfinished_tasks=unfinished_tasks,
            queue_positions=QueuePositions(client),
            aborter=Aborter(client, queue, task_log),
            websockets=Websockets(client, feed, task_log, authenticator, settings, self._metrics),
            readiness=self._readiness,
        )

    async def _start_parts(self) -> None:
        parts = self._parts
        for start in (
            self._client.open,
            parts.feed.start,
            parts.served_models.start,
            parts.revoked_tokens.start,
            parts.unfinished_tasks.start,
            self._backlog.start,
            parts.authenticator.fetch_keys,  # after what needs NATS alone: the auth service may be away for longer
        ):
            while True:
                try:
                    await start()
                    break
                except Exception as error:
                    log.warning("waiting_for_a_part", error=str(error) or type(error).__name__)
                await asyncio.sleep(_RETRY_PAUSE_S)

    async def _readiness(self) -> dict[str, str | None]:
        checks = {"nats": self._check_nats, "s3": self._check_s3, "auth": self._check_auth}
        results = await asyncio.gather(*(check() for check in checks.values()), return_exceptions=True)
        return {
            name: (str(result) or "no answer in time") if isinstance(result, BaseException) else None
            for name, result in zip(checks, results, strict=True)
        }

    async def _check_nats(self) -> None:
        if not self._client.is_connected:
            raise Unavailable("The message broker")
        # A server that stands still keeps its connections. Streams are not asked: their leaders change, and requests
        # ride through that.
        await asyncio.wait_for(self._client.flush(), _READINESS_TIMEOUT_S)
        if not self._parts.feed.is_started:
            raise Unavailable("The event feed")
        if not self._parts.revoked_tokens.is_known:
            raise Unavailable("The list of revoked tokens")
        if not self._parts.unfinished_tasks.are_known:
            raise Unavailable("The list of unfinished tasks")

    async def _check_s3(self) -> None:
        await asyncio.wait_for(self._parts.blobs.check_available(), _READINESS_TIMEOUT_S)

    async def _check_auth(self) -> None:
        # Tokens are verified here: the keys are needed, not the service.
        if not self._parts.authenticator.has_keys:
            raise Unavailable("The auth service")


def create_web_app(parts: Parts) -> web.Application:
    """The aiohttp application."""
    limit = parts.settings.max_body_bytes or _BODY_BYTES_PER_PICTURE_BYTE * parts.settings.max_upload_bytes
    middlewares = [problem_middleware, origin_middleware, content_encoding_middleware]
    app = web.Application(middlewares=middlewares, client_max_size=limit)
    app[PARTS] = parts
    app.on_response_prepare.extend([add_security_headers, add_cors_headers])
    add_operations(app, OPERATIONS)
    add_documents(app, create_document())
    return app
