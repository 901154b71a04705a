"""PNG files that tell how they were made."""

from __future__ import annotations

import io

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sd_common.parameters import AnyParameters

#: The text chunk that other Stable Diffusion programs look for, too.
_PARAMETERS_KEY = "parameters"

#: zlib's fastest: 72 ms for 1024 by 1024 pixels, against 120 ms at level 3 for 8 % fewer bytes.
_COMPRESS_LEVEL = 1

#: The pictures a task starts from are private to their owner, and their URLs are the only lock on them; a `data:` URL
#: would moreover put the whole picture in here. Who passes a result on does not pass these on.
_LEFT_OUT = {"initial_image", "mask"}


def encode_png(image: Image.Image, parameters_used: AnyParameters) -> bytes:
    """`image` as a PNG with `parameters_used` as JSON in the text chunk "parameters", but for the input pictures' URLs.

    Holds nothing of the time or the task: the same picture and parameters give the same bytes.
    """
    text = PngInfo()
    # tEXt where Latin-1 holds the text, else iTXt: Pillow decides.
    text.add_text(_PARAMETERS_KEY, parameters_used.model_dump_json(exclude=_LEFT_OUT))
    file = io.BytesIO()
    image.save(file, format="PNG", compress_level=_COMPRESS_LEVEL, pnginfo=text)
    return file.getvalue()
