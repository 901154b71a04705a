"""Of a model's files, those that its pipeline needs are chosen."""

from __future__ import annotations

import pytest

from sd_worker.engine.errors import ModelUnavailable
from sd_worker.engine.models.model_files import NeededFiles, needed_files

_INDEX: dict[str, object] = {
    "_class_name": "FluxPipeline",
    "_diffusers_version": "0.30.0",
    "_name_or_path": "owner/name",
    "force_zeros_for_empty_prompt": True,
    "image_encoder": [None, None],
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "tokenizer": ["transformers", "T5TokenizerFast"],
    "transformer": ["diffusers", "FluxTransformer2DModel"],
}
_SMALL = ("model_index.json", "scheduler/scheduler_config.json", "tokenizer/spiece.model", "transformer/config.json")
_TRANSFORMER = "transformer/diffusion_pytorch_model"
_PLAIN = (
    f"{_TRANSFORMER}-00001-of-00002.safetensors",
    f"{_TRANSFORMER}-00002-of-00002.safetensors",
    f"{_TRANSFORMER}.safetensors.index.json",
)
_FP16 = (
    f"{_TRANSFORMER}.fp16-00001-of-00002.safetensors",
    f"{_TRANSFORMER}.fp16-00002-of-00002.safetensors",
    f"{_TRANSFORMER}.safetensors.index.fp16.json",
)
_UNNEEDED = (
    ".gitattributes",
    "README.md",
    "flux1-dev.safetensors",
    "pipeline.py",
    "image_encoder/model.safetensors",
    "tokenizer/tokenize.py",
    "transformer/deep/diffusion_pytorch_model.safetensors",
    "transformer/diffusion_pytorch_model.bf16.safetensors",
    "transformer/diffusion_pytorch_model.bin",
    "transformer/diffusion_pytorch_model.bin.index.json",
    "transformer/diffusion_pytorch_model.non_ema.safetensors",
    "transformer/model.onnx",
)


def needed(*paths: str, prefer_fp16: bool = False) -> NeededFiles:
    return needed_files("owner/name", _INDEX, paths, prefer_fp16=prefer_fp16)


@pytest.mark.parametrize(
    ("there", "prefer_fp16", "taken", "variant"),
    [
        (_PLAIN, False, _PLAIN, None),
        (_PLAIN, True, _PLAIN, None),
        (_PLAIN + _FP16, False, _PLAIN, None),
        (_PLAIN + _FP16, True, _FP16, "fp16"),
        (_FP16, False, _FP16, "fp16"),
    ],
)
def test_shards_of_one_number_format_are_taken_with_their_index(
    there: tuple[str, ...], prefer_fp16: bool, taken: tuple[str, ...], variant: str | None
) -> None:
    files = needed(*_SMALL, *there, *_UNNEEDED, prefer_fp16=prefer_fp16)

    assert set(files.paths) == {*_SMALL, *taken}
    assert files.variant == variant


def test_the_models_own_defaults_are_taken() -> None:
    assert "default_parameters.json" in needed(*_SMALL, *_PLAIN, "default_parameters.json").paths


@pytest.mark.parametrize("pickle", ["bin", "ckpt", "pt", "msgpack", "onnx", "h5"])
def test_a_part_without_safetensors_is_refused(pickle: str) -> None:
    with pytest.raises(ModelUnavailable, match="has parts without safetensors weights"):
        needed(*_SMALL, f"{_TRANSFORMER}.{pickle}")


def test_a_part_that_is_not_there_is_named() -> None:
    with pytest.raises(ModelUnavailable, match="lacks its part 'tokenizer'"):
        needed(*(path for path in _SMALL if not path.startswith("tokenizer/")), *_PLAIN)


def test_a_class_that_comes_with_the_model_is_refused() -> None:
    with pytest.raises(ModelUnavailable, match="needs code of its own, which is never run"):
        needed(*_SMALL, *_PLAIN, "transformer/diffusers.py")
