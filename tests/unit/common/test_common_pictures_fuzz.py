"""Whatever bytes are given for a picture: they are one that is taken, or `PictureError` says why not."""

from __future__ import annotations

import io
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from sd_common.errors import PictureError
from sd_common.pictures import CONTENT_TYPES, PictureSettings, open_picture

_LIMITS = PictureSettings(_env_file=None, max_upload_bytes=10_000, max_picture_pixels=64 * 64)


def _encoded(kind: str, **options: Any) -> bytes:
    image = Image.linear_gradient("L").resize((24, 16)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, kind, exif=exif, **options)
    return buffer.getvalue()


_WHOLE = [
    _encoded("PNG"),
    _encoded("PNG", optimize=True),
    _encoded("JPEG"),
    _encoded("JPEG", progressive=True),
    _encoded("WEBP"),
    _encoded("WEBP", lossless=True),
    _encoded("WEBP", save_all=True, append_images=[Image.new("RGB", (24, 16), "red")]),
]
_HEADS = [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe1", b"RIFF\xff\x00\x00\x00WEBPVP8X", b"GIF89a", b"BM", b"%PDF"]


def _is_taken_or_refused(data: bytes) -> None:
    try:
        picture = open_picture(data, _LIMITS)
    except PictureError:
        pass
    else:
        assert picture.content_type in CONTENT_TYPES.values()
        assert picture.image.width * picture.image.height <= 64 * 64


@given(st.sampled_from(_HEADS), st.binary(max_size=2_000))
@example(b"", bytes(10_001))
def test_any_bytes_are_taken_or_refused(head: bytes, rest: bytes) -> None:
    _is_taken_or_refused(head + rest)


@given(
    st.sampled_from(_WHOLE),
    st.lists(st.tuples(st.integers(0, 10_000), st.binary(min_size=1, max_size=8)), min_size=1, max_size=8),
)
def test_a_picture_with_changed_bytes_is_taken_or_refused(whole: bytes, changes: list[tuple[int, bytes]]) -> None:
    data = bytearray(whole)
    for place, change in changes:
        start = place % len(data)
        data[start : start + len(change)] = change
    _is_taken_or_refused(bytes(data))


@given(st.sampled_from(_WHOLE), st.integers(0, 10_000), st.integers(0, 10_000), st.binary(max_size=200))
def test_a_picture_that_is_cut_and_filled_is_taken_or_refused(whole: bytes, one: int, other: int, fill: bytes) -> None:
    start, end = sorted((one % len(whole), other % len(whole)))
    _is_taken_or_refused(whole[:start] + fill + whole[end:])
