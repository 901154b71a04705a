"""Install what an image installs, as its Dockerfile does: `python -m supply_chain.image_install auth gateway`.

The stage `build` runs here, step by step, in a directory of its own: no Docker is needed, but uv and the package index.
Printed is how large what it installs is; the base image comes on top. Then all that the service imports must be there.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from supply_chain.dockerfiles import ROOT, build_stage
from supply_chain.image_packages import SERVICES

#: Bytes that the packages of an image may have together. The worker's has torch.
MAX_BYTES = {"auth": 250_000_000, "gateway": 250_000_000}


def install(service: str, directory: Path, arguments: dict[str, str]) -> Path:
    """Run the stage `build` of the service's Dockerfile with `directory` as its root, `arguments` in place of the
    defaults of ARG; return where the packages are. Raises `CalledProcessError`."""
    packages = directory / "opt" / "venv"
    environment = {name: value for name, value in os.environ.items() if name not in ("UV_PYTHON", "PYTHONPATH")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    work = directory
    for instruction in build_stage(service):
        match instruction.name:
            case "ENV" | "ARG":
                defaults = dict(word.split("=", 1) for word in instruction.words())
                environment |= defaults | {name: arguments[name] for name in defaults.keys() & arguments.keys()}
                environment["VIRTUAL_ENV"] = str(packages)
            case "WORKDIR":
                work = directory / instruction.rest.lstrip("/")
                work.mkdir(parents=True)
            case "COPY":
                if "--from=" not in instruction.rest:
                    _copy(instruction.words(), work)
            case "RUN":
                command = re.sub(r"--mount=\S+\s*", "", instruction.rest)
                subprocess.run(["sh", "-ec", command], cwd=work, env=environment, check=True)  # noqa: S603, S607
            case name:
                raise NotImplementedError(f"{name} in the build stage of {service}: teach it here")
    return packages


def _copy(words: Sequence[str], work: Path) -> None:
    """As COPY: files into the directory, and of a directory what is in it."""
    *sources, target = words
    for source in sources:
        path = ROOT / source
        if path.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", ".env")  # as .dockerignore
            shutil.copytree(path, work / target, dirs_exist_ok=True, ignore=ignored)
        else:
            (work / target).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, work / target)


def _check_imports(service: str, packages: Path) -> None:
    """Whether what the image runs finds all that it imports there. Raises `CalledProcessError`."""
    modules = [f"sd_{service}.__main__", "sd_common.provision"]
    command = [str(packages / "bin" / "python"), "-I", "-c", f"import {', '.join(modules)}"]
    subprocess.run(command, check=True)  # noqa: S603


def size(directory: Path) -> int:
    """Bytes of all files below it."""
    return sum(path.lstat().st_size for path in directory.rglob("*") if path.is_file())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="supply_chain.image_install", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("services", nargs="+", choices=SERVICES, help="whose images")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE", help="as docker build's")
    given = parser.parse_args(arguments)
    build_arguments = dict(each.split("=", 1) for each in given.build_arg)
    is_too_large = False
    for service in given.services:
        with tempfile.TemporaryDirectory() as directory:
            packages = install(service, Path(directory), build_arguments)
            num_bytes = size(packages)
            _check_imports(service, packages)
        print(f"{service}: {num_bytes / 1e6:.0f} MB of packages")
        if num_bytes > (most := MAX_BYTES.get(service, num_bytes)):
            print(f"{service}: more than the {most / 1e6:.0f} MB that they may have: look what was added")
            is_too_large = True
    return int(is_too_large)


if __name__ == "__main__":
    sys.exit(main())
