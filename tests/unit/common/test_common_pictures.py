"""Pictures from outside: what is taken, and with which sentence the rest is refused."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import pytest
from PIL import Image, _imaging

from sd_common.errors import PictureError
from sd_common.pictures import PictureSettings, open_picture
from support.pictures import png_by_hand

_LIMITS = PictureSettings(_env_file=None, max_upload_bytes=100_000, max_picture_pixels=256 * 256)
_DEFAULT_LIMITS = PictureSettings(_env_file=None, max_upload_bytes=20 * 1024 * 1024, max_picture_pixels=2048 * 2048)
_NOT_A_PICTURE = "The bytes are not a whole PNG, JPEG, WEBP picture"
_EXIF_ORIENTATION = 0x0112


def _encoded(kind: str, size: tuple[int, int] = (32, 16), mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, "red" if mode == "RGB" else 1).save(buffer, kind, **options)
    return buffer.getvalue()


def _png_that_claims(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims a size."""
    return png_by_hand(width, height, 8, 2, zlib.compress(bytes(100)))


@pytest.mark.parametrize(
    ("kind", "content_type"), [("PNG", "image/png"), ("JPEG", "image/jpeg"), ("WEBP", "image/webp")]
)
def test_a_picture_is_opened_and_its_type_is_told(kind: str, content_type: str) -> None:
    picture = open_picture(_encoded(kind), _LIMITS)
    assert picture.content_type == content_type
    assert picture.image.size == (32, 16)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_pngs_of_every_mode_are_opened(mode: str) -> None:
    assert open_picture(_encoded("PNG", mode=mode), _LIMITS).image.size == (32, 16)


@pytest.mark.parametrize("options", [{}, {"transparency": 65535}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_16_bits_of_grey_are_those_of_8(mode: str, options: dict[str, Any]) -> None:
    """In the modes that initial images and masks are made of it."""
    deep, plain = Image.new("I;16", (256, 1)), Image.new("L", (256, 1))
    for x in range(256):
        deep.putpixel((x, 0), x * 65535 // 255)
        plain.putpixel((x, 0), x)
    buffer = io.BytesIO()
    deep.save(buffer, "PNG", **options)
    opened = open_picture(buffer.getvalue(), _LIMITS).image
    assert opened.convert(mode).tobytes() == plain.convert(mode).tobytes()


def test_a_jpeg_of_a_phone_which_holds_a_second_picture_is_a_jpeg() -> None:
    data = _encoded("MPO", save_all=True, append_images=[Image.new("RGB", (32, 16), "blue")])
    picture = open_picture(data, _LIMITS)
    assert picture.content_type == "image/jpeg"
    red, _, blue = picture.image.convert("RGB").getpixel((0, 0))  # type: ignore[misc]
    assert red > 200 > blue


@pytest.mark.parametrize(
    ("orientation", "size", "red_corner"),
    [(1, (32, 16), (0, 0)), (3, (32, 16), (31, 15)), (6, (16, 32), (15, 0)), (8, (16, 32), (0, 31))],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_picture_is_turned_upright(
    kind: str, orientation: int, size: tuple[int, int], red_corner: tuple[int, int]
) -> None:
    image = Image.new("RGB", (32, 16), "white")
    image.paste("red", (0, 0, 8, 8))
    exif = Image.Exif()
    exif[_EXIF_ORIENTATION] = orientation
    buffer = io.BytesIO()
    image.save(buffer, kind, exif=exif)
    upright = open_picture(buffer.getvalue(), _LIMITS).image
    assert upright.size == size
    red, green, _ = upright.convert("RGB").getpixel(red_corner)  # type: ignore[misc]
    assert red > 200
    assert green < 60
    assert upright.getexif().get(_EXIF_ORIENTATION, 1) == 1


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "ICO", "PPM", "PDF", "EPS"])
def test_pictures_of_other_formats_are_refused(kind: str) -> None:
    with pytest.raises(PictureError, match=_NOT_A_PICTURE):
        open_picture(_encoded(kind, size=(32, 32)), _LIMITS)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"a text file\n",
        b"<svg xmlns='http://www.w3.org/2000/svg' width='1' height='1'/>",
        b"<!doctype html><script>alert(1)</script>",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0",
        b"RIFF\x00\x00\x00\x00WEBP",
    ],
)
def test_bytes_that_are_no_picture_are_refused(data: bytes) -> None:
    with pytest.raises(PictureError, match=_NOT_A_PICTURE):
        open_picture(data, _LIMITS)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_truncated_picture_is_refused(kind: str) -> None:
    data = _encoded(kind, size=(128, 128))
    for length in (len(data) // 2, len(data) * 9 // 10):
        with pytest.raises(PictureError, match=_NOT_A_PICTURE):
            open_picture(data[:length], _LIMITS)


def test_a_damaged_picture_is_refused() -> None:
    data = bytearray(_encoded("PNG", size=(64, 64)))
    start = data.index(b"IDAT") + 8
    data[start : start + 8] = b"\xff" * 8
    with pytest.raises(PictureError, match=_NOT_A_PICTURE):
        open_picture(bytes(data), _LIMITS)


def test_too_many_bytes_are_refused_with_the_limit() -> None:
    with pytest.raises(PictureError, match=r"^The picture is 100,001 bytes; at most 100,000 are taken$"):
        open_picture(bytes(100_001), _LIMITS)


def test_too_many_pixels_are_refused_with_the_limit() -> None:
    sentence = r"^The picture is 257×256, 65,792 pixels; at most 65,536 are taken$"
    with pytest.raises(PictureError, match=sentence):
        open_picture(_encoded("PNG", size=(257, 256)), _LIMITS)
    assert open_picture(_encoded("PNG", size=(256, 256)), _LIMITS).image.size == (256, 256)


@pytest.mark.parametrize("side", [10_000, 50_000, 2**31 - 1])
def test_a_header_that_claims_a_huge_size_costs_no_memory(side: int) -> None:
    """10,000 is below the size that Pillow warns at, 50,000 beyond the one it refuses."""
    small, huge = _encoded("PNG"), _png_that_claims(side, side)
    _imaging.reset_stats()
    with pytest.raises(PictureError, match=r"pixels|not a whole"):
        open_picture(huge, _DEFAULT_LIMITS)
    assert _imaging.get_stats()["new_count"] == 0, "room for pixels was taken"
    open_picture(small, _DEFAULT_LIMITS)
    assert _imaging.get_stats()["new_count"] > 0


def test_a_header_that_claims_more_than_the_data_holds_is_refused() -> None:
    with pytest.raises(PictureError, match=_NOT_A_PICTURE):
        open_picture(_png_that_claims(200, 200), _LIMITS)


def test_compressed_text_that_unpacks_to_a_lot_is_refused() -> None:
    data = bytearray(_encoded("PNG"))
    text = b"bomb\x00\x00" + zlib.compress(b"a" * 80_000_000)
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text + struct.pack(">I", zlib.crc32(b"zTXt" + text))
    data[33:33] = chunk
    with pytest.raises(PictureError, match=_NOT_A_PICTURE):
        open_picture(bytes(data), _LIMITS)
