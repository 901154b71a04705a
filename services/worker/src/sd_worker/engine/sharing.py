"""Which calls of a pipeline its sample shares or waits for, and the proxies that make it so.

A pipeline object belongs to one task (`pipelines`); here some of its parts are replaced, on that object alone:

- its networks by proxies whose call parks the sample, to share a forward pass;
- its VAE by one whose `decode` does so;
- its prompt encoding by a cached one;
- its safety check by one that runs in a helper thread.

**The rule of what runs alone**, which stands here and nowhere else: a network shares its passes unless somebody may
change it while others wait for it, or a call has tensors without rows. Hooks of accelerate (offloading) move weights in
and out around each call: such a pipeline shares nothing. Pipelines of a VAE with `force_upcast` in float16 (SDXL) cast
it to float32 and back around the decoding: that VAE decodes for one sample at a time, in one go, while the UNet is
shared all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace

import torch

from sd_worker.engine.batches import NetworkCall
from sd_worker.engine.diffusers_api import Pipeline
from sd_worker.engine.diffusers_facts import component_config, is_plain_vae
from sd_worker.engine.prompt_cache import PromptCache
from sd_worker.engine.rendezvous import park

#: Components whose calls make up the denoising.
_NETWORKS = ("unet", "transformer", "controlnet")


@dataclass(frozen=True)
class Sharing:
    """What samples of one model share."""

    shares_denoising: bool
    shares_decoding: bool


@dataclass(frozen=True, eq=False)
class ThreadCall:
    """A call that needs no network of the engine's: any thread may run it."""

    function: Callable[..., object]
    arguments: tuple[object, ...]
    keywords: Mapping[str, object]

    def run(self) -> object:
        with torch.inference_mode():  # it is set for a thread
            return self.function(*self.arguments, **self.keywords)


def sharing_of(pipeline: Pipeline) -> Sharing:
    """What the tasks of a model may share: see the rule above."""
    modules = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    if any(hasattr(module, "_hf_hook") for module in modules):
        return Sharing(shares_denoising=False, shares_decoding=False)
    vae = pipeline.components.get("vae")
    # Stable Diffusion 1.x and 2.x have the option in their VAEs, too, and pay no heed to it.
    may_upcast = hasattr(pipeline, "upcast_vae") and getattr(vae, "dtype", None) == torch.float16
    upcasts = may_upcast and component_config(pipeline, "vae").get("force_upcast")
    # Of other VAEs it is not known whether a picture is decoded as if alone.
    return Sharing(shares_denoising=True, shares_decoding=is_plain_vae(vae) and not upcasts)


def share(
    pipeline: Pipeline, sharing: Sharing, prompts: PromptCache, task_id: Hashable, num_fixed_rows: int | None
) -> None:
    """Replace the parts of a task's own `pipeline`. `num_fixed_rows` pads every shared pass of the network, and leaves
    the decoding to the sample alone: so no company changes a bit. A network that shares nothing needs no padding."""
    own = vars(pipeline)  # assigning an attribute would register it as a component
    owner = None if sharing.shares_denoising else task_id
    for name in _NETWORKS:
        if isinstance(module := own.get(name), torch.nn.Module):
            fixed = num_fixed_rows if owner is None else None
            own[name] = _SharedNetwork(NetworkCall("denoise", module, (), {}, owner, fixed))
    if sharing.shares_decoding:
        owner = None if num_fixed_rows is None else task_id
        own["vae"] = _SharedDecoder(NetworkCall("decode", own["vae"], (), {}, owner))
    if callable(encode_prompt := getattr(pipeline, "encode_prompt", None)):
        own["encode_prompt"] = prompts.cached(encode_prompt)
    check = getattr(pipeline, "run_safety_checker", None)
    if callable(check) and own.get("safety_checker") is not None:
        own["run_safety_checker"] = lambda *arguments, **keywords: park(ThreadCall(check, arguments, keywords))


def unshare(pipeline: Pipeline) -> None:
    """Undo `share` when the pipeline has run: what refers back to it makes a circle, which only the garbage collector
    would find."""
    for name in ("encode_prompt", "run_safety_checker"):
        vars(pipeline).pop(name, None)


class _Proxy:
    """Passes for a network, but for what a subclass overrides."""

    def __init__(self, call: NetworkCall) -> None:
        self._call = call

    @property  # type: ignore[misc]
    def __class__(self) -> type[object]:  # type: ignore[override]
        # Pipelines ask `isinstance(self.controlnet, ControlNetModel)`.
        return type(self._call.network)

    def __getattr__(self, name: str) -> object:
        return getattr(self._call.network, name)


class _SharedNetwork(_Proxy):
    def __call__(self, *arguments: object, **keywords: object) -> object:
        call = replace(self._call, arguments=arguments, keywords=keywords)
        if not call.has_rows:
            call = replace(call, owner=call, num_fixed_rows=None)
        if keywords.get("return_dict", True):
            return call.run()  # an output object cannot be split; diffusers' own pipelines ask for tuples
        hash(call.group)  # raised here, what keeps it from being grouped is the sample's own error
        return park(call)


class _SharedDecoder(_Proxy):
    def decode(self, latents: torch.Tensor, return_dict: bool = True, generator: object = None) -> object:
        """`AutoencoderKL.decode`, which takes a generator for the sake of other VAEs and draws nothing from it."""
        call = replace(self._call, arguments=(latents,), keywords={"return_dict": return_dict})
        return call.run() if return_dict else park(call)
