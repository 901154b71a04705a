"""Liveness and readiness, asked over HTTP."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter

from sd_common import health
from sd_common.health import HealthServer
from support.metrics import Page


async def _all_ready() -> dict[str, str | None]:
    return {"nats": None, "s3": None}


async def _one_missing() -> dict[str, str | None]:
    return {"nats": None, "s3": "connection refused"}


async def _broken() -> dict[str, str | None]:
    raise RuntimeError("the check itself is broken")


@asynccontextmanager
async def _served(readiness: Any) -> AsyncIterator[HealthServer]:
    server = HealthServer("127.0.0.1", 0, readiness, asyncio.get_running_loop(), CollectorRegistry())
    server.start()
    try:
        yield server
    finally:
        await server.stop()


@contextmanager
def _loop_in_a_thread() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _get(server: HealthServer, path: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, json.load(response)
    finally:
        connection.close()


async def test_ready_when_every_part_is() -> None:
    async with _served(_all_ready) as server:
        assert await asyncio.to_thread(_get, server, "/readyz") == (200, {"status": "ok"})


async def test_the_missing_part_is_told_with_its_reason() -> None:
    async with _served(_one_missing) as server:
        answer = await asyncio.to_thread(_get, server, "/readyz")
        assert answer == (503, {"status": "unavailable", "missing": {"s3": "connection refused"}})


async def test_alive_even_when_not_ready() -> None:
    async with _served(_one_missing) as server:
        assert await asyncio.to_thread(_get, server, "/healthz") == (200, {"status": "ok"})


async def test_a_check_that_fails_is_not_ready() -> None:
    async with _served(_broken) as server:
        status, body = await asyncio.to_thread(_get, server, "/readyz")
        assert status == 503
        assert "RuntimeError" in body["missing"]["readiness"]


def _page(server: HealthServer, accept: str = "") -> tuple[str, Page]:
    """The content type of the page for Prometheus, and the page."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request("GET", "/metrics", headers={"Accept": accept})
        response = connection.getresponse()
        return response.headers["Content-Type"], Page(response.read().decode())
    finally:
        connection.close()


async def test_the_page_for_prometheus_has_the_registry_and_which_parts_are_ready() -> None:
    registry = CollectorRegistry()
    Counter("sd_things_total", "Things.", registry=registry).inc(3)
    server = HealthServer("127.0.0.1", 0, _one_missing, asyncio.get_running_loop(), registry)
    server.start()
    content_type, page = await asyncio.to_thread(_page, server)
    await server.stop()
    assert content_type.startswith("text/plain; version=0.0.4")
    assert page.value("sd_things_total") == 3
    assert page.value("sd_part_ready", part="nats") == 1
    assert page.value("sd_part_ready", part="event_loop") == 1
    assert page.labels("sd_part_ready") >= {frozenset({("part", "s3")})}
    assert page.value("sd_part_ready", part="s3") == 0


async def test_the_page_comes_in_the_format_that_is_asked_for() -> None:
    async with _served(_all_ready) as server:
        content_type, page = await asyncio.to_thread(_page, server, "application/openmetrics-text; version=1.0.0")
        assert content_type.startswith("application/openmetrics-text; version=1.0.0")
        assert page.text.endswith("# EOF\n")


async def test_other_paths_are_not_found() -> None:
    async with _served(_all_ready) as server:
        assert (await asyncio.to_thread(_get, server, "/"))[0] == 404


def test_a_hanging_loop_is_neither_alive_nor_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "ALIVE_WITHIN_S", 0.2)
    monkeypatch.setattr(health, "READY_WITHIN_S", 0.2)
    let_go = threading.Event()
    with _loop_in_a_thread() as loop:
        server = HealthServer("127.0.0.1", 0, _all_ready, loop, CollectorRegistry())
        server.start()
        loop.call_soon_threadsafe(let_go.wait)
        try:
            assert _get(server, "/healthz") == (
                503,
                {"status": "unavailable", "missing": {"event_loop": "no answer within 0.2 s"}},
            )
            assert _get(server, "/readyz")[0] == 503
            assert _page(server)[1].labels("sd_part_ready") == {frozenset({("part", "event_loop")})}
        finally:
            let_go.set()
        monkeypatch.undo()
        assert _get(server, "/healthz")[0] == 200
        asyncio.run(server.stop())


def test_a_closed_loop_is_not_alive() -> None:
    with _loop_in_a_thread() as loop:
        server = HealthServer("127.0.0.1", 0, _all_ready, loop, CollectorRegistry())
        server.start()
    assert _get(server, "/healthz") == (503, {"status": "unavailable", "missing": {"event_loop": "closed"}})
    asyncio.run(server.stop())


async def test_the_port_is_free_after_stop() -> None:
    async with _served(_all_ready) as server:
        port = server.port
    again = HealthServer("127.0.0.1", port, _all_ready, asyncio.get_running_loop(), CollectorRegistry())
    await again.stop()  # never started
