"""A Stable Diffusion 1.x pipeline of middle size with random weights, which cost a pass what trained ones would."""

from __future__ import annotations

import shutil
from importlib import import_module
from pathlib import Path

import torch

diffusers = import_module("diffusers")


def save_mid_model(directory: Path) -> Path:
    """The bundled model with a UNet of 92 million parameters in the place of its own."""
    shutil.copytree("models/shapes", directory)
    torch.manual_seed(0)
    text_dim = diffusers.UNet2DConditionModel.load_config("models/shapes", subfolder="unet")["cross_attention_dim"]
    unet = diffusers.UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=text_dim,
        attention_head_dim=8,
    )
    shutil.rmtree(directory / "unet")
    unet.save_pretrained(directory / "unet")
    return directory
