"""The models that lie below MODEL_DIR, found by their names."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic_core import PydanticCustomError

from sd_common.model_names import canonical_model_name, check_model_name, split_revision
from sd_worker.engine.errors import ModelUnavailable

INDEX_FILE = "model_index.json"


@dataclass(frozen=True)
class LocalModel:
    """A model's name and its directory."""

    name: str
    directory: Path

    def config_of(self, component: str) -> dict[str, object]:
        """The configuration of a component, empty where there is none."""
        file = self.directory / component / "config.json"
        return read_json(file) if file.is_file() else {}


class ModelDirectory:
    """`name` is a directory of `root`; `owner/name` is `root/owner/name` where that exists, else it is on the hub.

    A directory has no revisions: `owner/name@revision` is on the hub.
    """

    def __init__(self, root: Path | None) -> None:
        self._root = None if root is None else root.resolve()

    def find(self, name: str) -> LocalModel | None:
        """The model; None: on the hub. Raises `ModelUnavailable` with a sentence for the client."""
        if split_revision(name)[1] is not None:
            return None
        is_repository_id = "/" in name
        directory = None if self._root is None else self._root / name
        if directory is None or not directory.is_dir():
            if is_repository_id:
                return None
            raise ModelUnavailable(
                f"Model '{name}' is not a directory below MODEL_DIR: check the name, "
                "or name a repository on the hub as 'owner/name'"
            )
        # After symbolic links: a name must not lead to files that the operator did not put there.
        resolved = directory.resolve()
        if self._root not in resolved.parents:
            raise ModelUnavailable(f"Model '{name}' leads out of MODEL_DIR: it must lie in it, not be linked into it")
        if not (resolved / INDEX_FILE).is_file():
            raise ModelUnavailable(
                f"Model '{name}' has no {INDEX_FILE} in its directory below MODEL_DIR: "
                "it must be in the layout of diffusers"
            )
        return LocalModel(name, resolved)

    def names(self) -> Iterator[str]:
        """What lies where a model would: each may be found, or refused."""
        if self._root is None:
            return
        for index in sorted([*self._root.glob(f"*/{INDEX_FILE}"), *self._root.glob(f"*/*/{INDEX_FILE}")]):
            name = index.parent.relative_to(self._root).as_posix()
            if _is_model_name(name):
                yield name


def read_json(file: Path) -> dict[str, object]:
    """The object that a file holds. Raises `ValueError` where it holds something else."""
    content = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{file.name} holds no JSON object")
    return content


def sizes_below(directory: Path) -> Mapping[str, int]:
    """The bytes of every file below `directory`, by its path there."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {file.relative_to(directory).as_posix(): file.stat().st_size for file in files}


def _is_model_name(name: str) -> bool:
    """Whether tasks can name it: an alias is taken for what it stands for, a revision for one on the hub."""
    try:
        return canonical_model_name(check_model_name(name)) == name and split_revision(name)[1] is None
    except PydanticCustomError:
        return False
