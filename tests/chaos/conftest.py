"""One fleet for the tests that disturb it, one after another: its workers take seconds to start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.fleet import Fleet, running_fleet
from support.stack import make_model_dir


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_dir(tmp_path_factory.mktemp("chaos") / "models")


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Iterator[Fleet]:
    """Undisturbed when a test gets it, and to be left so."""
    with running_fleet(tmp_path_factory.mktemp("fleet"), model_dir) as fleet:
        yield fleet
