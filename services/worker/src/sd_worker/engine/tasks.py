"""Tasks: what goes into the engine, and what comes out. What it tells of itself is in `reports`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from PIL import Image

from sd_common.parameters import (
    SIDE_MULTIPLE_PX,
    AnyParameters,
    Img2ImgParameters,
    InpaintParameters,
    Txt2ImgParameters,
)

#: Networks that samples share, as stages of a picture and of its timings.
Stage = Literal["denoise", "decode"]
FailureCode = Literal["model_unavailable", "invalid_input", "out_of_memory", "internal"]


@dataclass(frozen=True)
class EngineTask:
    """One picture to make.

    What `parameters` do not say (`given()`) is left to the model's own defaults. `seed` (64 bits) counts, not
    `parameters.seed`. `initial_image` and `mask` are decoded and upright, of any mode; they are what the URLs in
    `parameters` stand for. Raises `ValueError` where the kind needs a picture and has none.

    `task_id` is the engine's name for it: no two tasks have the same at once. The log calls it `logged_id`, where its
    owner knows it by another.
    """

    task_id: str
    parameters: AnyParameters
    seed: int
    initial_image: Image.Image | None = None
    mask: Image.Image | None = None
    logged_id: str | None = None

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height of the picture. Of an initial image, at most: pipelines cut its sides down, to multiples of
        this or of more."""
        if isinstance(self.parameters, Txt2ImgParameters):
            return self.parameters.width, self.parameters.height
        width, height = (0, 0) if self.initial_image is None else self.initial_image.size
        return width - width % SIDE_MULTIPLE_PX, height - height % SIDE_MULTIPLE_PX

    @property
    def planned_steps(self) -> int:
        """How many denoising steps it takes."""
        if isinstance(self.parameters, Img2ImgParameters):
            return max(1, int(self.parameters.steps * self.parameters.strength))
        return self.parameters.steps

    def __post_init__(self) -> None:
        if not isinstance(self.parameters, Txt2ImgParameters) and self.initial_image is None:
            raise ValueError(f"a task of kind {self.parameters.params_type} needs an initial image")
        if isinstance(self.parameters, InpaintParameters) and self.mask is None:
            raise ValueError("a task of kind inpaint needs a mask")


@dataclass(frozen=True)
class Progress:
    """How far a running task is: `step` of `steps` denoising steps are done (0 while its model is awaited).

    `steps` is what the client asked for (img2img: the share of it that `strength` leaves), also with a scheduler that
    takes more steps of its own. It stays the same for the life of a task, but for one that leaves it to the model:
    what that says is known when it is loaded.

    `bytes_done` and `bytes_total` are of its model, while that is downloaded or loaded; None where they are not known.
    """

    task_id: str
    stage: Literal["downloading", "loading", "denoising"]
    step: int
    steps: int
    bytes_done: int | None = None
    bytes_total: int | None = None


@dataclass(frozen=True)
class Timings:
    """Where a finished task's time in the engine went, in seconds.

    `loading_s` until its model was there, at `loaded_at` (0 and None where that was resident); then it may have waited
    for room. `encoding_s` from `began_at` for the prompt and the pictures it starts from, `denoising_s` together with
    others, `decoding_s` for the pixels and the safety check, `png_s` for the PNG. Both times are by
    `time.perf_counter()`.
    """

    loaded_at: float | None
    loading_s: float
    began_at: float
    encoding_s: float
    denoising_s: float
    decoding_s: float
    png_s: float


@dataclass(frozen=True)
class Finished:
    """The picture, as a PNG that tells how it was made (see `png.encode_png`).

    `nsfw_content_detected` is whether the safety checker flagged the picture, which is then black; None where none ran:
    the task asked for no safety filter, or the model has no checker.
    """

    task_id: str
    png: bytes
    parameters_used: AnyParameters
    nsfw_content_detected: bool | None
    timings: Timings


@dataclass(frozen=True)
class Cancelled:
    """Somebody cancelled the task, or the engine was stopped."""

    task_id: str


@dataclass(frozen=True)
class Failed:
    """There is no picture; `reason` is a sentence that the client can act on."""

    task_id: str
    code: FailureCode
    reason: str


Outcome = Finished | Cancelled | Failed
