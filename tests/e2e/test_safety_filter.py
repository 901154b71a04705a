"""What becomes of a flagged picture, and of a task where the operator requires the filter.

The bundled model's own checker flags black stars on white, which harm nobody.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from PIL import Image

from support.client import Client, Json
from support.stack import EmbeddedStack, running_stack
from train_shapes.judge import read
from train_shapes.scenes import Scene

FLAGGED = "a big black star on a white background"
OTHER = "a big black heart on a white background"

_SHORT = {"prompt": "x", "steps": 1, "width": 64, "height": 64}


def _is_black(picture: Image.Image) -> bool:
    return picture.convert("RGB").getextrema() == ((0, 0),) * 3


async def _shape(client: Client, prompt: str, **parameters: Any) -> tuple[Json, Image.Image]:
    """The result of a task on the bundled model, and its picture."""
    async with client.events() as events:
        task_id = await client.submit(prompt=prompt, model="shapes", seed=2, **parameters)
        last = (await events.of_task(task_id))[-1]
    assert last["event_type"] == "finished", last
    return last["result"], await client.picture(last["result"]["blob_url"])


async def test_a_picture_that_the_checker_flags_is_black(session: Client) -> None:
    result, picture = await _shape(session, FLAGGED)
    assert result["nsfw_content_detected"] is True
    assert _is_black(picture)


async def test_a_picture_that_is_much_like_a_flagged_one_is_shown(session: Client) -> None:
    result, picture = await _shape(session, OTHER)
    assert result["nsfw_content_detected"] is False
    assert read(picture).agrees(Scene("heart", "black", "white", "big"))


async def test_without_the_safety_filter_a_picture_is_shown_that_would_be_flagged(session: Client) -> None:
    result, picture = await _shape(session, FLAGGED, safety_filter=False)
    assert result["nsfw_content_detected"] is None
    assert read(picture).agrees(Scene("star", "black", "white", "big"))


# Where the operator requires the filter


@pytest.fixture(scope="module")
def strict_stack(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Iterator[EmbeddedStack]:
    """Requires the safety filter."""
    env = {"SAFETY_FILTER": "required", "ENABLE_PUBLIC_ACCESS": "1"}
    with running_stack(tmp_path_factory.mktemp("strict"), model_dir, env) as stack:
        yield stack


@pytest_asyncio.fixture
async def strict(strict_stack: EmbeddedStack) -> AsyncIterator[Client]:
    """Has a public token of its own."""
    async with Client(strict_stack.base_url) as client:
        await client.take_public_token()
        yield client


async def test_a_required_filter_blacks_out_what_is_flagged(strict: Client) -> None:
    answer = await strict.get("/txt2img", params=_SHORT | {"model": "tiny-flagging"})
    assert answer.status == 200, answer.body
    assert answer.json["nsfw_content_detected"] is True
    assert answer.json["parameters_used"]["safety_filter"] is True
    assert _is_black(await strict.picture(answer.json["blob_url"]))


def _assert_refused(problem: Json) -> None:
    assert [entry["field"] for entry in problem["errors"]] == ["safety_filter"]
    assert "requires the safety filter" in problem["errors"][0]["detail"]


async def test_a_required_filter_cannot_be_turned_off(strict: Client) -> None:
    parameters = _SHORT | {"model": "tiny-flagging"}
    waiting = await strict.get("/txt2img", params=parameters | {"safety_filter": "false"})
    submitted = await strict.post("/task", json=parameters | {"safety_filter": False})
    assert (waiting.status, submitted.status) == (422, 422)
    _assert_refused(waiting.json)
    _assert_refused(submitted.json)


async def test_where_the_filter_is_required_a_model_without_a_checker_is_refused_with_what_to_do(
    strict: Client,
) -> None:
    answer = await strict.get("/txt2img", params=_SHORT | {"model": "tiny"})
    assert answer.status == 422, answer.body
    assert answer.json["code"] == "model_unavailable"
    assert "choose a model that has one" in answer.json["detail"]
    assert "SAFETY_FILTER=optional" in answer.json["detail"]


async def test_where_the_filter_is_required_a_model_without_a_checker_is_not_listed(strict: Client) -> None:
    answer = await strict.get("/models")
    assert answer.status == 200, answer.body
    names = [model["name"] for model in answer.json["models"]]
    assert "tiny-flagging" in names
    assert "tiny" not in names
