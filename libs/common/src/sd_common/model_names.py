"""Model names, and model keys: a model name made safe for a NATS subject."""

from __future__ import annotations

import hashlib
import re

from pydantic_core import PydanticCustomError

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
#: `name` is a directory below MODEL_DIR, `owner/name` a hub repository. Neither can climb out of a directory.
_MODEL_NAME = re.compile(rf"{_PART}(?:/{_PART})?")
_NOT_IN_A_SLUG = re.compile(r"[^A-Za-z0-9_]+")
_MAX_SLUG_CHARS = 40

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
    """The subject token of a model: a readable slug, a dash, and 8 hex digits of the name's SHA-256.

    Two names never share a key by their slug alone: `a/b` and `a.b` differ in their digits.
    """
    slug = _NOT_IN_A_SLUG.sub("-", name).strip("-")[:_MAX_SLUG_CHARS]
    return f"{slug}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
