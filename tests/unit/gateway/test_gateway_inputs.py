"""Queries and tokens, read and checked."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter

from sd_common.parameters import Txt2ImgParameters
from sd_gateway.errors import FieldError, InvalidInput, NotAuthenticated
from sd_gateway.http.events import events_query
from sd_gateway.http.inputs import read_query, token_of
from sd_gateway.http.validation import MAX_FIELDS
from support.gateway_requests import create_request

_txt2img: TypeAdapter[Txt2ImgParameters] = TypeAdapter(Txt2ImgParameters)


async def test_a_query_is_read_and_the_token_left_to_others() -> None:
    request = create_request("/txt2img?prompt=a%20corgi&steps=3&guidance=1&safety_filter=0&token=secret", method="GET")
    parameters = read_query(request, _txt2img)
    assert (parameters.prompt, parameters.steps, parameters.guidance) == ("a corgi", 3, 1.0)
    assert parameters.safety_filter is False


async def test_a_repeated_parameter_is_refused() -> None:
    with pytest.raises(InvalidInput) as raised:
        read_query(create_request("/txt2img?prompt=a&steps=1&steps=2", method="GET"), _txt2img)
    assert raised.value.errors == [FieldError("steps", "Given more than once")]


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ("", ["prompt"]),
        ("prompt=a&steps=many&width=", ["steps", "width"]),
        ("prompt=a&seed=", ["seed"]),
        ("prompt=a&params_type=inpaint", ["params_type"]),
        ("prompt=a&unknown=1", ["unknown"]),
        ("prompt=a&Token=1", ["Token"]),
    ],
)
async def test_errors_of_a_query_name_its_parameters(query: str, fields: list[str]) -> None:
    with pytest.raises(InvalidInput) as raised:
        read_query(create_request(f"/txt2img?{query}", method="GET"), _txt2img)
    assert [error.field for error in raised.value.errors] == fields


async def test_of_a_parameter_that_there_is_not_the_closest_is_told() -> None:
    with pytest.raises(InvalidInput) as raised:
        read_query(create_request("/txt2img?prompt=x&step=5", method="GET"), _txt2img)
    assert raised.value.errors == [FieldError("step", "There is no such field: did you mean 'steps'?")]
    with pytest.raises(InvalidInput) as raised:
        read_query(create_request("/events?from=5", method="GET"), events_query)
    assert raised.value.errors == [FieldError("from", "There is no such field, only since, progress")]


async def test_a_query_of_many_parameters_is_refused_before_they_are_looked_at() -> None:
    query = "&".join(f"k{number}" for number in range(MAX_FIELDS + 1))
    with pytest.raises(InvalidInput) as raised:
        read_query(create_request(f"/txt2img?{query}", method="GET"), _txt2img)
    assert raised.value.errors == [FieldError("query", "Has more than 100 fields, which no operation takes")]


@pytest.mark.parametrize(
    ("path", "headers", "token"),
    [
        ("/", {}, None),
        ("/?token=a", {}, "a"),
        ("/", {"Authorization": "Bearer b"}, "b"),
        ("/", {"Authorization": "bearer  b "}, "b"),
        ("/?token=a", {"Authorization": "Bearer b"}, "b"),
        ("/", {"Authorization": "Basic dXNlcjpwYXNz"}, None),  # of a proxy, which hands it on
        ("/?token=a", {"Authorization": "Basic dXNlcjpwYXNz"}, "a"),
        ("/?token=", {"Authorization": "Bearer b"}, "b"),
    ],
)
async def test_a_token_is_taken_from_the_header_or_else_the_query(
    path: str, headers: dict[str, str], token: str | None
) -> None:
    assert token_of(create_request(path, headers=headers)) == token


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/?token=", {}),
        ("/?token=", {"Authorization": "Basic dXNlcjpwYXNz"}),
        ("/?token=", {"Authorization": "Bearer "}),
        ("/", {"Authorization": "Bearer"}),
        ("/", {"Authorization": "Bearer  "}),
    ],
)
async def test_a_token_that_was_lost_is_told(path: str, headers: dict[str, str]) -> None:
    with pytest.raises(NotAuthenticated, match="The token is empty"):
        token_of(create_request(path, headers=headers))
