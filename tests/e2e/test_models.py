"""The models at hand, and the defaults that they carry."""

from __future__ import annotations

from pathlib import Path

from support.client import Client, Json
from support.stack import running_stack
from support.waiting import once


async def _models(client: Client) -> Json:
    answer = await client.get("/models")
    assert answer.status == 200, answer.body
    models: Json = answer.json
    return models


async def test_the_models_at_hand_are_told_with_the_default_one(client: Client) -> None:
    told = await _models(client)
    assert set(told["default_models"].values()) == {"shapes"}
    models = {model["name"]: model for model in told["models"]}
    assert models.keys() >= {"shapes", "tiny", "tiny-flagging", "tiny-inpainting", "tiny-sd2", "tiny-sdxl"}
    assert models["shapes"]["default_parameters"] == {
        "width": 192,
        "height": 192,
        "steps": 20,
        "guidance": 5.0,
        "scheduler": "ddim",
    }
    assert models["tiny-inpainting"]["kinds"] == ["inpaint"]
    assert {model["num_workers"] for model in models.values()} == {1}


async def test_the_models_are_not_told_without_a_token_where_there_is_no_public_access(
    tmp_path: Path, model_dir: Path
) -> None:
    with running_stack(tmp_path, model_dir) as stack:
        async with Client(stack.base_url) as client:
            assert (await client.get("/models")).status == 401


async def test_a_model_that_was_used_is_told_to_be_in_memory(session: Client) -> None:
    assert (await session.get("/txt2img", params={"prompt": "x", "model": "tiny-sd2", "steps": "1"})).status == 200
    await once(lambda: _models(session), lambda told: _is_resident("tiny-sd2", told))


async def test_a_size_that_is_not_given_is_the_models_own(session: Client) -> None:
    answer = await session.get("/txt2img", params={"prompt": "a red circle", "model": "shapes"})
    assert answer.status == 200, answer.body
    assert (await session.picture(answer.json["blob_url"])).size == (192, 192)


def _is_resident(name: str, told: Json) -> bool:
    return any(model["name"] == name and model["num_workers_resident"] == 1 for model in told["models"])
