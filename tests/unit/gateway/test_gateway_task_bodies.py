"""The JSON of a task: which kind it is, and how its errors are told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sd_common.parameters import AnyParameters, Img2ImgParameters, InpaintParameters, Txt2ImgParameters
from sd_gateway.errors import InvalidInput
from sd_gateway.http.tasks import infer_params_type, task_body
from sd_gateway.http.validation import MAX_ERRORS, checked

_PICTURE = "/blob/abcdefghijklmnopqrstuvwx"


def _read(body: object) -> AnyParameters:
    return checked(task_body, lambda: task_body.validate_json(json.dumps(body), extra="forbid"))


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"prompt": "a"}, Txt2ImgParameters),
        ({"prompt": "a", "initial_image": _PICTURE}, Img2ImgParameters),
        ({"prompt": "a", "initial_image": _PICTURE, "mask": _PICTURE}, InpaintParameters),
        ({"prompt": "a", "params_type": "txt2img"}, Txt2ImgParameters),
        ({"prompt": "a", "params_type": "img2img", "initial_image": _PICTURE}, Img2ImgParameters),
    ],
)
def test_the_kind_of_a_task_is_told_by_its_pictures_where_it_is_left_out(
    body: dict[str, str], kind: type[object]
) -> None:
    assert isinstance(_read(body), kind)


def test_a_kind_that_is_given_stays() -> None:
    body = {"params_type": "txt2img", "prompt": "a", "mask": _PICTURE}
    assert infer_params_type(body) == body


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda c: st.lists(c) | st.dictionaries(st.text(), c)
    )
)
def test_any_json_at_all_is_a_task_or_invalid_input(body: object) -> None:
    with pytest.raises(InvalidInput) as raised:
        _read(body)
    assert raised.value.errors


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, ["prompt"]),
        ({"prompt": "a", "steps": 0, "width": 1}, ["steps", "width"]),
        ({"prompt": "a", "stpes": 1}, ["stpes"]),
        ({"prompt": "a", "mask": _PICTURE}, ["initial_image"]),
        ({"prompt": "a", "initial_image": _PICTURE, "strength": 2}, ["strength"]),
        ({"prompt": "a", "initial_image": _PICTURE, "steps": 1}, ["strength"]),
        ({"prompt": "a", "params_type": "txt2vid"}, ["params_type"]),
        ({"prompt": "a", "params_type": None}, ["params_type"]),
        ({"prompt": "a", "params_type": "txt2img", "txt2img": 1}, ["txt2img"]),
        ({"prompt": {"inpaint": 1}}, ["prompt"]),
    ],
)
def test_errors_name_the_fields_as_clients_know_them(body: dict[str, Any], fields: list[str]) -> None:
    with pytest.raises(InvalidInput) as raised:
        _read(body)
    assert sorted(error.field for error in raised.value.errors) == sorted(fields)
    assert all(f"{error.field}: {error.detail}" in str(raised.value) for error in raised.value.errors)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"step": 1}, "There is no such field: did you mean 'steps'?"),
        ({"negativePrompt": "x"}, "There is no such field: did you mean 'negative_prompt'?"),
        ({"strenght": 1, "initial_image": _PICTURE}, "There is no such field: did you mean 'strength'?"),
        ({"strenght": 1}, "There is no such field, only prompt, negative_prompt, "),  # of another kind of task
        ({"n" * 100_000: 1}, "There is no such field, only prompt, negative_prompt, "),
    ],
)
def test_of_a_field_that_there_is_not_the_closest_is_told(body: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        _read({"prompt": "a", **body})
    details = [error.detail for error in raised.value.errors]
    assert any(detail.startswith(sentence) for detail in details), details


def test_of_many_errors_some_are_told_and_how_many_more_there_are() -> None:
    unknown = {f"k{number}": 1 for number in range(MAX_ERRORS + 5)}
    with pytest.raises(InvalidInput, match=r"; and 5 more$") as raised:
        _read({"prompt": "a", **unknown})
    assert [error.field for error in raised.value.errors] == list(unknown)[:MAX_ERRORS]


def test_a_name_of_any_length_is_told_by_its_beginning() -> None:
    with pytest.raises(InvalidInput) as raised:
        _read({"prompt": "a", "k" * 100_000: 1})
    assert [error.field for error in raised.value.errors] == ["k" * 64 + "…"]
