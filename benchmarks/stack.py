"""The embedded service as a process of its own, for one benchmark."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from sys import executable

from sd_embedded.child_process import ChildProcess

_READY = re.compile(r"Ready in (\S+) s at (http://\S+) ")
#: All load comes from one user.
_UNLIMITED = {"REQUEST_RATE": "off", "MAX_UNFINISHED_TASKS_PER_USER": "0", "MAX_CONNECTIONS_PER_ADDRESS": "100000"}


@contextlib.contextmanager
def embedded_stack(env: Mapping[str, str], log_file: Path | None = None) -> Iterator[str]:
    """Its base URL. Its data is thrown away, and its log where no file is given for it."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        log_file = log_file or Path(directory) / "log"
        settings = {"PORT": "0", "DATA_DIR": f"{directory}/data", "LOG_LEVEL": "WARNING", **_UNLIMITED, **env}
        process = ChildProcess([executable, "-m", "sd_embedded"], log_file, env=settings)
        try:
            process.wait_until(lambda: _READY.search(log_file.read_text()) is not None, 120)
            match = _READY.search(log_file.read_text())
            assert match is not None
            yield match[2]
        finally:
            process.terminate(timeout_s=60)
