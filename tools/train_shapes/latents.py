"""The pictures that the UNet is trained on, as latents: encoded once, by the trained VAE."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from tqdm import tqdm

from train_shapes.captions import training_caption
from train_shapes.pictures import draw_batch
from train_shapes.scenes import training_scenes

#: Width and height in pixels, and the share of the training steps. Sides that are no multiple of 32 pass through the
#: UNet's own padding, so some are here.
SIZES: dict[tuple[int, int], float] = {
    (128, 128): 0.55,
    (136, 136): 0.03,
    (152, 152): 0.03,
    (160, 160): 0.04,
    (192, 192): 0.09,
    (224, 224): 0.05,
    (256, 256): 0.2,
    (128, 192): 0.02,
    (192, 128): 0.02,
    (128, 256): 0.02,
    (256, 128): 0.02,
    (168, 200): 0.02,
    (256, 192): 0.02,
}
#: Pictures of a size other than 128 px, in parts of those of 128 px and of the size's share of the steps: they cost
#: more, and their shapes are the same.
LARGE_SHARE = 1 / 4
LEAST_PICTURES = 4
BATCH_SIZE = 16


@dataclass(frozen=True)
class LatentBucket:
    """Pictures of one size: means and deviations of their posteriors, (n, 4, h, w) each, and their captions."""

    means: torch.Tensor
    deviations: torch.Tensor
    captions: list[str]


def encode_training_pictures(
    vae: AutoencoderKL, path: Path, device: torch.device, *, num_pictures: int, seed: int
) -> dict[tuple[int, int], LatentBucket]:
    """`num_pictures` of 128 px, and some of every other size, kept at `path`."""
    if not path.exists():
        buckets = dict(_encoded(vae, device, num_pictures, seed))
        torch.save({size: vars(bucket) for size, bucket in buckets.items()}, path)
    stored = torch.load(path, weights_only=True)
    return {size: LatentBucket(**fields) for size, fields in stored.items()}


@torch.inference_mode()
def _encoded(
    vae: AutoencoderKL, device: torch.device, num_pictures: int, seed: int
) -> Iterator[tuple[tuple[int, int], LatentBucket]]:
    for width, height in tqdm(SIZES, desc="latents"):
        rng = random.Random(f"{seed} {width} {height}")
        scenes = training_scenes(rng)
        share = 1 if (width, height) == (128, 128) else LARGE_SHARE * SIZES[width, height]
        num_left = max(LEAST_PICTURES, round(num_pictures * share))
        means, deviations, captions = [], [], []
        while num_left > 0:
            drawings, pictures = draw_batch(scenes, rng, min(BATCH_SIZE, num_left), width, height)
            num_left -= len(drawings)
            pictures = pictures.to(device, memory_format=torch.channels_last)
            posterior = vae.encode(pictures).latent_dist
            means.append((posterior.mean * vae.config.scaling_factor).half().cpu())
            deviations.append((posterior.std * vae.config.scaling_factor).half().cpu())
            captions += [training_caption(drawing.scene, rng) for drawing in drawings]
        yield (width, height), LatentBucket(torch.cat(means), torch.cat(deviations), captions)
