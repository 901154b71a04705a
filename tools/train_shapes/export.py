"""Puts the trained parts together: a `StableDiffusionPipeline` directory in float16."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPTextModel, CLIPTokenizer

from train_shapes.diffusion import NOISE_SCHEDULE
from train_shapes.safety_checker import create_feature_extractor

#: What tasks get that do not say; the service reads it from the model's directory.
DEFAULT_PARAMETERS = {"width": 192, "height": 192, "steps": 20, "scheduler": "ddim", "guidance": 5.0}


def export(work_dir: Path, model: Path) -> None:
    """Writes the networks in `work_dir` to the directory `model`; leaves its README.md alone."""
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(work_dir / "vae"),
        text_encoder=CLIPTextModel.from_pretrained(work_dir / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(work_dir / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(work_dir / "unet"),
        scheduler=PNDMScheduler(**NOISE_SCHEDULE, skip_prk_steps=True, steps_offset=1, set_alpha_to_one=False),
        safety_checker=StableDiffusionSafetyChecker.from_pretrained(work_dir / "safety_checker"),
        feature_extractor=create_feature_extractor(),
    )
    pipeline.to(dtype=torch.float16).save_pretrained(model)
    for component in ("unet", "vae"):
        _forget_where_it_was(model / component / "config.json")
    _name_feature_extractor(model / "model_index.json")
    for component in ("text_encoder", "safety_checker"):
        _load_as_float32(model / component / "config.json")
    (model / "default_parameters.json").write_text(json.dumps(DEFAULT_PARAMETERS, indent=2) + "\n")


def _forget_where_it_was(config_file: Path) -> None:
    """diffusers notes the directory that a part was loaded from."""
    config = json.loads(config_file.read_text())
    config.pop("_name_or_path", None)
    config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _load_as_float32(config_file: Path) -> None:
    """transformers loads what it wrote in float16 as such, diffusers in float32: without a dtype they would not fit."""
    config = json.loads(config_file.read_text())
    config["dtype"] = "float32"
    config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _name_feature_extractor(model_index: Path) -> None:
    """The name that every version of transformers knows, where one without torchvision wrote its stand-in's."""
    index = json.loads(model_index.read_text())
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    model_index.write_text(json.dumps(index, indent=2) + "\n")
