"""Requests that no client sends by mistake, and clients that vanish: none of them is a failure of ours."""

from __future__ import annotations

import base64

import pytest
from integration.gateway.conftest import StartGateway
from structlog.testing import capture_logs

from sd_common.nats_client import NatsClient
from sd_common.streams import EVENTS
from sd_gateway.app import GatewayApp
from support.client import Client
from support.metrics import scrape
from support.raw_http import connect, raw_answer
from support.waiting import until

_NO_TEXT = b"\xff\xfe"


@pytest.fixture
async def gateway(start_gateway: StartGateway) -> tuple[GatewayApp, str]:
    """A gateway that tells operators what it counts."""
    return await start_gateway(health_port=0)


def _handshake(client: Client, key: bytes) -> bytes:
    return (
        f"GET /events?token={client.token} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
    ).encode() + (key + b"\r\n\r\n")


async def test_a_handshake_with_a_key_that_is_no_text_is_refused(client: Client) -> None:
    answer = await raw_answer(client.base_url, _handshake(client, _NO_TEXT))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in answer


@pytest.mark.parametrize("name", [b"traceparent", b"tracestate", b"baggage"])
async def test_headers_of_a_trace_that_are_no_text_are_passed_over(client: Client, name: bytes) -> None:
    answer = await raw_answer(
        client.base_url, b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + name + b": " + _NO_TEXT + b"\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 200 ")


async def test_what_a_client_calls_baggage_is_not_stored_with_its_events(
    client: Client, nats_client: NatsClient
) -> None:
    told = await client.post("/task", json={"prompt": "x"}, headers={"baggage": "a=" + "x" * 4000})
    assert told.status == 200
    stored = await nats_client.jetstream().get_msg(EVENTS, seq=1)
    assert "baggage" not in {name.lower() for name in stored.headers or {}}


@pytest.mark.parametrize("path", ["/static/nothing.js", "/static/%ff", "/static/swagger-ui", "/static/" + "a" * 5000])
async def test_a_file_that_is_not_there_is_a_problem(client: Client, path: str) -> None:
    answer = await raw_answer(client.base_url, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"application/problem+json" in answer


@pytest.mark.parametrize("path", ["/healthz", "/nothing"])
async def test_what_nobody_can_expect_is_a_problem(client: Client, path: str) -> None:
    with capture_logs() as lines:
        request = f"GET {path} HTTP/1.1\r\nHost: x\r\nExpect: a-miracle\r\n\r\n".encode()
        answer = await raw_answer(client.base_url, request)
    assert answer.startswith(b"HTTP/1.1 417 ")
    assert b"application/problem+json" in answer
    assert b"nosniff" in answer
    assert [line["status"] for line in lines if line["event"] == "bad_request_refused"] == [417]


@pytest.mark.parametrize("is_served", [True, False], ids=["served", "in the handshake"])
async def test_a_websocket_client_that_vanishes_is_no_failure_and_no_slow_answer(
    client: Client, gateway: tuple[GatewayApp, str], is_served: bool
) -> None:

    def statuses() -> list[int]:
        return [line["status"] for line in lines if line["event"] == "request"]

    with capture_logs() as lines:
        for _ in range(10):
            reader, writer = await connect(client.base_url)
            writer.write(_handshake(client, base64.b64encode(bytes(16))))
            await writer.drain()
            if is_served:
                await reader.readuntil(b"\r\n\r\n")
            writer.transport.abort()
        await until(lambda: len(statuses()) == 10)
    assert set(statuses()) == {499}
    assert not [line for line in lines if line["log_level"] in ("warning", "error")]
    page = await scrape(f"http://127.0.0.1:{gateway[0].health_port}/metrics")
    assert "/events" not in {dict(labels)["route"] for labels in page.labels("sd_http_request_seconds_count")}
