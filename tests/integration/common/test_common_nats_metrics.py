"""What a connection to NATS counts."""

from __future__ import annotations

import asyncio

import nats.errors
import pytest

from sd_common.metrics import ProcessMetrics
from sd_common.nats_client import NatsClient, connect
from sd_common.nats_settings import NatsSettings
from support.metrics import Page
from support.servers import NatsServer


def _page(metrics: ProcessMetrics) -> Page:
    return Page.of(metrics.registry)


async def test_requests_that_nobody_answers_are_counted(nats_settings: NatsSettings) -> None:
    metrics = ProcessMetrics()
    client = await connect(nats_settings, "test", metrics.nats)
    with pytest.raises(nats.errors.NoRespondersError):
        await client.request("nobody.listens")
    await client.subscribe("somebody.listens")
    with pytest.raises(nats.errors.TimeoutError):
        await client.request("somebody.listens", timeout=0.1)
    await client.shut()
    page = _page(metrics)
    assert page.value("sd_nats_errors_total", operation="request") == 2
    assert page.value("sd_nats_errors_total", operation="publish") == 0
    assert page.value("sd_nats_disconnects_total") == 0, "it was closed, not lost"


async def test_messages_that_cannot_be_sent_are_counted(nats_settings: NatsSettings) -> None:
    metrics = ProcessMetrics()
    client = NatsClient(nats_settings, "test", metrics.nats)
    with pytest.raises(nats.errors.ConnectionReconnectingError):
        await client.publish("subject")
    assert _page(metrics).value("sd_nats_errors_total", operation="publish") == 1


async def test_connections_that_are_lost_are_counted(nats_server: NatsServer, nats_settings: NatsSettings) -> None:
    metrics = ProcessMetrics()
    client = await connect(nats_settings, "test", metrics.nats)
    is_back = asyncio.Event()

    async def note() -> None:
        is_back.set()

    client.on_reconnect(note)
    nats_server.kill()
    nats_server.start()
    async with asyncio.timeout(20):
        await is_back.wait()
    await client.shut()
    assert _page(metrics).value("sd_nats_disconnects_total") == 1
