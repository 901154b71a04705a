"""What a picture that comes from outside may be, and how it is opened."""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import dataclass

from PIL import Image, ImageOps
from pydantic import Field

from sd_common.errors import PictureError
from sd_common.settings import Settings

#: What an opened picture's format is called over HTTP. Other formats are not read at all.
CONTENT_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
#: How the bytes of each begin; what stands as `.` is any byte.
_BEGINNINGS = {
    "PNG": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "JPEG": re.compile(rb"\xff\xd8\xff"),
    "WEBP": re.compile(rb"RIFF....WEBP", re.DOTALL),
}
_TAKEN = ", ".join(CONTENT_TYPES)
#: What Pillow calls a JPEG that holds further pictures (depth maps, previews), as phones make them.
_MULTI_PICTURE_JPEG = "MPO"


class PictureSettings(Settings):
    """How large a picture from outside may be."""

    max_upload_bytes: int = Field(default=20 * 1024 * 1024, ge=1024, description="Largest picture taken, in bytes.")
    max_picture_pixels: int = Field(
        default=2048 * 2048, ge=64 * 64, description="Largest picture taken, in pixels once decoded, or made."
    )


@dataclass(frozen=True)
class Picture:
    """An opened picture, upright (EXIF orientation applied)."""

    image: Image.Image
    content_type: str


def content_type_of(data: bytes) -> str | None:
    """What the bytes say that they are, or None where that is no picture this service takes."""
    return next((CONTENT_TYPES[name] for name, beginning in _BEGINNINGS.items() if beginning.match(data)), None)


def open_picture(data: bytes, limits: PictureSettings) -> Picture:
    """Decode `data` fully. Raises `PictureError` with a sentence for the client."""
    if len(data) > limits.max_upload_bytes:
        raise PictureError(f"The picture is {len(data):,} bytes; at most {limits.max_upload_bytes:,} are taken")
    try:
        with warnings.catch_warnings():
            # Our own limit below is tighter than the one Pillow warns at.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=list(CONTENT_TYPES))
            _check_size(image, limits)
            image.load()
            upright = ImageOps.exif_transpose(image)
    except PictureError:
        raise
    except Image.DecompressionBombError as error:
        raise PictureError("The picture has far more pixels than are taken") from error
    except Exception as error:  # Pillow's decoders raise of every kind on broken files
        raise PictureError(f"The bytes are not a whole {_TAKEN} picture") from error
    kind = "JPEG" if image.format == _MULTI_PICTURE_JPEG else str(image.format)
    return Picture(image=_in_8_bits(upright), content_type=CONTENT_TYPES[kind])


def _in_8_bits(image: Image.Image) -> Image.Image:
    """Pillow clips the 16 bits of a greyscale PNG: almost all of it would be white."""
    if not image.mode.startswith("I"):
        return image
    scaled = image.convert("I").point(lambda value: value * (1 / 257) + 0.5).convert("L")
    scaled.info.pop("transparency", None)  # a grey level in 16 bits
    return scaled


def _check_size(image: Image.Image, limits: PictureSettings) -> None:
    pixels = image.width * image.height
    if pixels > limits.max_picture_pixels:
        size = f"{image.width}×{image.height}, {pixels:,} pixels"
        raise PictureError(f"The picture is {size}; at most {limits.max_picture_pixels:,} are taken")
