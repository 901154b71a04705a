"""The VAE: pictures to latents of an eighth of their sides, and back with sharp edges."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from train_shapes.pictures import draw_batch
from train_shapes.scenes import training_scenes
from train_shapes.training import Plan, Training

#: Sides in pixels of the whole pictures that training ends with; the VAE's norms see the whole picture.
WHOLE_SIDES = (128, 128, 160, 192, 256)
CROP_SIDE = 64
#: Weight of the KL divergence: small, as in the VAEs of Stable Diffusion, to keep detail.
KL_WEIGHT = 1e-5


def create_vae() -> AutoencoderKL:
    """An untrained VAE: factor 8, 4 latent channels, no attention, so that its cost grows with the area only."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=(16, 32, 64, 96),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=128,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )


def train_vae(work_dir: Path, device: torch.device, *, num_crop_steps: int, num_whole_steps: int, seed: int) -> None:
    """Trains on crops, which is cheap and shows many edges, then on whole pictures of several sizes."""
    vae = create_vae().to(device, memory_format=torch.channels_last)

    def loss_of(pictures: torch.Tensor) -> torch.Tensor:
        pictures = pictures.to(device, memory_format=torch.channels_last)
        posterior = vae.encode(pictures).latent_dist
        latents = posterior.sample()
        decoded = vae.decode(latents).sample
        error = decoded - pictures
        # L1, not squared: where an edge is uncertain its optimum is the median, an edge, and not the mean, a blur.
        # The error's own differences weigh the edges once more.
        edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        kl = posterior.kl().mean() / latents[0].numel()
        return error.abs().mean() + edges + KL_WEIGHT * kl

    def loss_of_crops(step: int, rng: random.Random) -> torch.Tensor:
        _, pictures = draw_batch(training_scenes(rng), rng, 8, 128, 128)
        left, top = rng.randrange(128 - CROP_SIDE + 1), rng.randrange(128 - CROP_SIDE + 1)
        return loss_of(pictures[:, :, top : top + CROP_SIDE, left : left + CROP_SIDE])

    def loss_of_whole_pictures(step: int, rng: random.Random) -> torch.Tensor:
        width, height = rng.choice(WHOLE_SIDES), rng.choice(WHOLE_SIDES)
        num_pictures = max(1, 4 * 128 * 128 // (width * height))
        return loss_of(draw_batch(training_scenes(rng), rng, num_pictures, width, height)[1])

    crops = Plan("vae-crops", seed, num_crop_steps, learning_rate=1e-3, betas=(0.9, 0.95), weight_decay=1e-4)
    Training(crops, {"vae": vae}, work_dir).run(loss_of_crops)
    whole = Plan("vae-whole", seed + 1, num_whole_steps, learning_rate=4e-4, betas=(0.9, 0.95), weight_decay=1e-4)
    Training(whole, {"vae": vae}, work_dir).run(loss_of_whole_pictures)

    vae.register_to_config(scaling_factor=_scaling_factor(vae, device, seed))
    vae.save_pretrained(work_dir / "vae")


@torch.inference_mode()
def _scaling_factor(vae: AutoencoderKL, device: torch.device, seed: int) -> float:
    """What latents are multiplied with to have a standard deviation of 1."""
    rng = random.Random(seed)
    scenes = training_scenes(rng)
    batches = (draw_batch(scenes, rng, 16, 128, 128)[1].to(device) for _ in range(16))
    latents = torch.cat([vae.encode(batch).latent_dist.sample() for batch in batches])
    return round(1 / latents.std().item(), 5)
