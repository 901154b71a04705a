"""Model names, and model keys: a model name made safe for a NATS subject."""

from __future__ import annotations

import re

from pydantic_core import PydanticCustomError

from sd_common.keys import key_of_name

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
#: `name` is a directory below MODEL_DIR, `owner/name` a hub repository. Neither can climb out of a directory.
_MODEL_NAME = re.compile(rf"{_PART}(?:/{_PART})?")

#: Repositories that were taken off the hub, and where their weights live now.
_ALIASES = {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "runwayml/stable-diffusion-inpainting": "stable-diffusion-v1-5/stable-diffusion-inpainting",
}


def check_model_name(name: str) -> str:
    """Return `name`, or raise a validation error that says what a model name looks like."""
    if not _MODEL_NAME.fullmatch(name) or ".." in name or "--" in name:
        raise PydanticCustomError(
            "model_name",
            "must be a repository id on the hub such as 'CompVis/stable-diffusion-v1-4', "
            "or the name of a directory of models such as 'shapes'",
        )
    return name


def canonical_model_name(name: str) -> str:
    """The name that `name` stands for today."""
    return _ALIASES.get(name, name)


def model_key(name: str) -> str:
    """The subject token of a model."""
    return key_of_name(name)
