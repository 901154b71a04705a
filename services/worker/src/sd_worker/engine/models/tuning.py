"""What makes a model faster or smaller, and is off unless asked for: each changes how numbers are rounded, or costs
time at the start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from sd_worker.engine.diffusers_api import Pipeline

#: Graphs of one network: of each size of pictures, one for each count of rows that passes are padded to. Beyond that a
#: new size runs uncompiled.
_MOST_GRAPHS = 256

AttentionBackend = Literal["auto", "flash", "efficient", "cudnn", "math"]


@dataclass(frozen=True)
class Tuning:
    """`channels_last`: the memory format of UNet and VAE. `compiles`: the denoising network goes through
    `torch.compile`, once for each number of rows. `tiles_vae`: large pictures are decoded in tiles, which takes less
    memory and may show seams."""

    channels_last: bool = False
    compiles: bool = False
    tiles_vae: bool = False


def tune(pipeline: Pipeline, tuning: Tuning) -> None:
    """Change a pipeline that was just loaded."""
    parts = {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
    if tuning.channels_last:
        for name in parts.keys() & {"unet", "vae"}:
            parts[name].to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    if tuning.tiles_vae and callable(enable_tiling := getattr(parts.get("vae"), "enable_tiling", None)):
        enable_tiling()
    if tuning.compiles:
        for name in parts.keys() & {"unet", "transformer", "controlnet"}:
            parts[name].compile(dynamic=False)


def raise_recompile_limit() -> None:
    """Let this thread compile a network for more than the 8 shapes of torch's default, after which others run as they
    are. torch keeps its configuration for each thread."""
    config = torch._dynamo.config
    if config.recompile_limit < _MOST_GRAPHS:
        config.recompile_limit = _MOST_GRAPHS
        # Of all networks of one class together.
        config.accumulated_recompile_limit = 8 * _MOST_GRAPHS


def choose_attention(backend: AttentionBackend) -> None:
    """Restrict torch's scaled dot-product attention, in this process, to one implementation; `auto`: torch chooses."""
    if backend == "auto":
        return
    torch.backends.cuda.enable_flash_sdp(backend == "flash")
    torch.backends.cuda.enable_mem_efficient_sdp(backend == "efficient")
    torch.backends.cuda.enable_cudnn_sdp(backend == "cudnn")
    # What the chosen one cannot do, such as a mask, falls back to it.
    torch.backends.cuda.enable_math_sdp(True)
