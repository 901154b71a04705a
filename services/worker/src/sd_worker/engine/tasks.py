"""The nouns of the engine: what goes in, and what comes out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from PIL import Image

from sd_common.parameters import (
    AnyParameters,
    DefaultParameters,
    InpaintParameters,
    TaskKind,
    Txt2ImgParameters,
)

#: Networks that samples share, as stages of a picture and of its timings.
Stage = Literal["denoise", "decode"]
#: Models that an engine downloads side by side: more would only share the line, and the disk.
MOST_FETCHES = 4
FailureCode = Literal["model_unavailable", "invalid_input", "out_of_memory", "internal"]


@dataclass(frozen=True)
class EngineTask:
    """One picture to make.

    What `parameters` do not say (`given()`) is left to the model's own defaults. `seed` (64 bits) counts, not
    `parameters.seed`. `initial_image` and `mask` are decoded and upright, of any mode; they are what the URLs in
    `parameters` stand for. Raises `ValueError` where the kind needs a picture and has none.
    """

    task_id: str
    parameters: AnyParameters
    seed: int
    initial_image: Image.Image | None = None
    mask: Image.Image | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.parameters, Txt2ImgParameters) and self.initial_image is None:
            raise ValueError(f"a task of kind {self.parameters.params_type} needs an initial image")
        if isinstance(self.parameters, InpaintParameters) and self.mask is None:
            raise ValueError("a task of kind inpaint needs a mask")


@dataclass(frozen=True)
class Progress:
    """How far a running task is: `step` of `steps` denoising steps are done (0 while its model is awaited).

    `steps` is what the client asked for (img2img: the share of it that `strength` leaves), also with a scheduler that
    makes more passes than steps. It stays the same for the life of a task, but for one that leaves it to the model:
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
class LoadProgress:
    """How far a model is. `bytes_total` is 0 where it is not known."""

    stage: Literal["downloading", "loading"]
    bytes_done: int
    bytes_total: int


def ignore_progress(progress: LoadProgress) -> None:
    """For loads that nobody waits for."""


@dataclass(frozen=True)
class Timings:
    """Where a finished task's time in the engine went, in seconds.

    `loading_s` for its model (0 where that was resident), `encoding_s` for the
    prompt and the pictures it starts from, `denoising_s` and `decoding_s` together with others, `png_s` for the PNG.
    `began_at` is when encoding began, by `time.perf_counter()`.
    """

    began_at: float
    loading_s: float
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


@dataclass(frozen=True)
class KnownModel:
    """A model that tasks may name without a download: it is resident, or at hand on disk.

    The size that a model was trained at is among its defaults once it is resident; before, only what its file says.
    """

    name: str
    kinds: tuple[TaskKind, ...]
    default_parameters: DefaultParameters
    is_resident: bool
    #: Whether a sample shares no forward pass of its network (see `sharing`).
    runs_alone: bool = False


@dataclass(frozen=True)
class Workload:
    """What the engine has to do.

    `passes`: full forward passes that a step of everything takes, or would take if there were room. `passes_per_task`:
    what one more task adds to it, as far as the last one tells.
    """

    passes: float = 0.0
    passes_per_task: float = 1.0
    #: The model that is being loaded waits until no sample runs on others.
    waits_for_room: bool = False
    #: Tasks that have begun, and those that wait for their model or for room.
    num_samples: int = 0
    num_waiting: int = 0
    #: Tasks that it has ever taken: who has submitted more knows what is not counted here yet.
    num_taken: int = 0


@dataclass(frozen=True)
class PassMade:
    """A forward pass, for the operator's figures.

    `num_rows` of samples, padding not counted, of `max_rows` that it could have had. `seconds` until the network had
    returned: on a GPU, which works behind, until its queue had taken the pass; a long run of passes takes the sum.
    """

    stage: Stage
    num_rows: int
    max_rows: int
    seconds: float


@dataclass(frozen=True)
class ModelLoad:
    """A model was read from the disk or the hub and moved to the device, or could not be."""

    name: str
    has_come: bool
    seconds: float


@dataclass(frozen=True)
class ModelDropped:
    """A model is kept no longer: for another one, to free memory, or after an error of ours."""

    name: str


ModelChange = ModelLoad | ModelDropped


@dataclass(frozen=True)
class MemoryUse:
    """What models take up, and how full the GPU is (None without one), in bytes. Others may use the GPU, too."""

    num_models: int
    models_bytes: int
    gpu_used_bytes: int | None = None
    gpu_total_bytes: int | None = None
