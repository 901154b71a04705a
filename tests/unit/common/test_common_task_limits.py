"""The operator's limits, and the sentences that tell them."""

from __future__ import annotations

from typing import Any

import pytest

from sd_common.parameters import task_parameters_adapter
from sd_common.task_limits import TaskSettings, exceeded_limits

_LIMITS = TaskSettings(_env_file=None, max_steps=50, max_prompt_chars=100, max_picture_pixels=512 * 512)
_PICTURE = "/blob/abcdefghijklmnopqrstuvwx"


def _exceeded(limits: TaskSettings = _LIMITS, **parameters: Any) -> dict[str, str]:
    body = {"params_type": "txt2img", "prompt": "x", **parameters}
    return dict(exceeded_limits(task_parameters_adapter.validate_python(body), limits))


@pytest.mark.parametrize(
    ("parameters", "field", "sentence"),
    [
        ({"steps": 51}, "steps", "Is 51; at most 50 are made here"),
        ({"prompt": "x" * 101}, "prompt", "Has 101 characters; at most 100 are taken here"),
        ({"negative_prompt": "x" * 101}, "negative_prompt", "Has 101 characters; at most 100 are taken here"),
        (
            {"width": 512, "height": 520},
            "width",
            "The picture would be 512×520, 266,240 pixels; at most 262,144 are made here",
        ),
        ({"width": 520}, "width", "The picture would be 520×512, 266,240 pixels; at most 262,144 are made here"),
    ],
)
def test_too_much_is_told_with_the_limit(parameters: dict[str, Any], field: str, sentence: str) -> None:
    assert _exceeded(**parameters) == {field: sentence}


@pytest.mark.parametrize(
    "parameters",
    [
        {"steps": 50, "prompt": "x" * 100, "negative_prompt": "x" * 100, "width": 512, "height": 512},
        {"width": 64, "height": 2048},
        {"params_type": "img2img", "initial_image": _PICTURE, "steps": 50},
    ],
)
def test_what_is_within_the_limits_is_taken(parameters: dict[str, Any]) -> None:
    assert _exceeded(**parameters) == {}


def test_what_a_task_leaves_out_is_the_models_to_say() -> None:
    tight = TaskSettings(_env_file=None, max_steps=1, max_picture_pixels=64 * 64)
    assert _exceeded(tight) == {}


def test_everything_that_is_too_much_is_told_at_once() -> None:
    assert set(_exceeded(steps=500, prompt="x" * 101, width=2048)) == {"steps", "prompt", "width"}
