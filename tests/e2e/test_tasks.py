"""Tasks, followed and aborted."""

from __future__ import annotations

import asyncio
import contextlib

import aiohttp
import pytest

from support.client import Client

_LONG = {"prompt": "x", "model": "shapes", "steps": 500, "width": 256, "height": 256}
#: A pass has 32 rows at most, two a picture, and little more is taken than fills it.
_MORE_THAN_A_WORKER_TAKES = 24
_SHORT = {"prompt": "x", "model": "shapes", "steps": 1, "width": 64, "height": 64}


async def test_a_queued_task_is_aborted_at_once_without_a_worker(session: Client) -> None:
    async with session.events() as events:
        running = await session.submit(**_LONG)
        await events.until(running, "started")
        *others, queued = [await session.submit(**_LONG) for _ in range(_MORE_THAN_A_WORKER_TAKES - 1)]
        assert (await session.delete(f"/task/{queued}")).status == 204
        told = await events.of_task(queued)
        assert [event["event_type"] for event in told] == ["pending", "aborted"]
        assert (await session.last_event(running))["event_type"] == "started"
        for task_id in (running, *others):
            await session.delete(f"/task/{task_id}")
        assert (await events.until(running, "aborted"))["code"] == "cancelled"


async def test_disconnecting_from_a_synchronous_request_aborts_its_task(session: Client) -> None:
    async with session.events() as events:
        query = {name: str(value) for name, value in _LONG.items()}
        request = asyncio.ensure_future(session.get("/txt2img", params=query))
        while (started := await events.next())["event_type"] != "started":
            pass
        request.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await request
        aborted = await events.until(started["task_id"], "aborted")
    assert aborted["reason"] == "Task cancelled by user"


async def test_progress_comes_to_those_who_ask_for_it(session: Client) -> None:
    async with session.events("&progress=1") as with_progress, session.events() as without:
        task_id = await session.submit(**_SHORT | {"steps": 5})
        told = await with_progress.of_task(task_id)
        steps = [event["step"] for event in told if event["event_type"] == "progress" and event["step"] > 0]
        assert steps == [1, 2, 3, 4, 5]
        assert all("sequence" not in event for event in told if event["event_type"] == "progress")
        assert {event["event_type"] for event in await without.of_task(task_id)} == {"pending", "started", "finished"}


async def test_a_session_hears_nothing_of_another(session: Client, stack_url: str) -> None:
    async with Client(stack_url) as other, session.events() as events:
        await other.take_public_token()
        async with other.events() as other_events:
            theirs = await other.submit(**_SHORT)
            await other_events.until(theirs, "finished")
        ours = await session.submit(**_SHORT)
        heard = [await events.next() for _ in range(3)]
    assert [(event["task_id"], event["event_type"]) for event in heard] == [
        (ours, "pending"),
        (ours, "started"),
        (ours, "finished"),
    ]


async def test_a_flagged_picture_is_black_and_told(session: Client) -> None:
    async with session.events() as events:
        parameters = _SHORT | {"model": "tiny-flagging"}
        flagged = (await events.of_task(await session.submit(**parameters)))[-1]["result"]
        assert flagged["nsfw_content_detected"] is True
        assert (await session.picture(flagged["blob_url"])).convert("RGB").getextrema() == ((0, 0),) * 3
        shown = (await events.of_task(await session.submit(**parameters, safety_filter=False)))[-1]["result"]
        assert shown["nsfw_content_detected"] is None
        assert (await session.picture(shown["blob_url"])).convert("RGB").getextrema() != ((0, 0),) * 3


@pytest.mark.parametrize("model", ["tiny", "tiny-sd2", "tiny-sdxl", "shapes"])
async def test_every_family_makes_a_picture_of_the_size_asked_for(session: Client, model: str) -> None:
    query = {"prompt": "x", "model": model, "steps": "2", "width": "72", "height": "64"}
    answer = await session.get("/txt2img", params=query)
    assert answer.status == 200, answer.body
    assert (await session.picture(answer.json["blob_url"])).size == (72, 64)


async def test_a_task_without_a_model_takes_the_default_of_the_operator(session: Client) -> None:
    query = {"prompt": "x", "steps": "1", "width": "64", "height": "64"}
    answer = await session.get("/txt2img", params=query)
    assert answer.json["parameters_used"]["model"] == "shapes"


async def test_blobs_are_cached_by_etag(session: Client) -> None:
    answer = await session.get("/txt2img", params={name: str(value) for name, value in _SHORT.items()})
    blob = await session.get(answer.json["blob_url"])
    assert blob.headers["Content-Type"] == "image/png"
    assert "immutable" in blob.headers["Cache-Control"]
    again = await session.get(answer.json["blob_url"], headers={"If-None-Match": blob.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")


@pytest.mark.parametrize("query", ["", "?token=", "?token=nonsense"])
async def test_a_websocket_without_a_valid_token_is_closed_with_1008(stack_url: str, query: str) -> None:
    async with aiohttp.ClientSession() as http, http.ws_connect(f"{stack_url}/events{query}") as socket:
        message = await socket.receive()
        assert message.type is aiohttp.WSMsgType.CLOSE
        assert message.data == 1008
        assert "token" in str(message.extra)
