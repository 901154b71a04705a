"""Bodies of JSON and of forms, read within limits and checked."""

from __future__ import annotations

import json
from typing import Any
from unittest import mock
from urllib.parse import urlencode

import pytest
from pydantic import TypeAdapter

from sd_common.auth_messages import LogInRequest, SignUpRequest
from sd_gateway.errors import BodyTooLarge, FieldError, InvalidInput, MalformedBody, UnsupportedBody
from sd_gateway.http.bodies import MAX_CREDENTIALS_BYTES, read_form, read_json
from sd_gateway.http.tasks import task_body
from sd_gateway.http.validation import MAX_FIELDS
from support.gateway_requests import MAX_BODY_BYTES, create_request

_log_in: TypeAdapter[LogInRequest] = TypeAdapter(LogInRequest)
_sign_up: TypeAdapter[SignUpRequest] = TypeAdapter(SignUpRequest)
_JSON = {"Content-Type": "application/json"}
_FORM = {"Content-Type": "application/x-www-form-urlencoded"}


async def _read_json(body: bytes, content_type: str = "application/json") -> Any:
    return await read_json(create_request(body=body, headers={"Content-Type": content_type}), task_body)


# JSON bodies


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"prompt": "a",}', b"prompt=corgi", b'{"prompt": "\xff"}', b'{"prompt": "\\ud800"}', b"[" * 100_000],
)
async def test_a_body_that_is_not_json_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedBody, match=r"^The body is not JSON: "):
        await _read_json(body)


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
async def test_a_body_of_another_type_is_refused(content_type: str) -> None:
    with pytest.raises(UnsupportedBody, match=f"must be application/json, not {content_type}"):
        await _read_json(b'{"prompt": "a"}', content_type)


async def test_a_body_whose_type_is_not_told_is_json() -> None:
    assert (await read_json(create_request(body=b'{"prompt": "a"}'), task_body)).prompt == "a"


async def test_a_body_of_json_in_utf_8_is_read() -> None:
    assert (await _read_json('{"prompt": "café 🐕"}'.encode(), "application/json; charset=utf-8")).prompt == "café 🐕"


@pytest.mark.parametrize("body", [b"[]", b'"corgi"', b"1", b"null"])
async def test_a_body_that_is_no_object_is_told_as_such(body: bytes) -> None:
    with pytest.raises(InvalidInput) as raised:
        await _read_json(body)
    assert [error.field for error in raised.value.errors] == ["body"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"prompt": "a", %s}' % b",".join(b'"k%d": 1' % number for number in range(MAX_FIELDS)),
        b'{"prompt": "a", "k": [%s1]}' % (b"1," * 100_000),
        b"[%s1]" % (b"1," * 100_000),
        b'{"prompt": "a", "k": [%s{}]}' % (b'{"a":{}},' * 50_000),
        b'[%s{"a":1}]' % (b'{"a":1}  ,' * 50_000),
    ],
)
async def test_a_body_of_many_fields_is_refused_before_they_are_looked_at(body: bytes) -> None:
    read: TypeAdapter[Any] = mock.create_autospec(task_body, instance=True)
    with pytest.raises(InvalidInput) as raised:
        await read_json(create_request(body=body, headers=_JSON), read)
    assert raised.value.errors == [FieldError("body", "Has more than 100 fields, which no operation takes")]
    assert not read.method_calls  # type: ignore[attr-defined] # it is a mock


async def test_prompts_of_commas_and_quotes_are_no_fields() -> None:
    text = ',":' * 3333
    body = json.dumps({"prompt": text, "negative_prompt": text}).encode()
    assert (await _read_json(body)).prompt == text


