"""What libraries of the engine read when they are imported: it must be set before."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_PROGRAM = """
import os, sys
from sd_worker.__main__ import let_waiting_threads_sleep
assert "torch" not in sys.modules
let_waiting_threads_sleep()
print(os.environ.get("GOMP_SPINCOUNT"))
"""


@pytest.mark.parametrize(
    ("given", "spin_count"), [({}, "5000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")]
)
def test_threads_that_compute_wait_for_each_other_for_as_long_as_is_set(given: dict[str, str], spin_count: str) -> None:
    others = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    program = [sys.executable, "-c", _PROGRAM]
    ran = subprocess.run(program, env={**others, **given}, capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.strip() == spin_count
