"""Which kinds of tasks a model can do, told by its pipeline's class and its configurations."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto

from sd_common.parameters import TaskKind
from sd_worker.engine.diffusers_api import Config
from sd_worker.engine.diffusers_facts import kinds_of_class


class NetworkInput(Enum):
    """What a network takes besides the prompt."""

    LATENTS = auto()
    #: The latents, a mask of one channel, and the masked image's latents.
    LATENTS_AND_MASK = auto()
    SOMETHING_ELSE = auto()


def network_input(config_of: Callable[[str], Config]) -> NetworkInput:
    """`config_of` gives a component's configuration, empty where there is no such component."""
    in_channels = config_of("unet").get("in_channels")
    latent_channels = config_of("vae").get("latent_channels")
    with_mask = 2 * latent_channels + 1 if isinstance(latent_channels, int) else None
    if in_channels is None:
        # Transformers take latents in patches, of as many channels as they like: each family has a class of its own for
        # what is not latents, but for Stable Diffusion 3's inpainting.
        has_mask = with_mask is not None and config_of("transformer").get("in_channels") == with_mask
        return NetworkInput.LATENTS_AND_MASK if has_mask else NetworkInput.LATENTS
    if in_channels == latent_channels:
        return NetworkInput.LATENTS
    return NetworkInput.LATENTS_AND_MASK if in_channels == with_mask else NetworkInput.SOMETHING_ELSE


def kinds_of_model(class_name: str, config: Config, config_of: Callable[[str], Config]) -> tuple[TaskKind, ...]:
    """The kinds that a pipeline of diffusers' class `class_name` can do; maybe none. `config` is its own, `config_of`
    gives those of its components."""
    kinds = kinds_of_class(class_name)
    if config.get("requires_aesthetics_score"):  # SDXL's refiner: a network for the last steps alone
        kinds = tuple(kind for kind in kinds if kind == "img2img")
    match network_input(config_of):
        case NetworkInput.LATENTS:
            return kinds
        case NetworkInput.LATENTS_AND_MASK:
            return tuple(kind for kind in kinds if kind == "inpaint")
        case NetworkInput.SOMETHING_ELSE:
            return ()
