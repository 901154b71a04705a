"""`docs/operations.md`, whose commands tests run as they stand there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from support.stack import REPOSITORY

PAGE = REPOSITORY / "docs" / "operations.md"
_TIMEOUT_S = 120


def section(title: str) -> str:
    """What stands below a heading, to the next one of any level."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    [first] = [number for number, line in enumerate(lines) if line.lstrip("#") == f" {title}" and line.startswith("#")]
    below: list[str] = []
    is_code = False
    for line in lines[first + 1 :]:
        is_code ^= line.startswith("```")
        if line.startswith("#") and not is_code:
            break
        below.append(line)
    return "\n".join(below)


def commands(title: str, number: int = 0) -> str:
    """The shell block below a heading; of several, that with this number."""
    return section(title).split("```sh\n")[number + 1].partition("```")[0]


def run_commands(script: str, cwd: Path, env: Mapping[str, str]) -> str:
    """Run what the page says in `cwd`, with the programs of this environment, and return what it printed. Raises
    `AssertionError` with that where a command fails."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=cwd,
        env={**os.environ, "HOME": str(cwd), **env, "PATH": path},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout
