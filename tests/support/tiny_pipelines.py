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
_VAE_OF_FLOW_MATCHING: dict[str, Any] = {
    "latent_channels": 16,
    "scaling_factor": 1.5305,
    "shift_factor": 0.0609,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}


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


def save_lcm(directory: Path) -> Path:
    """A latent consistency model: its UNet is told the guidance."""
    unet = _unet(in_channels=4, time_cond_proj_dim=8)
    scheduler = diffusers.LCMScheduler(**_NOISE_SCHEDULE, clip_sample=False, set_alpha_to_one=True)
    return _save_sd(directory, diffusers.LatentConsistencyModelPipeline, unet, scheduler, None)


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


def save_sd3(directory: Path) -> Path:
    """Stable Diffusion 3: a transformer over 16 channels, flow matching; prompts of two CLIPs and T5."""
    torch.manual_seed(_SEED)
    tokenizer = _tokenizer()
    tokenizer_3 = _t5_tokenizer()
    diffusers.StableDiffusion3Pipeline(
        vae=_vae(**_VAE_OF_FLOW_MATCHING),
        text_encoder=transformers.CLIPTextModelWithProjection(_text_config(tokenizer)),
        text_encoder_2=transformers.CLIPTextModelWithProjection(_text_config(tokenizer)),
        text_encoder_3=_t5(tokenizer_3, 2 * _TEXT_DIM),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        tokenizer_3=tokenizer_3,
        transformer=diffusers.SD3Transformer2DModel(
            sample_size=8,
            in_channels=16,
            out_channels=16,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            caption_projection_dim=2 * 16,
            joint_attention_dim=2 * _TEXT_DIM,
            pooled_projection_dim=2 * _TEXT_DIM,
            pos_embed_max_size=16,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    ).save_pretrained(directory)
    return directory


def save_flux(directory: Path) -> Path:
    """Flux: a transformer over patches of 2 × 2, flow matching; guidance is an input, of CLIP and T5."""
    torch.manual_seed(_SEED)
    tokenizer = _tokenizer()
    tokenizer_2 = _t5_tokenizer()
    diffusers.FluxPipeline(
        vae=_vae(**_VAE_OF_FLOW_MATCHING),
        text_encoder=transformers.CLIPTextModel(_text_config(tokenizer)),
        text_encoder_2=_t5(tokenizer_2, _TEXT_DIM),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        transformer=diffusers.FluxTransformer2DModel(
            in_channels=4 * 16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=_TEXT_DIM,
            pooled_projection_dim=_TEXT_DIM,
            guidance_embeds=True,
            axes_dims_rope=(4, 6, 6),
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    ).save_pretrained(directory)
    return directory


def save_sd1_controlnet(directory: Path) -> Path:
    """Stable Diffusion 1.x with a ControlNet, whose outputs are not zero as those of one that is to be trained."""
    unet = _unet(in_channels=4)
    controlnet = diffusers.ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 8, 16, 16))
    torch.manual_seed(_SEED)
    for name, parameter in controlnet.named_parameters():
        if name.startswith("controlnet_") and name.endswith("weight"):
            torch.nn.init.kaiming_normal_(parameter)
            parameter.data *= 1.6  # so that the picture does not fade on its way through eight layers
    tokenizer = _tokenizer()
    diffusers.StableDiffusionControlNetPipeline(
        vae=_vae(),
        text_encoder=transformers.CLIPTextModel(_text_config(tokenizer)),
        tokenizer=tokenizer,
        unet=unet,
        controlnet=controlnet,
        scheduler=_pndm(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
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


def _vae(*, latent_channels: int = 4, **options: object) -> Any:
    torch.manual_seed(_SEED)
    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=8,
        sample_size=64,
        **options,
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


def _t5(tokenizer: Any, dim: int) -> Any:
    torch.manual_seed(_SEED)
    config = transformers.T5Config(
        vocab_size=len(tokenizer), d_model=dim, d_kv=8, d_ff=dim, num_layers=1, num_heads=_NUM_HEADS
    )
    return transformers.T5EncoderModel(config)


def _t5_tokenizer() -> Any:
    """A unigram tokenizer that knows `_WORDS`, and spells everything else."""
    pieces = ["<pad>", "</s>", "<unk>", *(f"▁{word}" for word in _WORDS), "▁", *string.ascii_lowercase]
    return transformers.T5TokenizerFast(vocab=[(piece, -float(index)) for index, piece in enumerate(pieces)])


def _merged(spelling: list[str], first: str, second: str) -> list[str]:
    merged: list[str] = []
    for token in spelling:
        if merged and merged[-1] == first and token == second:
            merged[-1] = first + second
        else:
            merged.append(token)
    return merged
