"""Which models tasks may name, where the operator does not allow all (`ALLOWED_MODELS`)."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from sd_common.errors import ModelNotAllowed
from sd_common.model_names import canonical_model_name, split_revision


def is_model_allowed(name: str, patterns: Sequence[str]) -> bool:
    """Whether one of `patterns` matches; without any, all models are allowed.

    A pattern without a revision allows the newest alone: a revision can be a commit that a stranger proposed.
    """
    return not patterns or any(_matches(name, pattern) for pattern in patterns)


def check_model_allowed(name: str, patterns: Sequence[str]) -> None:
    """Raises `ModelNotAllowed`, which tells what is."""
    if not is_model_allowed(name, patterns):
        raise ModelNotAllowed(name, patterns)


def exact_names(patterns: Sequence[str]) -> list[str]:
    """The patterns that stand for one model each, as its name."""
    return [canonical_model_name(pattern) for pattern in patterns if not any(char in pattern for char in "*?[")]


def _matches(name: str, pattern: str) -> bool:
    repository, revision = split_revision(name)
    repository_pattern, revision_pattern = split_revision(canonical_model_name(pattern))
    return fnmatchcase(repository, repository_pattern) and fnmatchcase(revision or "", revision_pattern or "")
