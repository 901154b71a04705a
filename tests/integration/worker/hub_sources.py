"""Sources of models that have only the hub."""

from __future__ import annotations

import pytest
import torch

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
