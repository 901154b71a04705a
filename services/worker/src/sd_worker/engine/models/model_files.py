"""Which of a model's files are needed: configurations, tokenizers, and safetensors weights in one number format."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from sd_worker.engine.errors import ModelUnavailable
from sd_worker.engine.models.default_parameters import DEFAULTS_FILE
from sd_worker.engine.models.model_directory import INDEX_FILE
from sd_worker.engine.models.model_errors import lacks_part, lacks_safetensors, needs_code

#: Of a part: its weights, whole or in shards, and the index of the shards. `diffusion_pytorch_model` is what diffusers
#: calls them, `model` is what transformers does. Other names are not loaded: averaged weights, adapters, other formats.
_WEIGHTS = re.compile(r"(?:diffusion_pytorch_)?model(?P<fp16>\.fp16)?(?:-\d{5}-of-\d{5})?\.safetensors")
_SHARD_INDEX = re.compile(r"(?:diffusion_pytorch_)?model\.safetensors\.index(?P<fp16>\.fp16)?\.json")

#: Of configurations and tokenizers. What else a part holds is not asked for, code and pickles least of all.
_PLAIN_SUFFIXES = {".json", ".txt", ".model", ".jinja", ".bpe", ".tiktoken"}
_OTHER_WEIGHTS = {".bin", ".ckpt", ".h5", ".msgpack", ".onnx", ".pb", ".pt", ".pth"}


@dataclass(frozen=True)
class NeededFiles:
    """Paths below the model's directory, and the variant of the weights to load, as diffusers calls it."""

    paths: tuple[str, ...]
    variant: Literal["fp16"] | None


def needed_files(name: str, index: Mapping[str, object], paths: Collection[str], *, prefer_fp16: bool) -> NeededFiles:
    """The files of model `name` that its `index` asks for, of those at `paths`.

    Weights in float16 are taken where they are preferred and every part has them, and for a part that has no others.
    Raises `ModelUnavailable` for a model that is not loaded here.
    """
    parts = {part: _files_of(part, paths) for part, _ in _parts(index)}
    for part, library in _parts(index):
        if not parts[part]:
            raise ModelUnavailable(lacks_part(name, part))
        if f"{library}.py" in parts[part]:
            raise ModelUnavailable(needs_code(name))
        suffixes = {PurePosixPath(file).suffix for file in parts[part]}
        if suffixes & _OTHER_WEIGHTS and not any(map(_WEIGHTS.fullmatch, parts[part])):
            raise ModelUnavailable(lacks_safetensors(name))
    formats = [formats for files in parts.values() if (formats := _formats(files))]
    all_in_fp16 = prefer_fp16 and bool(formats) and all("fp16" in each for each in formats)
    needed = [path for path in (INDEX_FILE, DEFAULTS_FILE) if path in paths]
    for part, files in parts.items():
        in_fp16 = all_in_fp16 or _formats(files) == {"fp16"}
        needed += [f"{part}/{file}" for file in files if _is_needed(file, in_fp16)]
    has_fp16 = any((match := _WEIGHTS.fullmatch(PurePosixPath(path).name)) and match["fp16"] for path in needed)
    return NeededFiles(tuple(needed), "fp16" if has_fp16 else None)


def _parts(index: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """The parts of the pipeline, each with the library that its class is from."""
    for part, class_of_it in index.items():
        match class_of_it:
            case [str(library), str()] if not part.startswith("_"):
                yield part, library


def _files_of(part: str, paths: Collection[str]) -> list[str]:
    """The files that lie in the directory of a part."""
    return sorted(path.removeprefix(f"{part}/") for path in paths if PurePosixPath(path).parent.as_posix() == part)


def _formats(files: Collection[str]) -> set[str]:
    """The number formats that the weights among `files` are there in; empty for a part without weights."""
    return {"fp16" if match["fp16"] else "plain" for file in files if (match := _WEIGHTS.fullmatch(file))}


def _is_needed(file: str, in_fp16: bool) -> bool:
    if match := _WEIGHTS.fullmatch(file) or _SHARD_INDEX.fullmatch(file):
        return bool(match["fp16"]) is in_fp16
    return PurePosixPath(file).suffix in _PLAIN_SUFFIXES and ".index." not in file
