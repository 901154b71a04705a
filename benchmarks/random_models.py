"""Stable Diffusion 1.x pipelines with random weights, which cost a pass what trained ones of their size would."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch

diffusers = import_module("diffusers")


@dataclass(frozen=True)
class UNetSize:
    """Of a UNet, and the side of the pictures, in pixels, that it is measured at."""

    name: str
    channels: tuple[int, int, int, int]
    layers_per_block: int
    side: int


#: 92 million parameters: a CPU's.
MID = UNetSize("mid", (128, 256, 512, 512), 1, side=128)
#: That of Stable Diffusion 1.5, but for its smaller text embeddings: a GPU's.
SD_1_5 = UNetSize("SD 1.5 size", (320, 640, 1280, 1280), 2, side=512)


def save_random_model(directory: Path, size: UNetSize) -> Path:
    """The bundled model with a UNet of this size in the place of its own."""
    shutil.copytree("models/shapes", directory)
    torch.manual_seed(0)
    text_dim = diffusers.UNet2DConditionModel.load_config("models/shapes", subfolder="unet")["cross_attention_dim"]
    unet = diffusers.UNet2DConditionModel(
        sample_size=size.side // 8,
        in_channels=4,
        out_channels=4,
        layers_per_block=size.layers_per_block,
        block_out_channels=size.channels,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=text_dim,
        attention_head_dim=8,
    )
    shutil.rmtree(directory / "unet")
    unet.save_pretrained(directory / "unet")
    return directory
