"""Pictures that tests send."""

from __future__ import annotations

import base64
import io
import struct
import zlib

from PIL import Image

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def png_of(image: Image.Image) -> bytes:
    """Its file."""
    with io.BytesIO() as file:
        image.save(file, "PNG")
        return file.getvalue()


def png(width: int = 64, height: int = 64, colour: str = "red") -> bytes:
    """One of a single colour."""
    return png_of(Image.new("RGB", (width, height), colour))


def noise_png(side: int) -> bytes:
    """One that takes as many bytes as it has pixels: nothing of it repeats."""
    return png_of(Image.effect_noise((side, side), 100))


def png_by_hand(width: int, height: int, bit_depth: int, colour_type: int, pixels: bytes) -> bytes:
    """One whose header says this, whatever the compressed `pixels` are."""
    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, 0)
    return PNG_SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def data_url(data: bytes) -> str:
    """Which calls the bytes a PNG, whatever they are."""
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"
