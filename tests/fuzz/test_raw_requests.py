"""Requests that no client makes: whatever the bytes are, the answer is one of HTTP, and none is a failure of ours."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.fuzzing import num_examples

_TARGETS = [
    "/",
    "/task",
    "/tasks",
    "/txt2img",
    "/events",
    "/blob",
    "/blob/{}",
    "/task/{}",
    "/user/{}",
    "/token",
    "/docs",
]
_HEADERS = [
    "Accept",
    "Authorization",
    "Content-Encoding",
    "Content-Type",
    "Cookie",
    "Idempotency-Key",
    "If-None-Match",
    "Origin",
    "Range",
    "traceparent",
    "X-Forwarded-For",
]
_VALUES = [
    "Bearer ",
    "application/json",
    "application/x-www-form-urlencoded; charset=",
    "multipart/form-data; boundary=",
    "gzip",
    "text/html",
    "http://",
    "1",
    'W/"',
]
_bytes_of_a_line = st.binary(max_size=20).filter(lambda data: not {*data} & {*b"\r\n\0"})
_query_names = st.sampled_from([b"token", b"since", b"prompt", b"limit", b"cursor"]) | st.binary(max_size=4)
_headers = st.tuples(st.sampled_from(_HEADERS), st.sampled_from(["", *_VALUES]), _bytes_of_a_line)


def _status_of(gateway_url: str, request: bytes) -> int:
    """Of its answer."""
    host = urlsplit(gateway_url)
    with socket.create_connection((host.hostname, host.port), timeout=30) as connection:
        connection.sendall(request)
        with connection.makefile("rb") as answer:
            version, status, *_ = answer.readline().split(b" ")
    assert version in (b"HTTP/1.0", b"HTTP/1.1")
    return int(status)


@num_examples(200)
@given(
    method=st.sampled_from(["GET", "POST", "DELETE", "OPTIONS", "PUT"]),
    target=st.sampled_from(_TARGETS),
    name=st.binary(max_size=8),
    query=st.lists(st.tuples(_query_names, st.binary(max_size=8))),
    headers=st.lists(_headers, max_size=4),
    body=st.binary(max_size=40),
)
def test_no_request_at_all_is_a_failure_of_the_gateway(
    method: str,
    target: str,
    name: bytes,
    query: list[tuple[bytes, bytes]],
    headers: list[tuple[str, str, bytes]],
    body: bytes,
    gateway_url: str,
) -> None:
    encoded = "&".join(f"{_percent_encoded(key)}={_percent_encoded(value)}" for key, value in query)
    lines = [f"{method} {target.format(_percent_encoded(name))}?{encoded} HTTP/1.1".encode()]
    lines += [b"Host: x", b"Connection: close", b"Content-Length: %d" % len(body)]
    lines += [f"{key}: {value}".encode() + rest for key, value, rest in headers]
    assert _status_of(gateway_url, b"\r\n".join([*lines, b"", body])) < 500


def _percent_encoded(data: bytes) -> str:
    return "".join(f"%{byte:02x}" for byte in data)


@pytest.mark.parametrize(
    ("request_line", "header", "status"),
    [
        (b"POST /token", b"Content-Type: application/x-www-form-urlencoded; charset=nonsense", 400),
        (b"POST /token", b"Content-Type: x/\xff", 415),
        (b"POST /token", b"Content-Encoding: \xff", 415),
        (b"GET /", b"Origin: http://\xff", 403),
    ],
)
def test_a_header_of_an_unknown_character_set_or_of_bytes_that_are_no_text_is_told(
    request_line: bytes, header: bytes, status: int, gateway_url: str
) -> None:
    lines = [request_line + b" HTTP/1.1", b"Host: x", b"Connection: close", b"Content-Length: 1", header, b"", b"x"]
    assert _status_of(gateway_url, b"\r\n".join(lines)) == status
