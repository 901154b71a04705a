"""The UNet and the text encoder, trained together to predict v (Salimans & Ho, arXiv:2202.00512, appendix D)."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from train_shapes.captions import vocabulary
from train_shapes.latents import SIZES, LatentBucket, encode_training_pictures
from train_shapes.tokenizer import create_tokenizer
from train_shapes.training import Plan, Training

NOISE_SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
}
#: Pictures of 128 px in a step; of larger ones as many as have the same area.
BATCH_SIZE = 64
#: Share of the captions that are left empty, so that guidance has something to guide away from.
EMPTY_CAPTIONS = 0.12
#: Share of the timesteps that are drawn from the noisiest, where nothing but the caption tells the shape: it is learned
#: last, and drawn uniformly it takes several times as long.
NOISY_TIMESTEPS = 0.5
NOISIEST = 600
#: The guidance at which the network predicts what the caption says, no more and no less: see `train_diffusion`.
NEUTRAL_GUIDANCE = 3.0


def create_unet() -> UNet2DConditionModel:
    """An untrained UNet of 2.9 million parameters."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(48, 64, 96),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=64,
        attention_head_dim=4,  # the number of heads: diffusers keeps the name of an old mistake
        norm_num_groups=16,
    )


def create_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """An untrained CLIP text model of two layers."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        projection_dim=64,
    )
    text_encoder = CLIPTextModel(config)
    # CLIP's own 0.02 makes words so alike that they take long to tell apart.
    torch.nn.init.normal_(text_encoder.get_input_embeddings().weight, std=0.5)
    return text_encoder


def train_diffusion(
    work_dir: Path, device: torch.device, *, num_steps: tuple[int, int], num_pictures: int, seed: int
) -> None:
    """Trains on what the VAE in `work_dir` makes of `num_pictures` pictures; leaves networks and tokenizer there.

    The first stage trains the predictions with a caption, c, and without one, u. The second trains u + g * (c - u) in
    the place of c, where g is `NEUTRAL_GUIDANCE`: c then says a third of what the caption adds, so that a guidance of 3
    is none, and 7.5, which is customary, is what 2.5 would be. A network this small, on pictures this plain, overshoots
    with more than that, most of all under multistep schedulers (plms).
    """
    vae = AutoencoderKL.from_pretrained(work_dir / "vae").eval().to(device, memory_format=torch.channels_last)
    tokenizer = create_tokenizer(vocabulary())
    buckets = encode_training_pictures(vae, work_dir / "latents.pt", device, num_pictures=num_pictures, seed=seed)
    torch.manual_seed(seed)
    unet = create_unet().to(device)
    text_encoder = create_text_encoder(tokenizer).to(device)
    signal_share = DDPMScheduler(**NOISE_SCHEDULE).alphas_cumprod.to(device)

    def encoded(captions: list[str]) -> torch.Tensor:
        tokens = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
        return text_encoder(tokens.to(device))[0]

    def noisy_pictures(
        rng: random.Random, batch_size: int
    ) -> tuple[torch.Tensor, torch.Tensor, list[str], torch.Tensor]:
        """Noisy latents, their timesteps and captions, and v."""
        size = rng.choices(list(SIZES), list(SIZES.values()))[0]
        num_pictures = max(2, batch_size * 128 * 128 // (size[0] * size[1]))
        latents, captions = _batch(buckets[size], rng, num_pictures)
        latents = latents.to(device)
        least = NOISIEST * (torch.rand(num_pictures) < NOISY_TIMESTEPS)
        timesteps = (least + torch.rand(num_pictures) * (len(signal_share) - least)).long().to(device)
        alpha = signal_share[timesteps].sqrt()[:, None, None, None]
        sigma = (1 - signal_share[timesteps]).sqrt()[:, None, None, None]
        noise = torch.randn_like(latents)
        return alpha * latents + sigma * noise, timesteps, captions, alpha * noise - sigma * latents

    def loss(step: int, rng: random.Random) -> torch.Tensor:
        noisy, timesteps, captions, velocity = noisy_pictures(rng, BATCH_SIZE)
        said = ["" if rng.random() < EMPTY_CAPTIONS else caption for caption in captions]
        return (unet(noisy, timesteps, encoded(said)).sample - velocity).square().mean()

    def guided_loss(step: int, rng: random.Random) -> torch.Tensor:
        noisy, timesteps, captions, velocity = noisy_pictures(rng, BATCH_SIZE // 2)
        both = encoded([""] * len(captions) + captions)
        predicted = unet(torch.cat([noisy, noisy]), torch.cat([timesteps, timesteps]), both).sample
        without, with_caption = predicted.chunk(2)
        guided = without + NEUTRAL_GUIDANCE * (with_caption - without)
        return (guided - velocity).square().mean() + EMPTY_CAPTIONS * (without - velocity).square().mean()

    networks: dict[str, torch.nn.Module] = {"unet": unet, "text_encoder": text_encoder}
    Training(Plan("diffusion", seed, num_steps[0], learning_rate=1.2e-3), networks, work_dir).run(loss)
    Training(Plan("diffusion-guided", seed + 1, num_steps[1], learning_rate=4e-4), networks, work_dir).run(guided_loss)
    unet.save_pretrained(work_dir / "unet")
    text_encoder.save_pretrained(work_dir / "text_encoder")
    tokenizer.save_pretrained(work_dir / "tokenizer")


def _batch(bucket: LatentBucket, rng: random.Random, num_pictures: int) -> tuple[torch.Tensor, list[str]]:
    chosen = rng.choices(range(len(bucket.captions)), k=num_pictures)
    means, deviations = bucket.means[chosen].float(), bucket.deviations[chosen].float()
    return means + deviations * torch.randn_like(means), [bucket.captions[number] for number in chosen]
