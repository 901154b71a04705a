"""Which kinds of tasks a model can do, told by its pipeline's class and its configurations."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto

from sd_common.parameters import TaskKind
from sd_worker.engine.diffusers_api import Config, kinds_of_class


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
    if in_channels is None or in_channels == latent_channels:
        return NetworkInput.LATENTS
    if isinstance(latent_channels, int) and in_channels == 2 * latent_channels + 1:
        return NetworkInput.LATENTS_AND_MASK
    return NetworkInput.SOMETHING_ELSE


def kinds_of_model(class_name: str, config_of: Callable[[str], Config]) -> tuple[TaskKind, ...]:
    """The kinds that a pipeline of diffusers' class `class_name` can do with these configurations; maybe none."""
    kinds = kinds_of_class(class_name)
    match network_input(config_of):
        case NetworkInput.LATENTS:
            return kinds
        case NetworkInput.LATENTS_AND_MASK:
            return tuple(kind for kind in kinds if kind == "inpaint")
        case NetworkInput.SOMETHING_ELSE:
            return ()
