"""What a client may ask for: the parameters of the three task kinds.

Names and defaults are those of the API this service replaces, so that its clients work here unchanged. A model may
carry defaults of its own, which go before these for what a task does not say: `given()` keeps the two apart.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from sd_common.model_names import canonical_model_name, check_model_name

TaskKind = Literal["txt2img", "img2img", "inpaint"]

#: Every name that `scheduler` takes. The worker maps each to a diffusers class (`sd_worker.engine.schedulers`).
SchedulerName = Literal[
    "plms",
    "ddim",
    "k-lms",
    "euler",
    "euler_a",
    "heun",
    "dpmpp_2m",
    "dpmpp_2m_karras",
    "dpmpp_sde",
    "unipc",
    "deis",
    "lcm",
    "ddpm",
]

DEFAULT_MODEL = "CompVis/stable-diffusion-v1-4"
DEFAULT_INPAINT_MODEL = "stable-diffusion-v1-5/stable-diffusion-inpainting"

MIN_SIDE_PX = 64
MAX_SIDE_PX = 2048
#: The VAEs of every family scale by 8: a side that is not a multiple of 8 has no latent.
SIDE_MULTIPLE_PX = 8
MAX_STEPS = 500
MIN_GUIDANCE = 1.0
MAX_GUIDANCE = 50.0
MAX_PROMPT_CHARS = 10_000
#: `torch.Generator.manual_seed` takes 64 bits.
MAX_SEED = 2**64 - 1

ModelName = Annotated[
    str,
    Field(min_length=1, max_length=200),
    AfterValidator(check_model_name),
    AfterValidator(canonical_model_name),
]
SidePx = Annotated[int, Field(ge=MIN_SIDE_PX, le=MAX_SIDE_PX, multiple_of=SIDE_MULTIPLE_PX)]
Steps = Annotated[int, Field(ge=1, le=MAX_STEPS)]
Guidance = Annotated[float, Field(ge=MIN_GUIDANCE, le=MAX_GUIDANCE, allow_inf_nan=False)]
PictureUrl = Annotated[str, Field(min_length=1)]

_OR_REMOTE = ", or the URL of another host, where the operator set `REMOTE_IMAGES`"
_OWN_DEFAULT = "Default: the model's own; {} where it carries none."


class CommonParameters(BaseModel):
    """What every task kind takes."""

    # A reader ignores what it does not know, so that versions can be mixed; the REST API refuses it at its edge.
    model_config = ConfigDict(extra="ignore", frozen=True)

    prompt: str = Field(max_length=MAX_PROMPT_CHARS, description="The prompt to guide image generation.")
    negative_prompt: str | None = Field(
        default=None,
        max_length=MAX_PROMPT_CHARS,
        description="The prompt to dissuade image generation. "
        "Ignored when not using guidance (i.e., if `guidance` is `1`).",
    )
    model: ModelName = Field(
        default=DEFAULT_MODEL,
        description="The model to use: the repository id of a diffusers pipeline on the Hugging Face hub "
        f"(e.g. `{DEFAULT_MODEL}`), or the name of a directory below the worker's `MODEL_DIR` (e.g. `shapes`). "
        "A repository id may carry a revision, which is a branch, a tag or a commit: `owner/name@revision`. "
        "Where the operator set `DEFAULT_MODEL`, that is the default.",
    )
    steps: Steps = Field(
        default=20,
        description="The number of denoising steps. More steps usually give a better picture and take proportionally "
        f"longer. {_OWN_DEFAULT.format(20)}",
    )
    guidance: Guidance = Field(
        default=7.5,
        description="How closely to follow `prompt`, usually at the expense of picture quality: `w` of equation 2 of "
        "the [Imagen paper](https://arxiv.org/abs/2205.11487). `1` turns guidance off. "
        f"{_OWN_DEFAULT.format(7.5)}",
    )
    scheduler: SchedulerName = Field(
        default="plms", description=f"The diffusers noise scheduler. {_OWN_DEFAULT.format('`plms`')}"
    )
    seed: int | None = Field(
        default=None,
        ge=0,
        le=MAX_SEED,
        description="Decides the noise: the same seed and parameters give the same picture. "
        "Chosen at random when not given; the one used is told in `parameters_used`.",
    )
    safety_filter: bool = Field(
        default=True,
        description="Black out pictures that the model's safety checker flags. "
        "Do not show unfiltered pictures in services open to the public. "
        "Where the operator set `SAFETY_FILTER=required`, `false` is refused.",
    )
    deterministic: bool = Field(
        default=False,
        # Clients of the replaced API compare `parameters_used` with what they know.
        exclude_if=lambda deterministic: not deterministic,
        description="Make the picture the same bit for bit whichever other tasks are made with it, which costs time. "
        "Else a grey level may differ here and there. Where the operator set `DETERMINISTIC`, all tasks are. "
        "`parameters_used` tells it where it is `true`.",
    )

    def given(self) -> dict[str, Any]:
        """What the task says itself, as JSON can hold it: the rest is for the model's own defaults, or for these."""
        return self.model_dump(mode="json", exclude_unset=True)


