"""Child processes: ready when they say so, gone when this process is."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_LOG_TAIL_CHARS = 4000
_POLL_S = 0.01
#: Has the kernel kill the program when the thread that started it is gone, then becomes the program. So nothing is left
#: behind when this process is killed. (`preexec_fn` would fork a process that has threads.)
_DIE_WITH_PARENT = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); "
    "os.getppid() == int(sys.argv[1]) or sys.exit(1); os.execv(sys.argv[2], sys.argv[2:])"
)


class ProcessNotReady(Exception):
    """The process ended or did not get ready in time. The message ends with its log."""


class ChildProcess:
    """A program that runs until it is stopped, with its output in a file.

    Start it from the main thread: on Linux it dies with the thread that started it.
    """

    def __init__(
        self, argv: Sequence[str], log_file: Path, *, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        self._name = Path(argv[0]).name
        self._log_file = log_file
        command = list(argv)
        if sys.platform == "linux":
            command = [sys.executable, "-ISc", _DIE_WITH_PARENT, str(os.getpid()), *argv]
        with log_file.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - programs of ours
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=cwd,
                env={**os.environ, **(env or {})},
                start_new_session=True,  # Ctrl-C is ours: children are stopped in order
            )

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    @property
    def log(self) -> str:
        """The end of what it wrote."""
        return self._log_file.read_text(errors="replace")[-_LOG_TAIL_CHARS:]

    def wait_until(self, is_ready: Callable[[], bool], timeout_s: float) -> None:
        """Return when it is ready; else stop it and raise `ProcessNotReady` with its log."""
        deadline = time.monotonic() + timeout_s
        while not is_ready():
            if not self.is_running or time.monotonic() > deadline:
                problem = f"was not ready within {timeout_s:g} s" if self.is_running else "ended"
                self.kill()
                raise ProcessNotReady(f"{self._name} {problem}:\n{self.log}")
            time.sleep(_POLL_S)

    def wait(self, timeout_s: float) -> int:
        """Return its exit code once it has ended. Raises `subprocess.TimeoutExpired`."""
        return self._process.wait(timeout_s)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once (SIGKILL)."""
        self._process.kill()
        self._process.wait()

    def terminate(self, timeout_s: float = 10.0) -> int:
        """Ask it to end (SIGTERM), kill it where it does not, and return its exit code."""
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout_s)
        self.kill()
        return self._process.returncode


def installed(program: str) -> str:
    """The path of a program that a package of this environment installed."""
    path = Path(sys.executable).with_name(program)
    if not path.exists():
        raise FileNotFoundError(f"{path}: `make setup` installs it")
    return str(path)
