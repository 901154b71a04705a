"""Requests that no client makes: whatever the bytes are, the answer is one of HTTP, and none is a failure of ours."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from hypothesis import example, given
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
    "Content-Length",
    "Content-Type",
    "Cookie",
    "Expect",
    "Idempotency-Key",
    "If-None-Match",
    "Origin",
    "Range",
    "Transfer-Encoding",
    "traceparent",
    "X-Forwarded-For",
]
_VALUES = [
    "Bearer ",
    "application/json",
    "application/x-www-form-urlencoded; charset=",
    "multipart/form-data; boundary=",
    "text/html",
    "http://",
    "chunked",
    "1",
    'W/"',
]
_bytes_of_a_line = st.binary(max_size=20).filter(lambda data: not {*data} & {*b"\r\n\0"})
_headers = st.tuples(st.sampled_from(_HEADERS), st.sampled_from(["", *_VALUES]), _bytes_of_a_line)


def _status_of(gateway_url: str, request: bytes) -> int:
    """Of its answer."""
    host = urlsplit(gateway_url)
    with socket.create_connection((host.hostname, host.port), timeout=30) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as answer:
            version, status, *_ = answer.readline().split(b" ")
    assert version == b"HTTP/1.1"
    return int(status)


@num_examples(200)
@given(
    method=st.sampled_from(["GET", "POST", "DELETE", "OPTIONS", "PUT"]),
    target=st.sampled_from(_TARGETS),
    name=st.binary(max_size=8),
    query=st.lists(st.tuples(st.sampled_from(["token", "since", "prompt", "limit", "cursor"]), st.binary(max_size=8))),
    headers=st.lists(_headers, max_size=4),
    body=st.binary(max_size=40),
)
@example("POST", "/token", b"", [], [("Content-Type", "application/x-www-form-urlencoded; charset=", b"none")], b"x=1")
@example("GET", "/", b"", [], [("Origin", "http://", b"\xff")], b"")
@example("POST", "/task", b"", [], [("Content-Type", "", b"x/\xff")], b"")
def test_no_request_at_all_is_a_failure_of_the_gateway(
    method: str,
    target: str,
    name: bytes,
    query: list[tuple[str, bytes]],
    headers: list[tuple[str, str, bytes]],
    body: bytes,
    gateway_url: str,
) -> None:
    encoded = "&".join(f"{key}={_percent_encoded(value)}" for key, value in query)
    lines = [f"{method} {target.format(_percent_encoded(name))}?{encoded} HTTP/1.1".encode()]
    lines += [b"Host: x", b"Connection: close"]
    lines += [f"{key}: {value}".encode() + rest for key, value, rest in headers]
    if not any(key in ("Content-Length", "Transfer-Encoding") for key, _, _ in headers):
        lines.append(b"Content-Length: %d" % len(body))
    assert _status_of(gateway_url, b"\r\n".join([*lines, b"", body])) < 500


def _percent_encoded(data: bytes) -> str:
    return "".join(f"%{byte:02x}" for byte in data)
