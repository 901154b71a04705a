"""What a request brings, read and checked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any
from unittest import mock
from urllib.parse import urlencode

import pytest
from aiohttp import FormData, MultipartWriter, StreamReader, web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from sd_common.auth_messages import LogInRequest, SignUpRequest
from sd_common.parameters import Img2ImgParameters, InpaintParameters, Txt2ImgParameters
from sd_gateway.errors import BodyTooLarge, FieldError, InvalidInput, MalformedBody, UnsupportedBody
from sd_gateway.http.inputs import (
    MAX_CREDENTIALS_BYTES,
    MAX_ERRORS,
    MAX_FIELDS,
    checked,
    read_form,
    read_json,
    read_query,
    read_upload,
    token_of,
)
from sd_gateway.http.tasks import infer_params_type, task_body

_txt2img: TypeAdapter[Txt2ImgParameters] = TypeAdapter(Txt2ImgParameters)
_log_in: TypeAdapter[LogInRequest] = TypeAdapter(LogInRequest)
_sign_up: TypeAdapter[SignUpRequest] = TypeAdapter(SignUpRequest)
_JSON = {"Content-Type": "application/json"}
_FORM = {"Content-Type": "application/x-www-form-urlencoded"}
_PICTURE = "/blob/abcdefghijklmnopqrstuvwx"


def _request(
    path: str = "/", body: bytes = b"", headers: Mapping[str, str] | None = None, method: str = "POST"
) -> web.Request:
    loop = asyncio.get_running_loop()
    protocol = mock.create_autospec(BaseProtocol, instance=True, _reading_paused=False)
    payload = StreamReader(protocol, 2**16, loop=loop)
    payload.feed_data(body)
    payload.feed_eof()
    return make_mocked_request(method, path, headers=dict(headers or {}), payload=payload, client_max_size=2**20)


async def _read_json(body: bytes, content_type: str = "application/json") -> Any:
    return await read_json(_request(body=body, headers={"Content-Type": content_type}), task_body)


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
    assert (await read_json(_request(body=b'{"prompt": "a"}'), task_body)).prompt == "a"


async def test_a_body_of_json_in_utf_8_is_read() -> None:
    assert (await _read_json('{"prompt": "café 🐕"}'.encode(), "application/json; charset=utf-8")).prompt == "café 🐕"


@pytest.mark.parametrize("body", [b"[]", b'"corgi"', b"1", b"null"])
async def test_a_body_that_is_no_object_is_told_as_such(body: bytes) -> None:
    with pytest.raises(InvalidInput) as raised:
        await _read_json(body)
    assert [error.field for error in raised.value.errors] == ["body"]


# The kind of a task


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
async def test_the_kind_of_a_task_is_told_by_its_pictures_where_it_is_left_out(
    body: dict[str, str], kind: type[object]
) -> None:
    assert isinstance(await _read_json(json.dumps(body).encode()), kind)


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
        checked(lambda: task_body.validate_json(json.dumps(body), extra="forbid"))
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
async def test_errors_name_the_fields_as_clients_know_them(body: dict[str, Any], fields: list[str]) -> None:
    with pytest.raises(InvalidInput) as raised:
        await _read_json(json.dumps(body).encode())
    assert sorted(error.field for error in raised.value.errors) == sorted(fields)
    assert all(f"{error.field}: {error.detail}" in str(raised.value) for error in raised.value.errors)


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
        await read_json(_request(body=body, headers=_JSON), read)
    assert raised.value.errors == [FieldError("body", "Has more than 100 fields, which no operation takes")]
    assert not read.method_calls  # type: ignore[attr-defined] # it is a mock


async def test_prompts_of_commas_and_quotes_are_no_fields() -> None:
    text = ',":' * 3333
    body = json.dumps({"prompt": text, "negative_prompt": text}).encode()
    assert (await _read_json(body)).prompt == text


async def test_a_query_of_many_parameters_is_refused_before_they_are_looked_at() -> None:
    query = "&".join(f"k{number}" for number in range(MAX_FIELDS + 1))
    with pytest.raises(InvalidInput) as raised:
        read_query(_request(f"/txt2img?{query}", method="GET"), _txt2img)
    assert raised.value.errors == [FieldError("query", "Has more than 100 fields, which no operation takes")]


async def test_of_many_errors_some_are_told_and_how_many_more_there_are() -> None:
    unknown = {f"k{number}": 1 for number in range(MAX_ERRORS + 5)}
    with pytest.raises(InvalidInput, match=r"; and 5 more$") as raised:
        await _read_json(json.dumps({"prompt": "a", **unknown}).encode())
    assert [error.field for error in raised.value.errors] == list(unknown)[:MAX_ERRORS]


async def test_a_name_of_any_length_is_told_by_its_beginning() -> None:
    with pytest.raises(InvalidInput) as raised:
        await _read_json(json.dumps({"prompt": "a", "k" * 100_000: 1}).encode())
    assert [error.field for error in raised.value.errors] == ["k" * 64 + "…"]


@pytest.mark.parametrize("limit", [None, 2**21])
async def test_a_body_of_any_size_is_taken_up_to_the_limit_of_all_bodies(limit: int | None) -> None:
    text = TypeAdapter(str)
    body = b'"' + b"x" * (2**20 - 2) + b'"'
    assert await read_json(_request(body=body, headers=_JSON), text, limit) == "x" * (2**20 - 2)
    with pytest.raises(BodyTooLarge, match=r"^The body is larger than 1,048,576 bytes$"):
        await read_json(_request(body=body + b" ", headers=_JSON), text, limit)


async def test_credentials_are_read_to_a_limit_of_their_own() -> None:
    padding = MAX_CREDENTIALS_BYTES - len(b'{"username": "a", "password": "x"}')
    body = b'{"username": "a", "password": "x"}' + b" " * padding
    assert (await read_json(_request(body=body, headers=_JSON), _log_in, MAX_CREDENTIALS_BYTES)).username == "a"
    with pytest.raises(BodyTooLarge, match=r"^The body is larger than 16,384 bytes$"):
        await read_json(_request(body=body + b" ", headers=_JSON), _log_in, MAX_CREDENTIALS_BYTES)
    form = b"username=a&password=x&more=" + b"x" * MAX_CREDENTIALS_BYTES
    with pytest.raises(BodyTooLarge, match=r"^The body is larger than 16,384 bytes$"):
        await read_form(_request(body=form, headers=_FORM), _log_in, MAX_CREDENTIALS_BYTES)


async def test_the_longest_credentials_are_taken_however_they_are_escaped() -> None:
    longest = {"username": "u" * 64, "password": "\N{GRINNING FACE}" * 1024}
    for body, headers, read in (
        (json.dumps(longest).encode(), _JSON, read_json),
        (urlencode(longest).encode(), _FORM, read_form),
    ):
        credentials = await read(_request(body=body, headers=headers), _sign_up, MAX_CREDENTIALS_BYTES)
        assert credentials.password.get_secret_value() == longest["password"]


# Queries


async def test_a_query_is_read_and_the_token_left_to_others() -> None:
    request = _request("/txt2img?prompt=a%20corgi&steps=3&guidance=1&safety_filter=0&token=secret", method="GET")
    parameters = read_query(request, _txt2img)
    assert (parameters.prompt, parameters.steps, parameters.guidance) == ("a corgi", 3, 1.0)
    assert parameters.safety_filter is False


async def test_a_repeated_parameter_is_refused() -> None:
    with pytest.raises(InvalidInput) as raised:
        read_query(_request("/txt2img?prompt=a&steps=1&steps=2", method="GET"), _txt2img)
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
        read_query(_request(f"/txt2img?{query}", method="GET"), _txt2img)
    assert [error.field for error in raised.value.errors] == fields


# Tokens


@pytest.mark.parametrize(
    ("path", "headers", "token"),
    [
        ("/", {}, None),
        ("/?token=", {}, None),
        ("/?token=a", {}, "a"),
        ("/", {"Authorization": "Bearer b"}, "b"),
        ("/", {"Authorization": "bearer  b "}, "b"),
        ("/?token=a", {"Authorization": "Bearer b"}, "b"),
        ("/?token=a", {"Authorization": "Basic dXNlcjpwYXNz"}, "a"),
        ("/", {"Authorization": "Basic dXNlcjpwYXNz"}, None),
        ("/", {"Authorization": "Bearer"}, None),
        ("/", {"Authorization": "Bearer  "}, None),
    ],
)
async def test_a_token_is_taken_from_the_header_or_else_the_query(
    path: str, headers: dict[str, str], token: str | None
) -> None:
    assert token_of(_request(path, headers=headers)) == token


# Forms


async def test_a_form_is_read() -> None:
    body = b"grant_type=password&username=alice&password=correct+horse%21"
    read = await read_form(_request(body=body, headers=_FORM), _log_in)
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
        await read_form(_request(body=body, headers=_FORM), _log_in)
    assert [error.field for error in raised.value.errors] == fields


async def test_a_form_that_is_not_in_its_character_set_is_malformed() -> None:
    with pytest.raises(MalformedBody):
        await read_form(_request(body=b"username=\xff&password=x", headers=_FORM), _log_in)


async def test_a_form_of_another_type_is_refused() -> None:
    with pytest.raises(UnsupportedBody):
        await read_form(_request(body=b"{}", headers={"Content-Type": "application/json"}), _log_in)


async def test_a_password_is_never_told_in_an_error() -> None:
    body = b"username=a.b&password=" + b"hunter2" * 200
    with pytest.raises(InvalidInput) as raised:
        await read_form(_request(body=body, headers=_FORM), _log_in)
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
        await read_json(_request(body=body, headers=_JSON), _sign_up)
    assert raised.value.errors == [FieldError("password", sentence)]


# Uploads


async def _multipart(**fields: bytes) -> web.Request:
    form = FormData()
    for name, data in fields.items():
        form.add_field(name, data, filename=f"{name}.png", content_type="image/png")
    writer = form()
    assert isinstance(writer, MultipartWriter)
    return _request(body=await writer.as_bytes(), headers={"Content-Type": writer.content_type})


async def test_an_upload_is_read_to_its_limit() -> None:
    data = bytes(range(256)) * 4
    assert await read_upload(await _multipart(other=b"x", blob_data=data), max_bytes=1024) == data
    with pytest.raises(BodyTooLarge, match=r"^The picture is larger than 1,023 bytes$"):
        await read_upload(await _multipart(blob_data=data), max_bytes=1023)


async def _nested(data: bytes) -> web.Request:
    inner, outer = MultipartWriter("form-data"), MultipartWriter("form-data")
    for _ in range(4):
        inner.append(data)
    outer.append(inner)
    return _request(body=await outer.as_bytes(), headers={"Content-Type": outer.content_type})


async def test_all_bytes_of_an_upload_count_whatever_they_belong_to() -> None:
    line = b"x" * 1023 + b"\n"
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    for num_lines, expected in ((512, InvalidInput), (1028, BodyTooLarge)):
        for request in (
            await _multipart(**{f"other{number}": line * (num_lines // 4) for number in range(4)}),
            await _nested(line * (num_lines // 4)),
            _request(body=line * num_lines + b"--x--\r\n", headers=form),
        ):
            with pytest.raises(expected):
                await read_upload(request, max_bytes=1024)


async def test_an_upload_without_its_file_is_told() -> None:
    with pytest.raises(InvalidInput) as raised:
        await read_upload(await _multipart(other=b"x"), max_bytes=1024)
    assert [error.field for error in raised.value.errors] == ["blob_data"]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b""),
        ("multipart/form-data; boundary=x", b"no boundary in here"),
        ("multipart/form-data; boundary=" + "x" * 100, b""),
    ],
)
async def test_an_upload_that_cannot_be_read_is_malformed(content_type: str, body: bytes) -> None:
    with pytest.raises((MalformedBody, InvalidInput)):
        await read_upload(_request(body=body, headers={"Content-Type": content_type}), max_bytes=1024)


async def test_an_upload_of_another_type_is_refused() -> None:
    with pytest.raises(UnsupportedBody):
        await read_upload(_request(body=b"x", headers={"Content-Type": "image/png"}), max_bytes=1024)
