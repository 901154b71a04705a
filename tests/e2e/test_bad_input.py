"""Wrong input: the status, and the sentence that the client gets."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import aiohttp
import pytest

from support.client import Answered, Client
from support.pictures import data_url, png
from support.stack import EmbeddedStack


def _assert_problem(answer: Answered, status: int, sentence: str, field: str | None = None) -> None:
    assert answer.status == status, answer.body
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json
    assert problem["status"] == status
    assert sentence in problem["detail"]
    if field is not None:
        assert field in [entry["field"] for entry in problem["errors"]]


@pytest.mark.parametrize(
    ("parameters", "field", "sentence"),
    [
        ({"scheduler": "fast"}, "scheduler", "Input should be 'plms', 'ddim', 'k-lms'"),
        ({"steps": 0}, "steps", "greater than or equal to 1"),
        ({"steps": 10**6}, "steps", "less than or equal to 500"),
        ({"steps": "many"}, "steps", "valid integer"),
        ({"width": 511}, "width", "multiple of 8"),
        ({"height": 8}, "height", "greater than or equal to 64"),
        ({"guidance": 0.5}, "guidance", "greater than or equal to 1"),
        ({"seed": -1}, "seed", "greater than or equal to 0"),
        ({"model": "../etc"}, "model", "repository id on the hub"),
        ({"prompt": None}, "prompt", "valid string"),
        ({"colour": "red"}, "colour", "There is no such field, only prompt, negative_prompt, "),
        ({"params_type": "img2img"}, "initial_image", "Field required"),
    ],
)
async def test_a_wrong_field_is_told(session: Client, parameters: dict[str, Any], field: str, sentence: str) -> None:
    body = {"params_type": "txt2img", "prompt": "x"} | parameters
    _assert_problem(await session.post("/task", json=body), 422, sentence, field)


async def test_every_wrong_field_is_told_at_once(session: Client) -> None:
    answer = await session.get("/txt2img", params={"steps": "0", "width": "511", "scheduler": "fast"})
    _assert_problem(answer, 422, "steps: ")
    assert [entry["field"] for entry in answer.json["errors"]] == ["prompt", "steps", "scheduler", "width"]


async def test_a_repeated_parameter_is_told(session: Client) -> None:
    answer = await session.get("/txt2img?prompt=a&prompt=b")
    _assert_problem(answer, 422, "Given more than once", "prompt")


async def test_an_unknown_kind_of_task_is_told(session: Client) -> None:
    answer = await session.post("/task", json={"params_type": "video", "prompt": "x"})
    _assert_problem(answer, 422, "'txt2img', 'img2img', 'inpaint'")


async def test_an_unknown_model_aborts_the_task_with_the_reason(session: Client) -> None:
    answer = await session.get("/txt2img", params={"prompt": "x", "model": "nope"})
    _assert_problem(answer, 422, "Model 'nope' is not a directory below MODEL_DIR")
    assert answer.json["code"] == "model_unavailable"
    async with session.events() as events:
        told = await events.of_task(await session.submit(prompt="x", model="nope"))
    assert [event["event_type"] for event in told] == ["pending", "started", "aborted"]
    assert told[-1]["code"] == "model_unavailable"


async def test_a_model_for_inpainting_says_that_it_only_paints_into_pictures(session: Client) -> None:
    answer = await session.get("/txt2img", params={"prompt": "x", "model": "tiny-inpainting", "steps": "1"})
    _assert_problem(answer, 422, "inpaint")
    assert answer.json["code"] == "invalid_input"


async def test_malformed_json_is_told(session: Client) -> None:
    answer = await session.post("/task", data=b'{"prompt": ', headers={"Content-Type": "application/json"})
    _assert_problem(answer, 400, "The body is not JSON")


async def test_a_body_of_another_type_is_told(session: Client) -> None:
    answer = await session.post("/task", data=b"prompt: x", headers={"Content-Type": "text/yaml"})
    _assert_problem(answer, 415, "must be application/json, not text/yaml")


@pytest.mark.parametrize("body", [b"", b"no boundary here", b"--frontier\r\nnonsense"])
async def test_malformed_multipart_is_told(session: Client, body: bytes) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=frontier"}
    answer = await session.post("/blob", data=body, headers=headers)
    _assert_problem(answer, 400, "The multipart body is malformed")


async def test_a_request_that_is_not_http_is_told_and_not_logged(stack: EmbeddedStack) -> None:
    host, _, port = stack.base_url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /txt2img?token=very-secret&prompt=not encoded HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.partition(b"\r\n")[0].endswith(b" 400 Bad Request")
    assert b"application/problem+json" in answer
    assert b"percent-encoded" in answer
    assert "very-secret" not in stack.log


async def test_a_prompt_of_the_longest_length_fits_into_a_get(session: Client) -> None:
    query = {"prompt": "a" * 10_000, "model": "tiny", "steps": "1", "width": "64", "height": "64"}
    assert (await session.get("/txt2img", params=query)).status == 200


async def test_a_form_without_the_file_is_told(session: Client) -> None:
    form = aiohttp.FormData()
    form.add_field("other", b"x", filename="x.png")
    _assert_problem(await session.post("/blob", data=form), 422, "the form has no such file", "blob_data")


@pytest.mark.parametrize("data", [b"just text", b"<svg xmlns='http://www.w3.org/2000/svg'/>", png()[:60], b""])
async def test_a_file_that_is_no_picture_is_told(session: Client, data: bytes) -> None:
    form = aiohttp.FormData()
    form.add_field("blob_data", data, filename="picture.png", content_type="image/png")
    _assert_problem(await session.post("/blob", data=form), 422, "not a whole PNG, JPEG, WEBP picture", "blob_data")


async def test_a_picture_of_too_many_pixels_is_told(session: Client) -> None:
    form = aiohttp.FormData()
    form.add_field("blob_data", png(2049, 2048), filename="picture.png")
    _assert_problem(await session.post("/blob", data=form), 422, "at most 4,194,304 are taken")


async def test_an_upload_of_too_many_bytes_is_told(session: Client) -> None:
    form = aiohttp.FormData()
    form.add_field("blob_data", io.BytesIO(bytes(21 * 1024 * 1024)), filename="picture.png")
    _assert_problem(await session.post("/blob", data=form), 413, "larger than 20,971,520 bytes")


async def test_a_blob_that_does_not_exist_is_told(session: Client) -> None:
    blob_id = "0" * 32
    _assert_problem(await session.get(f"/blob/{blob_id}"), 404, f"There is no blob '{blob_id}'")
    _assert_problem(await session.get("/blob/short"), 404, "There is no blob 'short'")
    body = {"params_type": "inpaint", "prompt": "x", "initial_image": f"/blob/{blob_id}", "mask": "zebra"}
    answer = await session.post("/task", json=body)
    _assert_problem(answer, 422, "There is no blob", "initial_image")
    assert [entry["field"] for entry in answer.json["errors"]] == ["initial_image", "mask"]


async def test_a_picture_of_another_host_is_told(session: Client) -> None:
    body = {"params_type": "img2img", "prompt": "x", "initial_image": "https://example.org/cat.png"}
    _assert_problem(await session.post("/task", json=body), 422, "upload yours with POST /blob", "initial_image")


async def test_a_data_url_is_taken_and_a_broken_one_is_told(session: Client) -> None:
    body = {"params_type": "img2img", "prompt": "x", "model": "tiny", "steps": 2, "initial_image": data_url(png())}
    async with session.events() as events:
        finished = (await events.of_task(await session.submit(**body)))[-1]
    assert finished["event_type"] == "finished"
    assert "/blob/" in finished["result"]["parameters_used"]["initial_image"]
    text = data_url(b"text")
    _assert_problem(
        await session.post("/task", json=body | {"initial_image": text}), 422, "not a whole", "initial_image"
    )
    broken = "data:image/png;base64,%%%"
    _assert_problem(await session.post("/task", json=body | {"initial_image": broken}), 422, "not valid base64")


async def test_an_unknown_path_and_a_wrong_method_are_told(session: Client) -> None:
    _assert_problem(await session.get("/txt3img"), 404, "/docs lists what there is")
    _assert_problem(await session.request("PUT", "/task"), 405, "only POST")


async def test_a_task_of_another_user_is_not_found(session: Client, stack_url: str) -> None:
    task_id = await session.submit(prompt="x", model="shapes", steps=1, width=64, height=64)
    async with Client(stack_url) as other:
        await other.sign_up_and_log_in("mallory")
        _assert_problem(await other.get(f"/task/{task_id}"), 404, "You have no task")
        _assert_problem(await other.delete(f"/task/{task_id}"), 404, "You have no task")
        _assert_problem(await other.get("/task/*"), 404, "You have no task")


@pytest.mark.parametrize("token", ["nonsense", "a.b.c", "eyJhbGciOiJub25lIn0.e30."])
async def test_a_token_that_is_not_valid_is_told(stack_url: str, token: str) -> None:
    async with Client(stack_url, token) as client:
        answer = await client.get("/task/x")
        _assert_problem(answer, 401, "get a new one at POST /token")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
