"""One large file from the hub into its cache, in as many attempts as it takes.

huggingface_hub itself throws away what an attempt brought that did not come to its end: it takes the locks of the cache
for unreliable, and so begins a file of its own each time. Here the attempts share one, and what they wrote is checked
against the file's hash before it counts.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import get_hf_file_metadata, hf_hub_url
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import WeakFileLock, build_hf_headers  # type: ignore[attr-defined] # exported at run time

from sd_worker.engine.errors import DownloadDamaged

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

#: An entity tag that is a hash of the content: SHA-1, as git has it, or SHA-256 for files in its large file storage.
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")

#: How often the progress of another process is looked at, which downloads the same file.
_LOOK_EVERY_S = 0.25


@dataclass(frozen=True)
class HubFile:
    """A file of a repository at a commit; `storage` is the repository's directory in the cache."""

    repository: str
    commit: str
    path: str
    storage: Path


def download_blob(file: HubFile, token: str | None, on_bytes: Callable[[int], None]) -> None:
    """Bring the content of `file` into the cache, where `snapshot_download` finds it.

    `on_bytes` is told how many bytes are there; what it raises ends the attempt, and propagates. Goes through plain
    HTTP, which resumes anywhere; hf_xet begins again. Raises the hub's errors, `DownloadDamaged`, and `OSError` where
    the disk is too small.
    """
    url = hf_hub_url(file.repository, file.path, revision=file.commit)
    metadata = get_hf_file_metadata(url, token=token)
    tag, size = metadata.etag, metadata.size
    if tag is None or size is None or not _HASH.fullmatch(tag):
        return  # a mirror that tells no hash: left to `snapshot_download`
    blob = file.storage / "blobs" / tag
    partial = blob.with_name(f"{tag}.incomplete")
    lock = file.storage.parent / ".locks" / file.storage.name / f"{tag}.lock"
    for directory in (blob.parent, lock.parent):
        directory.mkdir(parents=True, exist_ok=True)
    with _locked(lock, lambda: on_bytes(_size_of(partial))):
        if not blob.exists():
            if _size_of(partial) > size:
                partial.unlink()
            _check_disk(blob.parent, size - _size_of(partial))
            headers = {**build_hf_headers(token=token), "Accept-Encoding": "identity"}
            with _PartialFile(partial, on_bytes) as content:
                http_get(url, content, resume_size=content.tell(), headers=headers, expected_size=size)
            if not _has_hash(partial, tag):
                partial.unlink()
                raise DownloadDamaged(f"{file.path} of {file.repository} is not what the hub says it is")
            partial.replace(blob)
    on_bytes(size)


class _PartialFile(io.BufferedWriter):
    """Is appended to, and tells how long it is."""

    def __init__(self, path: Path, on_bytes: Callable[[int], None]) -> None:
        super().__init__(io.FileIO(path, "a"))
        self._on_bytes = on_bytes

    def write(self, content: ReadableBuffer, /) -> int:
        num_bytes = super().write(content)
        self._on_bytes(self.tell())
        return num_bytes


@contextmanager
def _locked(lock: Path, while_waiting: Callable[[], None]) -> Iterator[None]:
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(WeakFileLock(lock, timeout=_LOOK_EVERY_S))
                break
            except TimeoutError:
                while_waiting()
        yield


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _check_disk(directory: Path, num_bytes: int) -> None:
    """Better no file at all than a full disk, which other models need too."""
    if shutil.disk_usage(directory).free < num_bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _has_hash(path: Path, tag: str) -> bool:
    with path.open("rb") as content:
        if len(tag) == 64:
            return hashlib.file_digest(content, "sha256").hexdigest() == tag
        header = f"blob {_size_of(path)}\0".encode()
        digest = hashlib.file_digest(content, lambda: hashlib.sha1(header, usedforsecurity=False))
        return digest.hexdigest() == tag
