"""The UNet and the text encoder, trained together to predict v (Salimans & Ho, arXiv:2202.00512, appendix D)."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from train_shapes.captions import vocabulary
from train_shapes.latents import SIZES, LatentBucket, encode_training_pictures
from train_shapes.tokenizer import create_tokenizer
from train_shapes.training import Loss, Plan, Training

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
#: Share of the pictures that are shown exaggerated: see `exaggerated`.
EXAGGERATED_PICTURES = 0.3
#: Steps of the second stage without exaggeration; from then on, the share of the 128 px pictures, and the share of the
#: timesteps that are drawn from the noisiest, where nothing but the caption tells the shape: it is learned last.
PLAIN_STEPS = 2_760
BASE_PICTURES = 0.75
NOISY_TIMESTEPS = 0.5
NOISIEST = 600
#: In the third stage, the greatest guidance, and the share of the pictures that have none.
GREATEST_GUIDANCE = 9.0
UNGUIDED_PICTURES = 0.3
#: The trained weights are a mean of the second stage's and the third's, with this share of the third's. The second's
#: are best at a guidance of 3 and useless at 7.5, the third's the other way round; in between, both do.
GUIDED_WEIGHTS = 0.65
#: In the fourth stage, the guidance at which the network says what the caption says, no more and no less.
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
    work_dir: Path, device: torch.device, *, num_steps: tuple[int, int, int, int], num_pictures: int, seed: int
) -> None:
    """Trains on what the VAE in `work_dir` makes of `num_pictures` pictures; leaves networks and tokenizer there.

    Of its four stages, the first learns colours and places; the second, most of all from the noisiest timesteps, the
    shapes; the third, high guidance. The mean of the last two does both. From there the fourth trains u + g * (c - u)
    in the place of c, where u and c are the predictions without and with the caption and g is `NEUTRAL_GUIDANCE`: c
    then says a third of what the caption adds, and the customary guidance of 7.5 does what 2.5 would.
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

    def loss_of(
        size: tuple[int, int],
        rng: random.Random,
        *,
        timesteps_from: float,
        exaggerate: bool,
        guidance: Callable[[int], torch.Tensor] | None = None,
    ) -> torch.Tensor:
        num_rows = max(2, BATCH_SIZE * 128 * 128 // (size[0] * size[1]))
        num_pictures = num_rows // 2 if guidance else num_rows
        latents, captions = _batch(buckets[size], rng, num_pictures, empty_captions=0 if guidance else EMPTY_CAPTIONS)
        latents = latents.to(device)
        least = NOISIEST * (torch.rand(num_pictures) < timesteps_from)
        timesteps = (least + torch.rand(num_pictures) * (len(signal_share) - least)).long().to(device)
        alpha = signal_share[timesteps].sqrt()[:, None, None, None]
        sigma = (1 - signal_share[timesteps]).sqrt()[:, None, None, None]
        shown = exaggerated(latents, sigma) if exaggerate else latents
        noisy = alpha * shown + sigma * torch.randn_like(latents)
        # v of the true latents, as seen from the noisy ones: alpha * noisy - sigma * v is always `latents`.
        target = (alpha * noisy - latents) / sigma
        if guidance:
            captions = [""] * num_pictures + captions
            noisy, timesteps = torch.cat([noisy, noisy]), torch.cat([timesteps, timesteps])
        predicted = unet(noisy, timesteps, encoded(captions)).sample
        if not guidance:
            return (predicted - target).square().mean()
        unconditional, conditional = predicted.chunk(2)
        predicted = unconditional + guidance(num_pictures).to(device) * (conditional - unconditional)
        loss_without = (unconditional - target).square().mean() if guidance is _neutral_guidance else 0.0
        return (predicted - target).square().mean() + EMPTY_CAPTIONS * loss_without

    def first_loss(step: int, rng: random.Random) -> torch.Tensor:
        return loss_of(rng.choices(list(SIZES), list(SIZES.values()))[0], rng, timesteps_from=0, exaggerate=True)

    def second_loss(step: int, rng: random.Random) -> torch.Tensor:
        exaggerate = step >= PLAIN_STEPS
        return loss_of(_later_size(rng), rng, timesteps_from=NOISY_TIMESTEPS, exaggerate=exaggerate)

    def third_loss(step: int, rng: random.Random) -> torch.Tensor:
        size = _later_size(rng)
        return loss_of(size, rng, timesteps_from=NOISY_TIMESTEPS, exaggerate=True, guidance=_random_guidance)

    def fourth_loss(step: int, rng: random.Random) -> torch.Tensor:
        size = rng.choices(list(SIZES), list(SIZES.values()))[0]
        return loss_of(size, rng, timesteps_from=NOISY_TIMESTEPS, exaggerate=False, guidance=_neutral_guidance)

    networks = torch.nn.ModuleDict({"unet": unet, "text_encoder": text_encoder})

    def train(name: str, number: int, loss: Loss, learning_rate: float, cosine_steps: int | None = None) -> None:
        plan = Plan(name, seed + number, num_steps[number], learning_rate, cosine_steps=cosine_steps)
        Training(plan, dict(networks.items()), work_dir).run(loss)

    train("diffusion", 0, first_loss, 1.2e-3, cosine_steps=8_000)
    train("diffusion-second", 1, second_loss, 1e-3, cosine_steps=4_600)
    unguided = [weight.detach().clone() for weight in networks.parameters()]
    train("diffusion-third", 2, third_loss, 8e-4)
    with torch.no_grad():
        for weight, other in zip(networks.parameters(), unguided, strict=True):
            weight.lerp_(other, 1 - GUIDED_WEIGHTS)
    train("diffusion-fourth", 3, fourth_loss, 6e-4)
    unet.save_pretrained(work_dir / "unet")
    text_encoder.save_pretrained(work_dir / "text_encoder")
    tokenizer.save_pretrained(work_dir / "tokenizer")


def exaggerated(latents: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Some of the latents with too much contrast, the more the noisier they are going to be (`sigma`).

    High guidance adds the prompt's effect several times over, so that half-way pictures have more contrast than any
    picture that was trained on; a network that never saw such ones drives them further away. This one learns to lead
    them back, with and without a caption.
    """
    num_pictures = len(latents)
    means = latents.mean(dim=(0, 2, 3), keepdim=True)
    contrast = latents - means
    smooth = torch.nn.functional.avg_pool2d(contrast, 3, stride=1, padding=1, count_include_pad=False)
    per_picture = (num_pictures, 1, 1, 1)
    chosen = torch.rand(per_picture, device=latents.device) < EXAGGERATED_PICTURES
    excess = 1.2 * sigma * torch.randn(per_picture, device=latents.device).abs() * chosen
    # Early in the denoising the prompt's effect is a blur, later it is the shape.
    is_smooth = torch.rand(per_picture, device=latents.device) < 0.5
    return latents + excess * torch.where(is_smooth, smooth, contrast)


def _later_size(rng: random.Random) -> tuple[int, int]:
    return (128, 128) if rng.random() < BASE_PICTURES else rng.choice(list(SIZES))


def _neutral_guidance(num_pictures: int) -> torch.Tensor:
    return torch.full((num_pictures, 1, 1, 1), NEUTRAL_GUIDANCE)


def _random_guidance(num_pictures: int) -> torch.Tensor:
    """A guidance scale for each picture.

    What guidance will make of two predictions is trained, and not the one with the caption alone: so the two keep so
    near to each other that high guidance does not overshoot. Low guidance is then too weak: see `GUIDED_WEIGHTS`.
    """
    scales = 1 + (GREATEST_GUIDANCE - 1) * torch.rand(num_pictures, 1, 1, 1)
    unguided = torch.rand(num_pictures, 1, 1, 1) < UNGUIDED_PICTURES
    return torch.where(unguided, torch.ones(()), scales)


def _batch(
    bucket: LatentBucket, rng: random.Random, num_pictures: int, empty_captions: float
) -> tuple[torch.Tensor, list[str]]:
    chosen = rng.choices(range(len(bucket.captions)), k=num_pictures)
    means, deviations = bucket.means[chosen].float(), bucket.deviations[chosen].float()
    captions = ["" if rng.random() < empty_captions else bucket.captions[number] for number in chosen]
    return means + deviations * torch.randn_like(means), captions
