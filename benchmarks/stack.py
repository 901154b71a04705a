"""The embedded service as a process of its own, for one benchmark."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from support.stack import REPOSITORY, EmbeddedStack, running_stack

#: All load comes from one user, at one address.
_UNLIMITED = {"MAX_UNFINISHED_TASKS_PER_USER": "0", "MAX_CONNECTIONS_PER_ADDRESS": "100000"}


@contextlib.contextmanager
def embedded_stack(env: Mapping[str, str]) -> Iterator[EmbeddedStack]:
    """One that is ready. Its data and its log are thrown away."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        settings = {"LOG_LEVEL": "WARNING", **_UNLIMITED, **env}
        with running_stack(Path(directory), REPOSITORY / "models", settings) as stack:
            yield stack