class Txt2ImgParameters(CommonParameters):
    """A picture from a prompt."""

    params_type: Literal["txt2img"] = "txt2img"

    width: SidePx = Field(
        default=512,
        description=f"The width of the picture in pixels, a multiple of 8. {_OWN_DEFAULT.format(512)}",
    )
    height: SidePx = Field(
        default=512,
        description=f"The height of the picture in pixels, a multiple of 8. {_OWN_DEFAULT.format(512)}",
    )


class Img2ImgParameters(CommonParameters):
    """A picture from a prompt and a picture to start from."""

    params_type: Literal["img2img"] = "img2img"

    initial_image: PictureUrl = Field(
        description="The picture to start from: a blob URL of this service, or a `data:` URL"
        f"{_OR_REMOTE}. "
        "Sides are cut down to multiples of 8.",
    )
    strength: float = Field(
        default=0.8,
        gt=0.0,
        le=1.0,
        allow_inf_nan=False,
        description="How much to change the initial image: the share of `steps` that is run, "
        "from noise added in that measure. At `1` the initial image is ignored.",
    )

    @model_validator(mode="after")
    def check_that_a_step_remains(self) -> Self:
        """diffusers runs `int(steps * strength)` steps, and fails with none. Steps that are left to the model are not
        known here: the worker fills them in, and then this is checked again."""
        if "steps" not in self.model_fields_set or int(self.steps * self.strength) >= 1:
            return self
        error = PydanticCustomError(
            "strength_too_low",
            "strength × steps must be at least 1, but {strength} × {steps} leaves no step to run: raise either",
            {"strength": self.strength, "steps": self.steps},
        )
        # As the error of the field that it tells of, which a validator of the whole has no other way to say.
        details = InitErrorDetails(type=error, loc=("strength",), input=self.strength)
        raise ValidationError.from_exception_data(type(self).__name__, [details])


class InpaintParameters(CommonParameters):
    """A picture painted anew where a mask is white."""

    params_type: Literal["inpaint"] = "inpaint"

    model: ModelName = Field(
        default=DEFAULT_INPAINT_MODEL,
        description="The model to use, as for the other kinds; models made for inpainting do best. "
        "Where the operator set `DEFAULT_MODEL`, that is the default.",
    )
    initial_image: PictureUrl = Field(
        description="The picture to paint into: a blob URL of this service, or a `data:` URL"
        f"{_OR_REMOTE}. "
        "Sides are cut down to multiples of 8.",
    )
    mask: PictureUrl = Field(
        description="White is painted anew, black stays: a blob URL of this service, or a `data:` URL"
        f"{_OR_REMOTE}. "
        "Resized to the initial image where it differs.",
    )


#: Those of a task of whichever kind.
AnyParameters = Txt2ImgParameters | Img2ImgParameters | InpaintParameters
#: The same, read by the kind that they name.
TaskParameters = Annotated[AnyParameters, Field(discriminator="params_type")]

task_parameters_adapter: TypeAdapter[AnyParameters] = TypeAdapter(TaskParameters)


class DefaultParameters(BaseModel):
    """The defaults of one model, for what a task does not say. None: those of the API count."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    width: SidePx | None = None
    height: SidePx | None = None
    steps: Steps | None = None
    guidance: Guidance | None = None
    scheduler: SchedulerName | None = None
