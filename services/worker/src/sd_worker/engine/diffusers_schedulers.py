"""diffusers' schedulers, and subclasses of those that would keep the engine waiting. They compute the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from types import SimpleNamespace

import diffusers
import torch
from diffusers import DDIMScheduler, DDPMScheduler, LCMScheduler, LMSDiscreteScheduler, PNDMScheduler

from sd_worker.engine.diffusers_api import Config, Scheduler


def scheduler_from_config(class_name: str, config: Config, options: Config) -> Scheduler:
    """A scheduler of diffusers' class `class_name`, made from another's `config`; `options` go first."""
    scheduler_class = _SUBCLASSES.get(class_name, getattr(diffusers, class_name))
    from_config: Callable[..., Scheduler] = getattr(scheduler_class, "from_config")  # noqa: B009  # untyped
    return from_config(dict(config), **options)


class _RememberingLMS(LMSDiscreteScheduler):
    """Looks its coefficients up: the stock one integrates up to four a step, which takes 3 to 4 ms."""

    sigmas: torch.Tensor

    def get_lms_coefficient(self, order: int, t: int, current_order: int) -> float:
        return _lms_coefficient(order, current_order, tuple(self.sigmas[t + 1 - order : t + 2].tolist()))


@lru_cache(maxsize=4096)
def _lms_coefficient(order: int, current_order: int, sigmas: tuple[float, ...]) -> float:
    """Of the step between the last two of `sigmas`, and the `order` before its end: it depends on nothing else."""
    integrate: Callable[..., float] = LMSDiscreteScheduler.get_lms_coefficient
    only_sigmas = SimpleNamespace(sigmas=torch.tensor(sigmas, dtype=torch.float32))
    return integrate(only_sigmas, order, order - 1, current_order)


class _TimestepsOnCpu:
    """Goes before a scheduler that looks each timestep up in a table: were that on a GPU, each step of each sample
    would wait until the GPU has done all it was given."""

    def set_timesteps(self, num_inference_steps: int | None = None, device: object = None, **options: object) -> None:
        set_timesteps: Callable[..., None] = getattr(super(), "set_timesteps")  # noqa: B009  # of the class after it
        set_timesteps(num_inference_steps, device="cpu", **options)


class _Float32Timesteps:
    """Goes before LCM's scheduler, which multiplies a timestep in torch's default dtype. While another model is loaded
    that is float16, for the whole process, where its square overflows."""

    def get_scalings_for_boundary_condition_discrete(self, timestep: torch.Tensor) -> object:
        name = "get_scalings_for_boundary_condition_discrete"
        get_scalings: Callable[..., object] = getattr(super(), name)  # of the class after it
        return get_scalings(timestep.to(torch.float32))


def _with(scheduler_class: type[object], *before: type[object]) -> type[object]:
    # Of the same names, by which diffusers looks classes up.
    return type(scheduler_class.__name__, (*before, scheduler_class), {"__module__": scheduler_class.__module__})


_SUBCLASSES: Mapping[str, type[object]] = {
    LMSDiscreteScheduler.__name__: _RememberingLMS,
    LCMScheduler.__name__: _with(LCMScheduler, _TimestepsOnCpu, _Float32Timesteps),
    **{
        scheduler_class.__name__: _with(scheduler_class, _TimestepsOnCpu)
        for scheduler_class in (PNDMScheduler, DDIMScheduler, DDPMScheduler)
    },
}
