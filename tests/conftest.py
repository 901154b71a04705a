"""Fixtures of all tests."""

import os

# Tests run beside each other: threads of torch that wait for each other in turns made a second of work take a minute.
os.environ.setdefault("OMP_NUM_THREADS", "1")

pytest_plugins = ["support.fixtures"]
