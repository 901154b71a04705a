"""Sources of models that have only the hub, and downloads from it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined] # exported at run time

from sd_worker.engine.errors import ModelUnavailable
from sd_worker.engine.models.model_loading import ModelSource
from support.read_model import read_model

NAME = "owner/tiny"


def source(dtype: torch.dtype = torch.float32, token: str | None = None) -> ModelSource:
    return ModelSource(None, dtype=dtype, token=token)


def reason_of(name: str, token: str | None = None) -> str:
    """The sentence that tells why a model cannot be loaded."""
    with pytest.raises(ModelUnavailable) as caught:
        read_model(source(token=token), name)
    return str(caught.value)


@contextmanager
def held_download(cache: Path, model: Path) -> Iterator[None]:
    """Downloads of `model` as NAME get no further than to its UNet: somebody else seems to download that just now."""
    content = (model / "unet/diffusion_pytorch_model.safetensors").read_bytes()
    locks = cache / ".locks" / f"models--{NAME.replace('/', '--')}"
    locks.mkdir(parents=True)
    with WeakFileLock(locks / f"{hashlib.sha256(content).hexdigest()}.lock"):
        yield
