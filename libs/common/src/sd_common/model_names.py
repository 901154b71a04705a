"""Model names, and model keys: a model name made safe for a NATS subject."""

from __future__ import annotations

import re

from pydantic_core import PydanticCustomError

from sd_common.keys import key_of_name

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
#: A branch, a tag or a commit of a repository; of what git allows, what is safe in a path and in a URL.
_REVISION = rf"{_PART}(?:/{_PART})*"
#: `name` is a directory below MODEL_DIR, `owner/name` a hub repository, `owner/name@revision` that at a revision. None
#: can climb out of a directory.
_MODEL_NAME = re.compile(rf"{_PART}|{_PART}/{_PART}(?:@{_REVISION})?")

#: Repositories that were taken off the hub, and where their weights live now.
_ALIASES = {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "runwayml/stable-diffusion-inpainting": "stable-diffusion-v1-5/stable-diffusion-inpainting",
}


def check_model_name(name: str) -> str:
    """Return `name`, or raise a validation error that says what a model name looks like."""
    if not _MODEL_NAME.fullmatch(name) or ".." in name or "--" in split_revision(name)[0]:
        raise PydanticCustomError(
            "model_name",
            "must be a repository id on the hub such as 'CompVis/stable-diffusion-v1-4', with '@' and a revision where "
            "it is not the newest, or the name of a directory of models such as 'shapes'",
        )
    return name


def split_revision(name: str) -> tuple[str, str | None]:
    """A model name without its revision, and the revision, if it carries one."""
    repository, _, revision = name.partition("@")
    return repository, revision or None


def canonical_model_name(name: str) -> str:
    """The name that `name` stands for today, at the same revision."""
    repository, at, revision = name.partition("@")
    return f"{_ALIASES.get(repository, repository)}{at}{revision}"


def model_key(name: str) -> str:
    """The subject token of a model."""
    return key_of_name(name)
