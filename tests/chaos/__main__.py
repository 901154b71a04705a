"""The long form: `make chaos`. Prints its figures; exits with 1 where a promise was broken."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

from chaos.fleet import running_fleet
from chaos.report import print_outcome
from chaos.run import run_chaos
from support.stack import make_model_dir

_DEFAULT_SECONDS = 600.0


def main() -> int:
    seed = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(1_000_000))
    seconds = float(os.environ.get("CHAOS_SECONDS") or _DEFAULT_SECONDS)
    print(f"CHAOS_SEED={seed} CHAOS_SECONDS={seconds:g}", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="sd-chaos-"))
    with running_fleet(directory, make_model_dir(directory / "models")) as fleet:
        outcome = asyncio.run(run_chaos(fleet, seed, seconds))
    print_outcome(outcome)
    if outcome.broken_promises:
        print(f"The logs of all processes are below {directory}")
        return 1
    shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
