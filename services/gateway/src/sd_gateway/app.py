"""The gateway as a whole: the order in which its parts start and stop."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack

import structlog
from aiohttp import web

from sd_common.blob_store import BlobStore
from sd_common.health import serving_health
from sd_common.nats_client import NatsClient
from sd_common.nats_settings import NatsSettings
from sd_common.s3_client import SHORT_PATIENCE, MinioSettings
from sd_gateway.default_models import warn_of_kinds_without_default_model
from sd_gateway.errors import AccountRefused
from sd_gateway.http.server import create_runner
from sd_gateway.metrics import GatewayMetrics
from sd_gateway.parts import Parts, create_parts
from sd_gateway.remote_pictures import INTERNET, Reach, RemotePictures
from sd_gateway.settings import GatewaySettings

log = structlog.get_logger(__name__)

#: Pause between tries to reach a part that is not there yet.
_RETRY_PAUSE_S = 0.2


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
        Raises `OSError` where a port cannot be listened on; what had started is stopped again then.
        """
        settings, process = self._settings, self._metrics.process
        warn_of_kinds_without_default_model(settings)
        async with AsyncExitStack() as stack:
            client = NatsClient(self._nats_settings, "gateway", process.nats)
            stack.push_async_callback(client.shut)
            blobs = await stack.enter_async_context(BlobStore(self._minio_settings, SHORT_PATIENCE, process.s3))
            remote_pictures = RemotePictures(
                settings.remote_images, settings.max_upload_bytes, settings.remote_images_timeout_s, self._reach
            )
            await stack.enter_async_context(remote_pictures)
            self._parts = parts = create_parts(settings, self._metrics, client, blobs, remote_pictures)
            stack.callback(parts.feed.stop)
            stack.callback(parts.unfinished_tasks.stop)
            stack.callback(parts.revoked_tokens.stop)
            self._starting = asyncio.create_task(_start_parts(parts), name="gateway-start-parts")
            stack.callback(self._starting.cancel)
            stack.enter_context(self._metrics.showing(parts.fleet_metrics))
            health = serving_health(settings.health_host, settings.health_port, parts.readiness.check, process.registry)
            self.health_port = await stack.enter_async_context(health)
            runner = create_runner(parts)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            if listening is not None:
                site: web.BaseSite = web.SockSite(runner, listening)
            else:
                site = web.TCPSite(runner, settings.host, settings.port)
            try:
                await site.start()
            except OSError as error:
                problem = f"cannot listen on {settings.host}:{settings.port} (HOST, PORT): {error.strerror}"
                raise OSError(error.errno, problem) from error
            stack.push_async_callback(parts.websockets.close_all)
            stack.push_async_callback(site.stop)
            self._stack = stack.pop_all()
        log.info(
            "gateway_listening",
            port=runner.addresses[0][1],
            base_url=settings.base_url,
            health_port=self.health_port,
        )

    async def stop(self) -> None:
        """Stop listening, let requests under way end, then close what they needed. Idempotent."""
        await self._stack.aclose()

    async def ready(self) -> None:
        """Return when every part is there."""
        await self._starting
        await self._parts.readiness.wait()

    async def link_with_token(self) -> str | None:
        """The link of `PRINT_LINK_WITH_TOKEN`: it makes a picture. None where the auth service does not allow it.

        Raises `Unavailable` where that does not answer.
        """
        try:
            token = await self._parts.auth.link_token()
        except AccountRefused as error:
            log.warning("no_link_with_token", reason=str(error))
            return None
        return f"{self._settings.base_url}/txt2img?{self._settings.link_query}&token={token.access_token}"


async def _start_parts(parts: Parts) -> None:
    for start in (
        parts.nats.open,
        parts.feed.start,
        parts.served_models.start,
        parts.revoked_tokens.start,
        parts.unfinished_tasks.start,
        parts.backlog.start,
        parts.authenticator.fetch_keys,  # after what needs NATS alone: the auth service may be away for longer
    ):
        while True:
            try:
                await start()
                break
            except Exception as error:
                log.warning("waiting_for_a_part", error=str(error) or type(error).__name__)
            await asyncio.sleep(_RETRY_PAUSE_S)
