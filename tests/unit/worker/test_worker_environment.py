"""What libraries of the engine read when they are imported: it must be set before."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_PROGRAM = """
import os, sys
import {module}
from sd_worker.create_engine import prepare_environment
assert "torch" not in sys.modules
prepare_environment()
print(os.environ["GOMP_SPINCOUNT"])
"""


@pytest.mark.parametrize("module", ["sd_worker.__main__", "sd_embedded.__main__"])
@pytest.mark.parametrize(("given", "spin_count"), [({}, "5000"), ({"GOMP_SPINCOUNT": "7"}, "7")])
def test_threads_that_compute_wait_for_each_other_for_as_long_as_is_set(
    module: str, given: dict[str, str], spin_count: str
) -> None:
    others = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    program = [sys.executable, "-c", _PROGRAM.format(module=module)]
    ran = subprocess.run(program, env={**others, **given}, capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.strip() == spin_count
