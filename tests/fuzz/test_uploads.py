"""Uploads that are no pictures, or no forms: `POST /blob` takes them or says what is wrong."""

from __future__ import annotations

import gzip
import io

import requests
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from fuzz.conftest import MAX_UPLOAD_BYTES
from support.fuzzing import num_examples

_BOUNDARY = b"frontier"
_CONTENT_TYPE = b"multipart/form-data; boundary=" + _BOUNDARY


def _encoded(kind: str) -> bytes:
    with io.BytesIO() as file:
        Image.linear_gradient("L").resize((24, 16)).convert("RGB").save(file, kind)
        return file.getvalue()


_PICTURES = [_encoded(kind) for kind in ("PNG", "JPEG", "WEBP")]


def _form(picture: bytes) -> bytes:
    head = b'Content-Disposition: form-data; name="blob_data"; filename="x"\r\n\r\n'
    return b"--%s\r\n%s%s\r\n--%s--\r\n" % (_BOUNDARY, head, picture, _BOUNDARY)


@st.composite
def _changed(draw: st.DrawFn, whole: bytes) -> bytes:
    """Some bytes are others, or are gone, or there are more."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        data[start : start + draw(st.integers(0, 8))] = draw(st.binary(max_size=8))
    return bytes(data)


def _post(
    url: str, token: str, body: bytes, content_type: bytes | None = None, encoding: bytes = b"identity"
) -> requests.Response:
    headers = {
        "Authorization": f"Bearer {token}".encode(),
        "Content-Type": content_type or _CONTENT_TYPE,
        "Content-Encoding": encoding,
    }
    return requests.post(f"{url}/blob", data=body, headers=headers, timeout=60)


@num_examples(120)
@given(picture=st.sampled_from(_PICTURES).flatmap(_changed))
@example(picture=bytes(MAX_UPLOAD_BYTES + 1))
def test_a_changed_picture_is_taken_or_refused(picture: bytes, gateway_url: str, token: str) -> None:
    answer = _post(gateway_url, token, _form(picture))
    assert answer.status_code in (200, 400, 413, 422)  # 400: the boundary may be within the picture
    if answer.status_code == 200:
        with Image.open(io.BytesIO(picture)) as image:
            assert image.format in ("PNG", "JPEG", "WEBP")


@num_examples(120)
@given(form=st.sampled_from([_form(picture) for picture in _PICTURES[1:]]).flatmap(_changed))
def test_a_changed_form_is_taken_or_refused(form: bytes, gateway_url: str, token: str) -> None:
    assert _post(gateway_url, token, form).status_code in (200, 400, 413, 422)


@num_examples(60)
@given(
    content_type=_changed(b"multipart/form-data; boundary=frontier").filter(lambda value: not {*value} & {*b"\r\n\0"})
)
def test_a_changed_content_type_is_taken_or_refused(content_type: bytes, gateway_url: str, token: str) -> None:
    answer = _post(gateway_url, token, _form(_PICTURES[0]), content_type.strip() or b"x")
    assert answer.status_code in (200, 400, 415, 422)


@num_examples(60)
@given(
    encoding=st.sampled_from([b"gzip", b"deflate", b"br", b"zstd", b"identity"])
    | _changed(b"gzip, identity").filter(lambda value: not {*value} & {*b"\r\n\0"}),
    body=st.sampled_from([_form(_PICTURES[0]), gzip.compress(_form(_PICTURES[0]))]),
)
def test_a_compressed_form_is_refused(encoding: bytes, body: bytes, gateway_url: str, token: str) -> None:
    answer = _post(gateway_url, token, body, encoding=encoding.strip())
    codings = {coding.strip().lower() for coding in encoding.split(b",")}
    refused = not codings <= {b"", b"identity"}
    assert answer.status_code in ((400, 415) if refused else (200, 400, 422))  # 400: the header has a control character