@pytest.mark.parametrize("limit", [None, 2**21])
async def test_a_body_of_any_size_is_taken_up_to_the_limit_of_all_bodies(limit: int | None) -> None:
    text = TypeAdapter(str)
    body = b'"' + b"x" * (MAX_BODY_BYTES - 2) + b'"'
    assert await read_json(create_request(body=body, headers=_JSON), text, limit) == "x" * (MAX_BODY_BYTES - 2)
    with pytest.raises(BodyTooLarge, match=r"^The body is larger than 1,048,576 bytes$"):
        await read_json(create_request(body=body + b" ", headers=_JSON), text, limit)


async def test_credentials_are_read_to_a_limit_of_their_own() -> None:
    padding = MAX_CREDENTIALS_BYTES - len(b'{"username": "a", "password": "x"}')
    body = b'{"username": "a", "password": "x"}' + b" " * padding
    assert (await read_json(create_request(body=body, headers=_JSON), _log_in, MAX_CREDENTIALS_BYTES)).username == "a"
    with pytest.raises(BodyTooLarge, match=r"^The body is larger than 16,384 bytes$"):
        await read_json(create_request(body=body + b" ", headers=_JSON), _log_in, MAX_CREDENTIALS_BYTES)
    form = b"username=a&password=x&more=" + b"x" * MAX_CREDENTIALS_BYTES
    with pytest.raises(BodyTooLarge, match=r"^The body is larger than 16,384 bytes$"):
        await read_form(create_request(body=form, headers=_FORM), _log_in, MAX_CREDENTIALS_BYTES)


async def test_the_longest_credentials_are_taken_however_they_are_escaped() -> None:
    longest = {"username": "u" * 64, "password": "\N{GRINNING FACE}" * 1024}
    for body, headers, read in (
        (json.dumps(longest).encode(), _JSON, read_json),
        (urlencode(longest).encode(), _FORM, read_form),
    ):
        credentials = await read(create_request(body=body, headers=headers), _sign_up, MAX_CREDENTIALS_BYTES)
        assert credentials.password.get_secret_value() == longest["password"]


# Forms


async def test_a_form_is_read() -> None:
    body = b"grant_type=password&username=alice&password=correct+horse%21"
    read = await read_form(create_request(body=body, headers=_FORM), _log_in)
    assert (read.username, read.password.get_secret_value()) == ("alice", "correct horse!")


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b"", ["username", "password"]),
        (b"username=alice", ["password"]),
        (b"username=a.b&password=x", ["username"]),
        (b"username=&password=x", ["username"]),
        (b"username=alice&password=" + b"x" * 1025, ["password"]),
    ],
)
async def test_wrong_fields_of_a_form_are_told(body: bytes, fields: list[str]) -> None:
    with pytest.raises(InvalidInput) as raised:
        await read_form(create_request(body=body, headers=_FORM), _log_in)
    assert [error.field for error in raised.value.errors] == fields


async def test_a_form_that_is_not_in_its_character_set_is_malformed() -> None:
    with pytest.raises(MalformedBody):
        await read_form(create_request(body=b"username=\xff&password=x", headers=_FORM), _log_in)


async def test_a_form_of_another_type_is_refused() -> None:
    with pytest.raises(UnsupportedBody):
        await read_form(create_request(body=b"{}", headers={"Content-Type": "application/json"}), _log_in)


async def test_a_password_is_never_told_in_an_error() -> None:
    body = b"username=a.b&password=" + b"hunter2" * 200
    with pytest.raises(InvalidInput) as raised:
        await read_form(create_request(body=body, headers=_FORM), _log_in)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("password", "sentence"),
    [
        ("x" * 7, "Value should have at least 8 characters, not 7"),
        ("x" * 1025, "Value should have at most 1024 characters, not 1025"),
    ],
)
async def test_the_length_of_a_password_is_told_in_characters(password: str, sentence: str) -> None:
    body = json.dumps({"username": "alice", "password": password}).encode()
    with pytest.raises(InvalidInput) as raised:
        await read_json(create_request(body=body, headers=_JSON), _sign_up)
    assert raised.value.errors == [FieldError("password", sentence)]
