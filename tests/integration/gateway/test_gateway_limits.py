"""What the operator allows, as clients of a gateway meet it. Every refusal tells the limit."""

from __future__ import annotations

import asyncio
import gzip
import time
from typing import Any

import pytest
from aiohttp import WSMsgType
from integration.gateway.conftest import StartGateway

from sd_common.nats_client import NatsClient
from sd_gateway.http import bodies, server
from sd_gateway.rate_limits import Rate
from support.client import Client
from support.jobs import num_jobs
from support.raw_http import connect, raw_answer
from support.waiting import PATIENCE_S

_NO_NAME = "must be a repository id on the hub"


@pytest.mark.parametrize(
    ("settings", "parameters", "field", "sentence"),
    [
        (
            {"allowed_models": ("shapes", "owner/*")},
            {"model": "stranger/model"},
            "model",
            "Model 'stranger/model' is not allowed here: name one of shapes, owner/*",
        ),
        ({"allowed_models": ("shapes",)}, {}, "model", "Model 'CompVis/stable-diffusion-v1-4' is not allowed here"),
        ({"allowed_models": ("owner/*",)}, {"model": "owner/name@refs/pr/1"}, "model", "not allowed here"),
        ({"max_steps": 50}, {"steps": 51}, "steps", "at most 50 are made here"),
        ({"max_prompt_chars": 10}, {"prompt": "x" * 11}, "prompt", "at most 10 are taken here"),
        ({"max_picture_pixels": 256 * 256}, {"width": 512}, "width", "at most 65,536 are made here"),
        ({}, {"model": "../models/shapes"}, "model", _NO_NAME),
        ({}, {"model": "/etc/passwd"}, "model", _NO_NAME),
        ({}, {"model": "\\\\host\\share"}, "model", _NO_NAME),
        ({}, {"model": "//host/share"}, "model", _NO_NAME),
        ({}, {"model": "C:\\models\\shapes"}, "model", _NO_NAME),
        ({}, {"model": "shapes\x00"}, "model", _NO_NAME),
        ({}, {"model": "owner/name@../../x"}, "model", _NO_NAME),
    ],
)
async def test_what_is_not_allowed_is_refused_at_submission(
    start_gateway: StartGateway,
    nats_client: NatsClient,
    settings: dict[str, Any],
    parameters: dict[str, Any],
    field: str,
    sentence: str,
) -> None:
    _, url = await start_gateway(**settings)
    async with Client(url) as client:
        for told in (
            await client.post("/task", json={"prompt": "x", **parameters}),
            await client.get("/txt2img", params={"prompt": "x", **parameters}),
        ):
            assert told.status == 422
            [entry] = told.json["errors"]
            assert entry["field"] == field
            assert sentence in entry["detail"]
    assert await num_jobs(nats_client) == 0


async def test_an_allowed_model_is_taken(start_gateway: StartGateway) -> None:
    _, url = await start_gateway(allowed_models=("owner/*@v1",))
    async with Client(url) as client:
        task_id = await client.submit(prompt="x", model="owner/name@v1")
        assert (await client.last_event(task_id))["event_type"] == "pending"


async def test_a_body_beyond_the_limit_is_refused(start_gateway: StartGateway) -> None:
    _, url = await start_gateway(max_body_bytes=2048)
    async with Client(url) as client:
        told = await client.post("/task", json={"prompt": "x" * 3000})
    assert told.status == 413
    assert told.json["detail"] == "The body is larger than 2,048 bytes"


