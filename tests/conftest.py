"""Fixtures of all tests, and which of them one process of pytest-xdist runs together."""

import os

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from support.fuzzing import SHORT

# Tests run beside each other: threads of torch that wait for each other in turns made a second of work take a minute.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# `make fuzz` names another on its command line, which is read after this.
settings.load_profile(SHORT)

pytest_plugins = ["support.fixtures"]

#: What shares servers and workers, which take seconds to start, and memory. The first that fits counts.
_GROUPS = {
    "tests/chaos/test_nats_cluster.py": "chaos, in a cluster",
    "tests/chaos/test_verdict.py": "verdict",
    "tests/chaos/": "chaos",
    "tests/e2e/": "e2e",
    "tests/fuzz/": "fuzz",
}


class _GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    def _split_scope(self, nodeid: str) -> str:
        return next((group for path, group in _GROUPS.items() if nodeid.startswith(path)), nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Not `xdist_group`: xdist 3.8 appends the group to the test's id, which pytest 9.2 does not let it."""
    return _GroupScheduling(config, log)
