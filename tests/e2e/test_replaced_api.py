"""The flows of the replaced API's own test-suite: its clients work here."""

from __future__ import annotations

from typing import Any
from unittest.mock import ANY

from support.client import Client, Events, Json

COMMON = {"model": "tiny", "prompt": "corgi wearing a top hat", "steps": 2, "safety_filter": False}
#: What the model was trained at: 512 by 512 for those that the replaced API was used with.
OWN_SIZE = {"width": 64, "height": 64}
RESOLVED = COMMON | {"negative_prompt": None, "guidance": 7.5, "scheduler": "plms", "seed": ANY}


async def _run_task(client: Client, events: Events | None, parameters: Json, expected: Json) -> Json:
    task_id = await client.submit(**parameters)
    if events is not None:
        told = await events.of_task(task_id)
        assert [event["event_type"] for event in told] == ["pending", "started", "finished"]
        assert [event["sequence"] for event in told] == sorted({event["sequence"] for event in told})
        finished = told[-1]
    else:
        finished = await client.ended(task_id)
    assert finished["result"] == {"blob_url": ANY, "nsfw_content_detected": None, "parameters_used": expected}
    assert await client.last_event(task_id) == finished
    return finished


async def _txt2img_img2img(client: Client, events: Events | None) -> tuple[str, str]:
    """The URLs of an uploaded picture, and of one made from it."""
    txt2img = {"params_type": "txt2img"}
    finished = await _run_task(client, events, COMMON | txt2img, RESOLVED | txt2img | OWN_SIZE)
    assert isinstance(finished["result"]["parameters_used"]["seed"], int)
    blob = await client.get(finished["result"]["blob_url"])
    uploaded = await client.upload(blob.body)
    img2img: dict[str, Any] = {"params_type": "img2img", "initial_image": uploaded, "seed": 42}
    finished = await _run_task(client, events, COMMON | img2img, RESOLVED | img2img | {"strength": 0.8})
    made = finished["result"]["blob_url"]
    assert (await client.picture(made)).size == (64, 64)
    return uploaded, made


async def test_txt2img_to_img2img_to_inpaint_with_a_token(session: Client) -> None:
    async with session.events() as events:
        uploaded, made = await _txt2img_img2img(session, events)
        inpaint = {"params_type": "inpaint", "initial_image": uploaded, "mask": made, "model": "tiny-inpainting"}
        finished = await _run_task(session, events, COMMON | inpaint, RESOLVED | inpaint)
    assert (await session.picture(finished["result"]["blob_url"])).size == (64, 64)


async def test_txt2img_to_img2img_without_a_token(client: Client) -> None:
    await _txt2img_img2img(client, None)


async def test_synchronous_txt2img(client: Client) -> None:
    query = {name: str(value) for name, value in COMMON.items()} | {"params_type": "txt2img"}
    answer = await client.get("/txt2img", params=query)
    assert answer.status == 200, answer.body
    assert answer.headers["Content-Type"] == "application/json"
    expected = RESOLVED | {"params_type": "txt2img"} | OWN_SIZE
    assert answer.json["parameters_used"] == expected


async def test_synchronous_img2img_and_inpaint(session: Client) -> None:
    first = (await session.get("/txt2img", params={"prompt": "x", "steps": "1", "width": "64", "height": "64"})).json
    query = {"prompt": "y", "steps": "4", "initial_image": first["blob_url"], "model": "tiny"}
    second = await session.get("/img2img", params=query)
    assert second.status == 200, second.body
    assert (await session.picture(second.json["blob_url"])).size == (64, 64)
    third = await session.get("/inpaint", params=query | {"mask": second.json["blob_url"]})
    assert third.status == 200, third.body
    assert (await session.picture(third.json["blob_url"])).size == (64, 64)


async def test_a_cancelled_task_is_aborted_with_the_reason_that_clients_know(session: Client) -> None:
    async with session.events() as events:
        task_id = await session.submit(prompt="x", model="shapes", steps=500, width=256, height=256)
        await events.until(task_id, "started")
        assert (await session.delete(f"/task/{task_id}")).status == 204
        aborted = await events.until(task_id, "aborted")
    assert aborted["reason"] == "Task cancelled by user"
    assert await session.last_event(task_id) == aborted
    assert (await session.delete(f"/task/{task_id}")).status == 204


async def test_a_body_without_params_type_tells_its_kind_by_its_pictures(session: Client) -> None:
    async with session.events() as events:
        finished = (await events.of_task(await session.submit(prompt="x", steps=1, width=64, height=64)))[-1]
        picture = finished["result"]["blob_url"]
        finished = (await events.of_task(await session.submit(prompt="x", steps=2, initial_image=picture)))[-1]
    assert finished["result"]["parameters_used"]["params_type"] == "img2img"
