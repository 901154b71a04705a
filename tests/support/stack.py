"""The running service, as its users start it: processes with settings in their environment."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from sd_embedded.child_process import ChildProcess
from support import tiny_pipelines

REPOSITORY = Path(__file__).parents[2]
_READY_WITHIN_S = 90.0
_ENDS_WITHIN_S = 60.0
#: All tests come from one address, and often from one user.
NO_RATES = dict.fromkeys(("SIGN_UP_RATE", "LOG_IN_RATE", "PUBLIC_TOKEN_RATE", "NAME_RATE", "REQUEST_RATE"), "off")
_LINK = re.compile(r"Try visiting (http://\S+)")
_READY = re.compile(r"Ready in \S+ s at (http://\S+) ")


def make_model_dir(directory: Path) -> Path:
    """A MODEL_DIR with the bundled model, and tiny ones with random weights."""
    directory.mkdir(parents=True)
    shutil.copytree(REPOSITORY / "models" / "shapes", directory / "shapes")
    tiny_pipelines.save_sd1(directory / "tiny")
    tiny_pipelines.save_sd1(directory / "tiny-flagging", safety_checker="flags all")
    tiny_pipelines.save_sd1_inpainting(directory / "tiny-inpainting")
    tiny_pipelines.save_sd2(directory / "tiny-sd2")
    tiny_pipelines.save_sdxl(directory / "tiny-sdxl")
    return directory


class Service:
    """One process of the service: `python -m <module>`, itself run by `runner`, a command that becomes it."""

    def __init__(self, module: str, directory: Path, env: Mapping[str, str], runner: Sequence[str] = ()) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self._log_file = directory / f"{module}.log"
        self._old_log_bytes = self._log_file.stat().st_size if self._log_file.exists() else 0
        self.process = ChildProcess(
            [*runner, sys.executable, "-m", module],
            self._log_file,
            cwd=directory,
            env={"LOG_LEVEL": "INFO", **NO_RATES, **env},
        )

    @property
    def log(self) -> str:
        """All that it wrote, its predecessors in the same directory included."""
        return self._log_file.read_text(errors="replace")

    @property
    def new_log(self) -> str:
        """All that this very process wrote."""
        return self._log_file.read_bytes()[self._old_log_bytes :].decode(errors="replace")

    def wait_for_log(self, text: str, timeout_s: float = _READY_WITHIN_S) -> None:
        """Return when it has written `text`."""
        self.process.wait_until(lambda: text in self.new_log, timeout_s)


class EmbeddedStack(Service):
    """`python -m sd_embedded`, on a free port."""

    def __init__(
        self, directory: Path, model_dir: Path, env: Mapping[str, str] | None = None, runner: Sequence[str] = ()
    ) -> None:
        defaults = {"PORT": "0", "MODEL_DIR": str(model_dir), "DATA_DIR": str(directory / "data")}
        super().__init__("sd_embedded", directory, {**defaults, **(env or {})}, runner)

    def wait_until_ready(self) -> None:
        self.process.wait_until(lambda: _LINK.search(self.new_log) is not None, _READY_WITHIN_S)

    @property
    def base_url(self) -> str:
        match = _READY.search(self.new_log)
        assert match is not None
        return match[1]

    @property
    def link(self) -> str:
        """The link that it printed."""
        match = _LINK.search(self.new_log)
        assert match is not None
        return match[1]


@contextmanager
def running_stack(directory: Path, model_dir: Path, env: Mapping[str, str] | None = None) -> Iterator[EmbeddedStack]:
    """One that is ready, and is ended in order."""
    stack = EmbeddedStack(directory, model_dir, env)
    try:
        stack.wait_until_ready()
        yield stack
        assert stack.process.terminate(_ENDS_WITHIN_S) == 0, stack.log
    finally:
        stack.process.kill()
