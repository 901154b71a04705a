"""The noise schedulers that the API names.

Each is made by `from_config` from the model's own scheduler, so that the betas, the prediction type and the spacing are
the model's, and Karras sigmas too where the name does not tell. What a name stands for is pinned by options, so that a
model whose own scheduler is of the same class with other options does not change the meaning of the name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sd_common.parameters import SchedulerName
from sd_worker.engine.diffusers_api import Config, Scheduler
from sd_worker.engine.diffusers_schedulers import scheduler_from_config
from sd_worker.engine.errors import InvalidInput

_PLAIN_SIGMAS: Config = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
_KARRAS_SIGMAS: Config = {**_PLAIN_SIGMAS, "use_karras_sigmas": True}
_SECOND_ORDER: Config = {"solver_order": 2, "solver_type": "midpoint"}

#: Latents go beyond [-1, 1], so clipping them spoils the picture. diffusers' txt2img and img2img constructors turn it
#: off; inpainting leaves it, and so does assigning `pipe.scheduler`. DDIM and DDPM have it on unless a model says no.
_FOR_LATENTS: Config = {"clip_sample": False}


@dataclass(frozen=True)
class _Recipe:
    class_name: str
    options: Config = field(default_factory=dict)


#: `docs/engine.md` tells users of them.
_RECIPES: Mapping[SchedulerName, _Recipe] = {
    "plms": _Recipe("PNDMScheduler", {"skip_prk_steps": True}),
    "ddim": _Recipe("DDIMScheduler"),
    "k-lms": _Recipe("LMSDiscreteScheduler"),
    "euler": _Recipe("EulerDiscreteScheduler"),
    "euler_a": _Recipe("EulerAncestralDiscreteScheduler"),
    "heun": _Recipe("HeunDiscreteScheduler"),
    "dpmpp_2m": _Recipe(
        "DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", **_SECOND_ORDER, **_PLAIN_SIGMAS}
    ),
    "dpmpp_2m_karras": _Recipe(
        "DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", **_SECOND_ORDER, **_KARRAS_SIGMAS}
    ),
    # Needs no torchsde.
    "dpmpp_sde": _Recipe(
        "DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", **_SECOND_ORDER, **_PLAIN_SIGMAS}
    ),
    "unipc": _Recipe("UniPCMultistepScheduler", {"solver_type": "bh2"}),
    "deis": _Recipe("DEISMultistepScheduler", {"algorithm_type": "deis", "solver_type": "logrho"}),
    "lcm": _Recipe("LCMScheduler"),
    "ddpm": _Recipe("DDPMScheduler"),
}


#: Of flow-matching models, whatever more of a name they have.
_FLOW_MATCHING = "FlowMatch"
#: The others that a model keeps, since its noise schedule is not one of betas, and what they are called here.
_NAMES_OF_OWN: Mapping[str, SchedulerName] = {
    "EDMEulerScheduler": "euler",
    "EDMDPMSolverMultistepScheduler": "dpmpp_2m",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "UniPCMultistepScheduler": "unipc",
}
_PREDICTIONS_OF_BETAS = {"epsilon", "sample", "v_prediction"}


def create_scheduler(name: SchedulerName, own: Scheduler) -> Scheduler:
    """A fresh scheduler, made from the configuration of a model's `own`.

    Raises `InvalidInput` where the model does not go with it.
    """
    own_class = type(own).__name__
    if _has_betas(own_class, own.config):
        recipe = _RECIPES[name]
        return scheduler_from_config(recipe.class_name, own.config, {**_FOR_LATENTS, **recipe.options})
    own_name = "euler" if own_class.startswith(_FLOW_MATCHING) else _NAMES_OF_OWN.get(own_class)
    if own_name is None:
        raise InvalidInput("This model has a noise schedule that none of the schedulers computes: choose another model")
    if name != own_name:
        raise InvalidInput(f"Scheduler '{name}' does not go with this model's noise schedule: choose '{own_name}'")
    return scheduler_from_config(own_class, own.config, {})


def check_steps(name: SchedulerName, scheduler: Scheduler, steps: int) -> None:
    """Raises `InvalidInput` where `scheduler`, which `name` stands for, does not take so many."""
    most = scheduler.config["original_inference_steps"] if name == "lcm" else None
    if isinstance(most, int) and steps > most:
        raise InvalidInput(f"Scheduler 'lcm' takes at most {most} steps with this model, not {steps}: 4 to 8 are usual")


def _has_betas(class_name: str, config: Config) -> bool:
    """Whether betas alone describe the noise schedule, as of Stable Diffusion, which every named scheduler computes."""
    if class_name.startswith((_FLOW_MATCHING, "EDM")):
        return False  # whatever is left in the configuration of the scheduler that it was made from
    is_shifted = config.get("snr_shift_scale") is not None or bool(config.get("use_flow_sigmas"))
    has_known_prediction = config.get("prediction_type", "epsilon") in _PREDICTIONS_OF_BETAS
    return "beta_schedule" in config and has_known_prediction and not is_shifted
