"""Diffusers pipelines with tiny random weights, one of each family, saved as safetensors.

Each takes well under a second to make, and makes a 64 × 64 picture in a few hundredths of one. The seed is fixed: the
same function gives the same weights. The schedulers' configurations are those of the real models on the hub.
"""

from __future__ import annotations

import itertools
import string
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch

#: Untyped, and mypy does not see through their lazy imports.
diffusers = import_module("diffusers")
transformers = import_module("transformers")

SafetyVerdict = Literal["flags all", "flags none"]

_SEED = 0
_WORDS = ["a", "red", "green", "blue", "circle", "square", "on", "the", "picture", "of", "background"]
_TEXT_DIM = 32
_NUM_HEADS = 4
_CHECKER_SIDE_PX = 32
_NOISE_SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def save_sd1(directory: Path, *, safety_checker: SafetyVerdict | None = None) -> Path:
    """Stable Diffusion 1.x: 4 channels, predicts the noise."""
    return _save_sd(directory, diffusers.StableDiffusionPipeline, _unet(in_channels=4), _pndm(), safety_checker)


def save_sd1_inpainting(directory: Path) -> Path:
    """Stable Diffusion 1.x inpainting: 9 channels."""
    return _save_sd(directory, diffusers.StableDiffusionInpaintPipeline, _unet(in_channels=9), _pndm(), None)


def save_sd2(directory: Path) -> Path:
    """Stable Diffusion 2.x: predicts the velocity."""
    scheduler = diffusers.DDIMScheduler(
        **_NOISE_SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1, prediction_type="v_prediction"
    )
    scheduler.register_to_config(skip_prk_steps=True)
    unet = _unet(in_channels=4, use_linear_projection=True)
    return _save_sd(directory, diffusers.StableDiffusionPipeline, unet, scheduler, None)


def save_sdxl(directory: Path) -> Path:
    """Stable Diffusion XL: two text encoders, conditions on sizes."""
    torch.manual_seed(_SEED)
    tokenizer = _tokenizer()
    embedded_sizes_dim = 8
    unet = _unet(
        in_channels=4,
        cross_attention_dim=2 * _TEXT_DIM,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=embedded_sizes_dim,
        projection_class_embeddings_input_dim=6 * embedded_sizes_dim + _TEXT_DIM,
    )
    scheduler = diffusers.EulerDiscreteScheduler(**_NOISE_SCHEDULE, steps_offset=1, timestep_spacing="leading")
    scheduler.register_to_config(clip_sample=False, set_alpha_to_one=False, skip_prk_steps=True)
    diffusers.StableDiffusionXLPipeline(
        vae=_vae(),
        text_encoder=transformers.CLIPTextModel(_text_config(tokenizer)),
        text_encoder_2=transformers.CLIPTextModelWithProjection(_text_config(tokenizer)),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=scheduler,
        add_watermarker=False,
    ).save_pretrained(directory)
    return directory


def _save_sd(
    directory: Path,
    pipeline_class: Any,
    unet: torch.nn.Module,
    scheduler: Any,
    safety_checker: SafetyVerdict | None,
) -> Path:
    tokenizer = _tokenizer()
    feature_extractor = transformers.CLIPImageProcessor(
        size={"shortest_edge": _CHECKER_SIDE_PX}, crop_size=_CHECKER_SIDE_PX
    )
    pipeline_class(
        vae=_vae(),
        text_encoder=transformers.CLIPTextModel(_text_config(tokenizer)),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None if safety_checker is None else _safety_checker(safety_checker),
        feature_extractor=None if safety_checker is None else feature_extractor,
        requires_safety_checker=safety_checker is not None,
    ).save_pretrained(directory)
    return directory


def _unet(*, in_channels: int, cross_attention_dim: int = _TEXT_DIM, **options: object) -> Any:
    torch.manual_seed(_SEED)
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=in_channels,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=cross_attention_dim,
        attention_head_dim=_NUM_HEADS,
        norm_num_groups=8,
        **options,
    )


def _vae() -> Any:
    torch.manual_seed(_SEED)
    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
    )


def _text_config(tokenizer: Any) -> Any:
    torch.manual_seed(_SEED)
    return transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=_TEXT_DIM,
        intermediate_size=2 * _TEXT_DIM,
        num_hidden_layers=2,
        num_attention_heads=_NUM_HEADS,
        max_position_embeddings=77,
        projection_dim=_TEXT_DIM,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _pndm() -> Any:
    scheduler = diffusers.PNDMScheduler(**_NOISE_SCHEDULE, set_alpha_to_one=False, skip_prk_steps=True, steps_offset=1)
    # As in the hub's files: PNDM has no such option, but what is made from its configuration may.
    scheduler.register_to_config(clip_sample=False)
    return scheduler


def _safety_checker(verdict: SafetyVerdict) -> Any:
    torch.manual_seed(_SEED)
    vision = transformers.CLIPVisionConfig(
        hidden_size=_TEXT_DIM,
        intermediate_size=_TEXT_DIM,
        num_hidden_layers=1,
        num_attention_heads=_NUM_HEADS,
        image_size=_CHECKER_SIDE_PX,
        patch_size=16,
        projection_dim=_TEXT_DIM,
    )
    config = transformers.CLIPConfig(vision_config=vision.to_dict(), projection_dim=_TEXT_DIM)
    checker: Any = diffusers.pipelines.stable_diffusion.StableDiffusionSafetyChecker(config)
    # The thresholds that cosine similarities, -1 to 1, are compared with.
    threshold = -2.0 if verdict == "flags all" else 2.0
    checker.concept_embeds_weights.data.fill_(threshold)
    checker.special_care_embeds_weights.data.fill_(threshold)
    return checker


def _tokenizer() -> Any:
    """A byte-pair tokenizer that knows `_WORDS`, and spells everything else in printable ASCII."""
    characters = string.digits + string.ascii_lowercase + string.punctuation
    tokens = [*characters, *(f"{character}</w>" for character in characters)]
    spellings = [[*word[:-1], f"{word[-1]}</w>"] for word in _WORDS]
    merges: list[tuple[str, str]] = []
    while pairs := Counter(pair for spelling in spellings for pair in itertools.pairwise(spelling)):
        first, second = max(sorted(pairs), key=pairs.__getitem__)
        merges.append((first, second))
        tokens.append(first + second)
        spellings = [_merged(spelling, first, second) for spelling in spellings]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)


def _merged(spelling: list[str], first: str, second: str) -> list[str]:
    merged: list[str] = []
    for token in spelling:
        if merged and merged[-1] == first and token == second:
            merged[-1] = first + second
        else:
            merged.append(token)
    return merged
