"""The pictures of `docs/samples.md`, made by the model at its own defaults."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import torch
from diffusers import AutoPipelineForImage2Image, AutoPipelineForInpainting, StableDiffusionPipeline
from PIL import Image, ImageDraw, ImageFont

from sd_common.parameters import SchedulerName
from train_shapes.evaluation import Setting, asked_scenes, load, pictures_of, settings_of

SIDE = 192
GAP = 8
LINE_HEIGHT = 13
LABEL_LINES = 3
LABEL_CHARS = 22

PROMPT = "a big red star on a yellow background"
OTHER_PROMPT = "a big blue heart on a yellow background"


def make_samples(model: Path, images: Path) -> None:
    """Writes the pictures below the directory `images`."""
    pipeline = load(model, torch.device("cpu"))
    own = settings_of(model)[0]
    images.mkdir(parents=True, exist_ok=True)
    for name, page in {
        "samples": _prompts(pipeline, own),
        "guidance": _guidance(pipeline, own),
        "schedulers": _schedulers(pipeline, own),
        "img2img": _strengths(pipeline, own),
        "inpaint": _inpainting(pipeline, own),
    }.items():
        page.save(images / f"{name}.png", optimize=True)


def _prompts(pipeline: StableDiffusionPipeline, own: Setting) -> Image.Image:
    prompts = [prompt for _, prompt in asked_scenes(24)]
    return _page(pictures_of(pipeline, prompts, own), prompts, columns=6)


def _guidance(pipeline: StableDiffusionPipeline, own: Setting) -> Image.Image:
    scales = (1.0, 2.0, 3.0, 5.0, 7.5, 12.0)
    pictures = [pictures_of(pipeline, [PROMPT], replace(own, guidance=scale))[0] for scale in scales]
    return _page(pictures, [f"guidance {scale:g}" for scale in scales], columns=6)


def _schedulers(pipeline: StableDiffusionPipeline, own: Setting) -> Image.Image:
    names = get_args(SchedulerName)
    pictures = [pictures_of(pipeline, [PROMPT], replace(own, scheduler=name))[0] for name in names]
    return _page(pictures, list(names), columns=7)


def _strengths(pipeline: StableDiffusionPipeline, own: Setting) -> Image.Image:
    initial = pictures_of(pipeline, [PROMPT], own)[0]
    img2img = AutoPipelineForImage2Image.from_pipe(pipeline)
    img2img.set_progress_bar_config(disable=True)
    strengths = (0.2, 0.4, 0.6, 0.8, 1.0)
    pictures = [
        img2img(
            OTHER_PROMPT,
            image=initial,
            strength=strength,
            num_inference_steps=own.steps,
            guidance_scale=own.guidance,
            generator=torch.Generator().manual_seed(0),
        ).images[0]
        for strength in strengths
    ]
    return _page(
        [initial, *pictures], ["initial image", *(f"strength {strength}" for strength in strengths)], columns=6
    )


def _inpainting(pipeline: StableDiffusionPipeline, own: Setting) -> Image.Image:
    initial = pictures_of(pipeline, [PROMPT], own)[0]
    mask = Image.new("L", (SIDE, SIDE), 0)
    ImageDraw.Draw(mask).rectangle([SIDE // 2, 0, SIDE, SIDE], fill=255)
    inpaint = AutoPipelineForInpainting.from_pipe(pipeline)
    inpaint.set_progress_bar_config(disable=True)
    painted = inpaint(
        OTHER_PROMPT,
        image=initial,
        mask_image=mask,
        width=SIDE,
        height=SIDE,
        num_inference_steps=own.steps,
        guidance_scale=own.guidance,
        generator=torch.Generator().manual_seed(0),
    ).images[0]
    return _page([initial, mask.convert("RGB"), painted], ["initial image", "mask", OTHER_PROMPT], columns=3)


def _page(pictures: Sequence[Image.Image], labels: Sequence[str], columns: int) -> Image.Image:
    """The pictures in rows, each above its label."""
    wrapped = [textwrap.wrap(label, LABEL_CHARS)[:LABEL_LINES] for label in labels]
    cell_width = SIDE + GAP
    cell_height = SIDE + GAP + LINE_HEIGHT * max(len(lines) for lines in wrapped)
    num_rows = -(-len(pictures) // columns)
    page = Image.new("RGB", (columns * cell_width + GAP, num_rows * cell_height + GAP), "white")
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(size=11)
    for number, (picture, lines) in enumerate(zip(pictures, wrapped, strict=True)):
        left, top = GAP + number % columns * cell_width, GAP + number // columns * cell_height
        page.paste(picture, (left, top))
        for line, text in enumerate(lines):
            draw.text((left, top + SIDE + 1 + line * LINE_HEIGHT), text, fill="#333333", font=font)
    return page
