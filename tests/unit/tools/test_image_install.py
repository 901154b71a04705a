"""What is said of packages that are larger than they may be."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from supply_chain import image_install
from supply_chain.image_install import MAX_BYTES, main


@pytest.mark.parametrize("num_more", [0, 1])
def test_packages_that_are_too_large_are_told_with_what_they_may_have(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], num_more: int
) -> None:
    """In place of an installation, which needs the package index: a Python that has all, and a hole in a file."""

    def install(service: str, directory: Path, _arguments: dict[str, str]) -> Path:
        python = directory / "bin" / "python"
        python.parent.mkdir()
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        python.chmod(0o700)
        with (directory / "large").open("wb") as file:
            os.truncate(file.fileno(), MAX_BYTES[service] - python.stat().st_size + num_more)
        return directory

    monkeypatch.setattr(image_install, "install", install)
    assert main(["auth"]) == num_more
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "auth: 250 MB of packages"
    assert told[1:] == ["auth: more than the 250 MB that they may have: look what was added"] * num_more
