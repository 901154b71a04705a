"""Models from the hub, into its usual cache on disk (`HF_HOME`)."""

from __future__ import annotations

import glob
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from huggingface_hub import get_cached_repo_tree, snapshot_download
from huggingface_hub.errors import CachedRepoTreeNotFoundError, EntryNotFoundError

from sd_common.model_names import split_revision
from sd_worker.engine.models.default_parameters import DEFAULTS_FILE
from sd_worker.engine.models.hub_blobs import HubFile, download_blob
from sd_worker.engine.models.model_directory import INDEX_FILE, sizes_below
from sd_worker.engine.reports import LoadProgress

#: Files from this size on, and all weights, are downloaded one after another, with progress, and resumed.
_LARGE_BYTES = 2**20

#: Progress is told at most this often.
TOLD_EVERY_S = 0.25


@dataclass(frozen=True)
class HubModel:
    """A repository at one commit.

    `directory` is its snapshot in the cache, where its index lies, and its default parameters where it has some.
    `sizes` has the bytes of every file of the repository, downloaded or not.
    """

    repository: str
    commit: str
    directory: Path
    sizes: Mapping[str, int]


def find_on_hub(name: str, token: str | None) -> HubModel:
    """The model called `owner/name` or `owner/name@revision`, of which little is downloaded yet.

    Where the hub cannot be asked, what it said the last time counts. Raises the hub's errors.
    """
    repository, revision = split_revision(name)
    patterns = [INDEX_FILE, DEFAULTS_FILE]
    directory = Path(snapshot_download(repository, revision=revision, allow_patterns=patterns, token=token))
    if not (directory / INDEX_FILE).is_file():
        raise EntryNotFoundError(f"{repository} has no {INDEX_FILE}")
    commit = directory.name
    try:
        files = get_cached_repo_tree(repository, revision=commit)
    except CachedRepoTreeNotFoundError:  # another program filled the cache, and the hub cannot be asked
        return HubModel(repository, commit, directory, sizes_below(directory))
    return HubModel(repository, commit, directory, {file.path: file.size for file in files})


def download(
    model: HubModel, paths: Collection[str], token: str | None, on_progress: Callable[[LoadProgress], None]
) -> None:
    """Bring `paths` into the model's snapshot, those that are not there yet; tells nothing where all are.

    What was begun before is gone on with. Raises the hub's errors, and what `on_progress` raises.
    """
    missing = [path for path in paths if not (model.directory / path).is_file()]
    if not missing:
        return
    total = sum(model.sizes[path] for path in paths)
    present = total - sum(model.sizes[path] for path in missing)
    tell = _rate_limited(on_progress, total)
    on_progress(LoadProgress("downloading", present, total))
    for path in missing:
        if path.endswith(".safetensors") or model.sizes[path] >= _LARGE_BYTES:
            file = HubFile(model.repository, model.commit, path, model.directory.parents[1])
            download_blob(file, token, partial(tell, present))
            present += model.sizes[path]
    # The small ones; and the large ones, which are in the cache by now, get their names in the snapshot.
    snapshot_download(
        model.repository, revision=model.commit, allow_patterns=[glob.escape(path) for path in paths], token=token
    )
    on_progress(LoadProgress("downloading", total, total))


def _rate_limited(on_progress: Callable[[LoadProgress], None], total: int) -> Callable[[int, int], None]:
    told_at = time.monotonic()

    def tell(before: int, num_bytes: int) -> None:
        """`num_bytes` of a file are there, and `before` of others."""
        nonlocal told_at
        if time.monotonic() - told_at >= TOLD_EVERY_S:
            told_at = time.monotonic()
            on_progress(LoadProgress("downloading", before + num_bytes, total))

    return tell
