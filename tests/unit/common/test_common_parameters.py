"""What a client may ask for: defaults, bounds, and one error for the right field where something is wrong."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sd_common.parameters import (
    DEFAULT_INPAINT_MODEL,
    DEFAULT_MODEL,
    MAX_PROMPT_CHARS,
    MAX_SEED,
    MAX_STEPS,
    Img2ImgParameters,
    InpaintParameters,
    Txt2ImgParameters,
    task_parameters_adapter,
)

_PICTURE = "/blob/abcdefghijklmnopqrstuvwx"
_NEEDED: dict[str, dict[str, Any]] = {
    "txt2img": {"prompt": "corgi"},
    "img2img": {"prompt": "corgi", "initial_image": _PICTURE},
    "inpaint": {"prompt": "corgi", "initial_image": _PICTURE, "mask": _PICTURE},
}
_COMMON_DEFAULTS = {
    "negative_prompt": None,
    "steps": 20,
    "guidance": 7.5,
    "scheduler": "plms",
    "seed": None,
    "safety_filter": True,
}


def _parsed(kind: str, **given: Any) -> Txt2ImgParameters | Img2ImgParameters | InpaintParameters:
    return task_parameters_adapter.validate_python({"params_type": kind, **_NEEDED[kind], **given})


def _errors(kind: str, **given: Any) -> list[tuple[int | str, ...]]:
    with pytest.raises(ValidationError) as raised:
        task_parameters_adapter.validate_python({"params_type": kind, **_NEEDED[kind], **given}, extra="forbid")
    return [error["loc"] for error in raised.value.errors()]


def test_txt2img_has_the_defaults_of_the_replaced_api() -> None:
    assert _parsed("txt2img").model_dump() == {
        **_COMMON_DEFAULTS,
        "params_type": "txt2img",
        "prompt": "corgi",
        "model": "CompVis/stable-diffusion-v1-4",
        "width": 512,
        "height": 512,
    }


def test_img2img_has_the_defaults_of_the_replaced_api() -> None:
    assert _parsed("img2img").model_dump() == {
        **_COMMON_DEFAULTS,
        "params_type": "img2img",
        "prompt": "corgi",
        "model": "CompVis/stable-diffusion-v1-4",
        "initial_image": _PICTURE,
        "strength": 0.8,
    }


def test_inpaint_has_the_defaults_of_the_replaced_api() -> None:
    assert _parsed("inpaint").model_dump() == {
        **_COMMON_DEFAULTS,
        "params_type": "inpaint",
        "prompt": "corgi",
        "model": "stable-diffusion-v1-5/stable-diffusion-inpainting",
        "initial_image": _PICTURE,
        "mask": _PICTURE,
    }


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("txt2img", "prompt"),
        ("img2img", "prompt"),
        ("img2img", "initial_image"),
        ("inpaint", "prompt"),
        ("inpaint", "initial_image"),
        ("inpaint", "mask"),
    ],
)
def test_what_is_needed_is_told_when_it_misses(kind: str, name: str) -> None:
    values = {"params_type": kind, **_NEEDED[kind]}
    del values[name]
    with pytest.raises(ValidationError) as raised:
        task_parameters_adapter.validate_python(values)
    assert [(error["type"], error["loc"]) for error in raised.value.errors()] == [("missing", (kind, name))]


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("txt2img", "prompt", ""),
        ("txt2img", "prompt", "x" * MAX_PROMPT_CHARS),
        ("txt2img", "negative_prompt", "x" * MAX_PROMPT_CHARS),
        ("txt2img", "steps", 1),
        ("txt2img", "steps", MAX_STEPS),
        ("txt2img", "guidance", 1.0),
        ("txt2img", "guidance", 50.0),
        ("txt2img", "seed", 0),
        ("txt2img", "seed", MAX_SEED),
        ("txt2img", "safety_filter", False),
        ("txt2img", "width", 64),
        ("txt2img", "width", 2048),
        ("txt2img", "height", 64),
        ("txt2img", "height", 2048),
        ("txt2img", "model", "a" * 200),
        ("img2img", "strength", 0.05),
        ("img2img", "strength", 1.0),
    ],
)
def test_bounds_themselves_are_taken(kind: str, name: str, value: Any) -> None:
    assert getattr(_parsed(kind, **{name: value}), name) == value


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("txt2img", "prompt", 1),
        ("txt2img", "prompt", None),
        ("txt2img", "prompt", "x" * (MAX_PROMPT_CHARS + 1)),
        ("txt2img", "negative_prompt", "x" * (MAX_PROMPT_CHARS + 1)),
        ("txt2img", "steps", 0),
        ("txt2img", "steps", MAX_STEPS + 1),
        ("txt2img", "steps", 1.5),
        ("txt2img", "steps", "many"),
        ("txt2img", "steps", None),
        ("txt2img", "guidance", 0.99),
        ("txt2img", "guidance", 50.01),
        ("txt2img", "guidance", float("nan")),
        ("txt2img", "guidance", float("inf")),
        ("txt2img", "scheduler", "PLMS"),
        ("txt2img", "scheduler", ""),
        ("txt2img", "seed", -1),
        ("txt2img", "seed", MAX_SEED + 1),
        ("txt2img", "safety_filter", "perhaps"),
        ("txt2img", "width", 0),
        ("txt2img", "width", 56),
        ("txt2img", "width", 65),
        ("txt2img", "width", 2056),
        ("txt2img", "height", 511),
        ("txt2img", "height", -512),
        ("txt2img", "model", ""),
        ("txt2img", "model", "a" * 201),
        ("txt2img", "model", "../secrets"),
        ("txt2img", "initial_image", _PICTURE),
        ("txt2img", "Steps", 20),
        ("img2img", "strength", 0.0),
        ("img2img", "strength", 1.01),
        ("img2img", "strength", float("nan")),
        ("img2img", "initial_image", ""),
        ("img2img", "width", 512),
        ("img2img", "mask", _PICTURE),
        ("inpaint", "mask", ""),
        ("inpaint", "initial_image", ""),
        ("inpaint", "model", "/etc"),
        ("inpaint", "unknown", 1),
    ],
)
def test_a_wrong_value_gives_one_error_for_its_field(kind: str, name: str, value: Any) -> None:
    assert _errors(kind, **{name: value}) == [(kind, name)]


def test_every_wrong_field_is_told() -> None:
    assert set(_errors("txt2img", steps=0, width=1, sedd=1)) == {
        ("txt2img", "steps"),
        ("txt2img", "width"),
        ("txt2img", "sedd"),
    }


@pytest.mark.parametrize("kind", [None, "", "txt2vid", ["txt2img"], 1])
def test_an_unknown_kind_is_refused(kind: Any) -> None:
    with pytest.raises(ValidationError) as raised:
        task_parameters_adapter.validate_python({"params_type": kind, "prompt": "corgi"})
    assert [error["type"] for error in raised.value.errors()] == ["union_tag_invalid"]


@pytest.mark.parametrize(
    ("given_name", "name"),
    [
        ("runwayml/stable-diffusion-v1-5", "stable-diffusion-v1-5/stable-diffusion-v1-5"),
        ("runwayml/stable-diffusion-inpainting", "stable-diffusion-v1-5/stable-diffusion-inpainting"),
        (DEFAULT_MODEL, DEFAULT_MODEL),
        (DEFAULT_INPAINT_MODEL, DEFAULT_INPAINT_MODEL),
        ("shapes", "shapes"),
    ],
)
@pytest.mark.parametrize("kind", ["txt2img", "img2img", "inpaint"])
def test_removed_repositories_are_taken_as_aliases(kind: str, given_name: str, name: str) -> None:
    assert _parsed(kind, model=given_name).model == name


def test_the_length_of_a_model_name_is_told_in_characters() -> None:
    with pytest.raises(ValidationError, match="at most 200 characters"):
        _parsed("txt2img", model="a" * 201)


@given(steps=st.integers(1, MAX_STEPS), strength=st.floats(0, 1, exclude_min=True))
def test_strength_leaves_at_least_one_step_or_is_refused(steps: int, strength: float) -> None:
    if int(steps * strength) >= 1:
        parsed = _parsed("img2img", steps=steps, strength=strength)
        assert isinstance(parsed, Img2ImgParameters)
        assert parsed.strength == strength
    else:
        assert _errors("img2img", steps=steps, strength=strength) == [("img2img", "strength")]


def test_a_low_strength_is_left_to_the_model_whose_steps_count() -> None:
    parsed = _parsed("img2img", strength=0.01)
    assert isinstance(parsed, Img2ImgParameters)
    assert parsed.strength == 0.01


@pytest.mark.parametrize("kind", _NEEDED)
def test_what_was_given_is_told_from_what_was_not(kind: str) -> None:
    given = {**_NEEDED[kind], "steps": 20, "negative_prompt": None}
    assert task_parameters_adapter.validate_python({"params_type": kind, **given}).given() == {
        "params_type": kind,
        **given,
    }


def test_the_default_strength_needs_two_steps() -> None:
    assert _errors("img2img", steps=1) == [("img2img", "strength")]
    assert _parsed("img2img", steps=2).steps == 2


def test_a_reader_ignores_what_a_later_version_added() -> None:
    """The REST API refuses it at its edge: see `_errors`."""
    assert _parsed("txt2img", added_later=1) == _parsed("txt2img")


def test_wrong_steps_are_not_blamed_on_strength() -> None:
    assert _errors("img2img", steps=0) == [("img2img", "steps")]


def test_parameters_do_not_change() -> None:
    parameters = _parsed("txt2img")
    with pytest.raises(ValidationError):
        parameters.steps = 1  # type: ignore[misc]


@given(
    prompt=st.text(max_size=200),
    steps=st.integers(1, MAX_STEPS),
    guidance=st.floats(1, 50),
    seed=st.none() | st.integers(0, MAX_SEED),
    width=st.integers(8, 256).map(lambda n: n * 8),
)
def test_parameters_survive_json(prompt: str, steps: int, guidance: float, seed: int | None, width: int) -> None:
    parameters = _parsed("txt2img", prompt=prompt, steps=steps, guidance=guidance, seed=seed, width=width)
    assert task_parameters_adapter.validate_json(parameters.model_dump_json()) == parameters
