"""One fleet for the tests that disturb it, one after another: its workers take seconds to start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.fleet import Fleet, running_fleet
from support.stack import make_model_dir


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One process of pytest-xdist runs all that share the fleet; a file with a fleet of its own names another group."""
    for item in items:
        if "chaos" in item.path.parts and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group("chaos"))


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_dir(tmp_path_factory.mktemp("chaos") / "models")


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Iterator[Fleet]:
    """Undisturbed when a test gets it, and to be left so."""
    with running_fleet(tmp_path_factory.mktemp("fleet"), model_dir) as fleet:
        yield fleet