@pytest.mark.parametrize(
    ("path", "content_type"), [("/user", "application/json"), ("/token", "application/x-www-form-urlencoded")]
)
async def test_large_credentials_are_refused_before_they_have_come(
    start_gateway: StartGateway, path: str, content_type: str
) -> None:
    _, url = await start_gateway()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\nContent-Length: 50000000\r\n\r\n"
    answer = await raw_answer(url, head.encode() + b"x" * 20_000)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"The body is larger than 16,384 bytes" in answer


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET /heal", b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: y", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /h"],
    ids=["silent", "half a line", "half a head", "half a second one"],
)
async def test_a_connection_that_sends_no_whole_request_is_closed(
    sent: bytes, start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_MAX_HEAD_S", 0.3)
    _, url = await start_gateway()
    reader, writer = await connect(url)
    writer.write(sent)
    async with asyncio.timeout(PATIENCE_S):
        assert (await reader.read()).count(b"HTTP/1.1 ") == sent.count(b"\r\n\r\n")
    writer.close()


@pytest.mark.parametrize(
    ("path", "content_type", "body"),
    [
        ("/user", "application/json", b"{"),
        ("/token", "application/x-www-form-urlencoded", b"username="),
        ("/task", "application/json", b"{"),
        ("/blob", "multipart/form-data; boundary=x", b"--x\r\n"),
    ],
)
async def test_a_body_that_does_not_come_is_not_waited_for(
    path: str, content_type: str, body: bytes, start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "MAX_BODY_S", 0.3)
    _, url = await start_gateway()
    reader, writer = await connect(url)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\nContent-Length: 500\r\n\r\n"
    writer.write(head.encode() + body)
    async with asyncio.timeout(PATIENCE_S):
        answer = await reader.read()  # to the end: the connection is closed
    writer.close()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"The body did not come within 0.3 s" in answer


_CODED = {"Content-Encoding": "gzip"}


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/user"), ("POST", "/token"), ("POST", "/task"), ("POST", "/blob"), ("GET", "/txt2img"), ("GET", "/no")],
)
async def test_a_compressed_body_is_refused_before_it_has_come(
    start_gateway: StartGateway, method: str, path: str
) -> None:
    _, url = await start_gateway()
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 500\r\n\r\n"
    answer = await raw_answer(url, head.encode())
    assert answer.startswith(b"HTTP/1.1 415 ")
    assert b"must not be compressed, and it has Content-Encoding: gzip" in answer


@pytest.mark.parametrize("path", ["/user", "/token", "/task"])
async def test_a_compressed_body_is_not_unpacked(start_gateway: StartGateway, path: str) -> None:
    _, url = await start_gateway()
    bomb = gzip.compress(bytes(300_000_000))
    async with Client(url) as client:
        before = time.process_time()
        answers = await asyncio.gather(*(client.post(path, data=bomb, headers=_CODED) for _ in range(6)))
        seconds = time.process_time() - before
        assert [told.status for told in answers] == [415] * 6
        assert (await client.post(path, data=b"no gzip", headers=_CODED)).status == 415
    assert seconds < 0.5  # of all threads; unpacking takes ten times as long


async def test_requests_beyond_the_rate_are_told_to_wait_and_those_of_others_are_not(
    start_gateway: StartGateway,
) -> None:
    _, url = await start_gateway(request_rate=Rate(2, 3600))
    async with Client(url) as client, Client(url) as other:
        await client.take_public_token()
        await other.take_public_token()
        answers = [await client.get("/models") for _ in range(3)]
        assert [told.status for told in answers] == [200, 200, 429]
        assert 1 <= int(answers[2].headers["Retry-After"]) <= 1800
        assert answers[2].json["detail"].startswith("Too many requests: try again in ")
        assert answers[2].json["detail"].endswith(" (2 in 3600 s are allowed)")
        async with client.events() as events:
            closed = await events.socket.receive(PATIENCE_S)
            assert (closed.type, events.socket.close_code) == (WSMsgType.CLOSE, 1013)
        assert (await other.get("/models")).status == 200


async def test_a_token_can_be_revoked_however_many_requests_came_with_it(start_gateway: StartGateway) -> None:
    _, url = await start_gateway(request_rate=Rate(1, 3600))
    async with Client(url) as client:
        await client.take_public_token()
        assert [(await client.get("/models")).status for _ in range(2)] == [200, 429]
        assert (await client.delete("/token")).status == 204


async def test_a_websocket_too_many_is_closed_and_there_is_room_again_once_one_has_gone(
    start_gateway: StartGateway,
) -> None:
    _, url = await start_gateway(max_websockets_per_user=2)
    async with Client(url) as client, Client(url) as other:
        await client.take_public_token()
        await other.take_public_token()
        async with client.events() as first, other.events() as of_other:
            async with client.events(), client.events() as third:
                closed = await third.socket.receive(PATIENCE_S)
                assert closed.extra == "You have 2 websockets here: close one first"
                assert third.socket.close_code == 1013
            task_id = await client.submit(prompt="x")
            assert (await first.next())["task_id"] == task_id
            async with client.events() as again:
                task_id = await client.submit(prompt="x")
                assert (await again.next())["task_id"] == task_id
            task_id = await other.submit(prompt="x")
            assert (await of_other.next())["task_id"] == task_id
